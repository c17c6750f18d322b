"""BABILong: reasoning over facts that are scattered in a long text."""

from skipwise.evals.tasks.babilong.task import TASK

__all__ = ["TASK"]
