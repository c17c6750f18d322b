"""Locks between processes, for POSIX systems."""

import contextlib
import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

from skipwise.utils.atomic_files import temporary_prefix
from skipwise.utils.os_errors import path_error


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the file `path` as a lock between processes. The system frees it when its holder dies.

    Args:
        path: The lock file, made if it does not exist.
        wait: Wait while another process holds it.

    Yields:
        False, with nothing held, if another process holds it and `wait` is off.

    Raises:
        PathError: The folder of the lock cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    except OSError as error:
        raise path_error(error, path.parent, "write to") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def clear_partials(folder: Path) -> None:
    """Remove the temporary folders that killed processes left beside `folder`, whose lock the caller holds."""
    for partial in folder.parent.glob(f"{temporary_prefix(folder)}*"):
        shutil.rmtree(partial, ignore_errors=True)
