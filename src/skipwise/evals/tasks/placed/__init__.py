"""Short multiple-choice questions at the start, in the middle and at the end of long filler."""

from skipwise.evals.tasks.placed.task import TASK

__all__ = ["TASK"]
