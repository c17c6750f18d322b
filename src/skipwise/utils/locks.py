"""Locks between processes."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold `path` as a lock between processes; the system frees it when its holder dies.

    Yields False, with nothing held, where another process has it and `wait` is off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def clear_partials(folder: Path) -> None:
    """Remove the temporary folders that killed processes left beside `folder`, whose lock the caller holds."""
    for partial in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(partial, ignore_errors=True)
