"""Multi-round coreference: give the k-th of several answers to the same request again."""

from skipwise.evals.tasks.mrcr.task import TASK

__all__ = ["TASK"]
