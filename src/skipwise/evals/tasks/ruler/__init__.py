"""RULER's thirteen tasks (arXiv 2404.06654)."""

from skipwise.evals.tasks.ruler.task import TASK

__all__ = ["TASK"]
