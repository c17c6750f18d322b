"""Short benchmarks through lm-eval."""
