"""RoPE scaling methods, what a configuration carries, and scaled configurations. No weights."""
