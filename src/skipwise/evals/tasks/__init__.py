"""The evaluation tasks: one file or package each, named after the task, with a `TASK`."""

import importlib

from skipwise.evals.task import CustomTask, Task


def task(name: str) -> Task | CustomTask:
    """The task of that name, one of `config.task_names.task_names()`."""
    declared: Task | CustomTask = importlib.import_module(f"{__name__}.{name}").TASK
    assert declared.name == name, f"the task in {name} calls itself {declared.name!r}"
    return declared
