"""The evaluation tasks by name, from the folder that holds them.

A task is one file or package in `evals/tasks/`. Its name is that of the file, so a configuration can be checked without
importing a task, and with it torch.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

FOLDER = Path(__file__).parent.parent / "evals" / "tasks"


READS_DOCUMENTS = frozenset({"perplexity", "longppl"})
"""Tasks that read the documents of `evaluation.data`, or held-out text."""


def task_names() -> tuple[str, ...]:
    """Names of all tasks, in alphabetical order."""
    files = {path.stem for path in FOLDER.glob("*.py")}
    packages = {path.parent.name for path in FOLDER.glob("*/__init__.py")}
    return tuple(sorted(name for name in files | packages if not name.startswith("_")))


if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[task_names()]
