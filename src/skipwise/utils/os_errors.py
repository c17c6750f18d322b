"""Errors of the operating system as one line that names the path which the user gave."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from skipwise.errors import SkipwiseError

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REMEDIES = {
    errno.EROFS: "give a place that can be written",
    errno.EACCES: "give a place that you have access to",
    errno.EPERM: "give a place that you have access to",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EISDIR: "give the name of a file",
    errno.ENOTDIR: "give another place",
    errno.EEXIST: "give another place",
    errno.ENOENT: "give another place",
}


class PathError(SkipwiseError, OSError):
    """The operating system refused a path. `str` of it is the whole line for the user.

    It is an `OSError` too, so `errno`, `strerror` and `filename` (the path that the user gave) can be read.
    """

    def __init__(self, message: str, error: OSError, path: Path | str) -> None:
        super().__init__(message)
        self.message = message
        self.errno, self.strerror, self.filename = error.errno, error.strerror, str(path)

    def __str__(self) -> str:
        return self.message


def path_error(error: OSError, path: Path | str, action: str = "write") -> PathError:
    """Describe an error of the operating system.

    Args:
        error: What the system raised. Its own file name, which may be a temporary one, is not shown.
        path: The file or folder as the user gave it.
        action: What was tried, a verb that fits before the path.

    Returns:
        An exception that says what failed, on which path, why, and what to do.
    """
    reason = error.strerror or str(error) or type(error).__name__
    remedy = REMEDIES.get(error.errno or 0)
    blocking = _file_on_the_way(Path(path)) if error.errno in (errno.ENOTDIR, errno.EEXIST) else None
    if error.errno in DISK_FULL:
        reason, remedy = f"the disk is full ({reason})", "make room, or give another place"
    elif blocking is not None:
        reason = f"{blocking} is a file, not a folder"
    return PathError(f"cannot {action} {path}: {reason}" + (f"; {remedy}" if remedy else ""), error, path)


@contextlib.contextmanager
def writing(path: Path | str, *, temporary: Path | None = None) -> Iterator[None]:
    """Turn errors of the operating system in the block into a `PathError` about `path`.

    Args:
        path: What the user asked to have written.
        temporary: The hidden file or folder that becomes `path`. If given, errors that name a path outside it pass
            through unchanged, because they are about another file.

    Raises:
        PathError: The block raised an OSError, or what safetensors or torch raise on a full disk.
    """
    try:
        yield
    except Exception as error:
        name = getattr(error, "filename", None)
        if temporary is not None and isinstance(name, str) and not Path(name).is_relative_to(temporary):
            raise
        if isinstance(error, OSError) and error.errno is not None:
            raise path_error(error, path) from error
        if isinstance(error, SkipwiseError) or not is_disk_full(error):
            raise
        raise path_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), path) from error


def check_writable(path: Path) -> None:
    """Refuse a path at which nothing can be written, before the work whose result would go there.

    Args:
        path: A file or folder that need not exist.

    Raises:
        SkipwiseError: A part of the path is a file, or the user may not write there.
    """
    whole = path.absolute()
    existing = next(part for part in (whole, *whole.parents) if os.path.lexists(part))
    if existing != whole and not existing.is_dir():
        raise SkipwiseError(f"cannot write {path}: {existing} is not a folder; give another place")
    if not os.access(existing, os.W_OK):
        raise SkipwiseError(f"cannot write {path}: no permission to write to {existing}; give another place")


def is_disk_full(error: BaseException) -> bool:
    """Tell whether a write failed because the disk is full, in Python, NumPy, safetensors or torch."""
    text = str(error)
    codes = {getattr(error, "errno", None), *(int(code) for code in re.findall(r"os error (\d+)", text))}
    by_torch = ("PytorchStreamWriter failed", ". unexpected pos", "basic_ios::clear")  # it drops the error's number
    by_numpy = re.fullmatch(r"\d+ requested and \d+ written", text)  # so does `tofile`
    return bool(codes & DISK_FULL or by_numpy) or any(sign in text for sign in ("No space left", *by_torch))


def user_path(path: str) -> Path:
    """Resolve `~` in a path that a user gave. Raises SkipwiseError for the home of a user who does not exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise SkipwiseError(f"{path}: this machine has no such user; write the folder's whole path") from error


def _file_on_the_way(path: Path) -> Path | None:
    """The first part of `path` that exists but is not a folder."""
    return next((part for part in reversed([path, *path.parents]) if os.path.lexists(part) and not part.is_dir()), None)
