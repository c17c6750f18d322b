"""Short benchmarks through lm-eval."""

from skipwise.evals.tasks.harness.task import TASK

__all__ = ["TASK"]
