"""Files that are never half-written: text and folders appear under their name whole, or not at all.

Every function names the path that the caller gave in its errors, never the temporary one (see `os_errors`).
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipwise.errors import SkipwiseError
from skipwise.utils.os_errors import path_error, writing

LONGEST_NAME = 200
"""Bytes of a name that its temporary name repeats: file systems take 255."""


def fsync_tree(folder: Path) -> None:
    """Flush every file below `folder`, and the folders themselves, to the disk."""
    for path in [folder, *folder.rglob("*")]:
        _fsync(path)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def temporary_prefix(path: Path) -> str:
    """The beginning of the temporary names that stand for `path`, hidden and beside it."""
    return f".{os.fsdecode(os.fsencode(path.name)[:LONGEST_NAME])}."


def _temporary_name(path: Path) -> Path:
    """A hidden name beside `path` that nothing else has. The tempfile module would make it private (mode 0600)."""
    return path.with_name(temporary_prefix(path) + secrets.token_hex(4))


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`. The file written there becomes `path` when the block ends.

    After an exception the temporary file is removed and `path` is as it was. The file gets the permissions that the
    user's umask leaves.

    Raises:
        PathError: It cannot be written, or an error of the operating system in the block was about it.
    """
    partial = _temporary_name(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with writing(path, temporary=partial):
            yield partial
        with writing(path):
            _fsync(partial)
            partial.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically.

    Raises:
        PathError: It cannot be written. What was there is unchanged.
    """
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path` when the block ends without an exception.

    An existing `path` is replaced. After an exception the temporary folder is removed and `path` is as it was.
    All files get the permissions that the user's umask leaves, whatever the libraries that wrote them chose.

    Raises:
        PathError: The folder cannot be written, or an error of the operating system in the block was about it.
    """
    partial = _temporary_name(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
    try:
        with writing(path, temporary=partial):
            yield partial
        with writing(path):
            _share(partial)
            fsync_tree(partial)
            if path.exists():
                old = partial.with_name(partial.name + ".old")
                path.rename(old)
                partial.rename(path)
                shutil.rmtree(old)
            else:
                partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _share(folder: Path) -> None:
    """Give everything in a folder that we made the permissions of that folder: safetensors writes files as 0600."""
    mode = folder.stat().st_mode & 0o777
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(mode if path.is_dir() else mode & 0o666)


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Append one JSON object as a line, after cutting off a line that a killed process left unfinished.

    Raises:
        PathError: The file cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")
            file.flush()


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read all whole lines of a JSONL file that we wrote. An unfinished last line is left out; a missing file is empty.

    Raises:
        PathError: The file cannot be read.
        SkipwiseError: A line is not a JSON object. The message names the line.
    """
    return [row for _, row in read_jsonl_lines(path)]


def read_jsonl_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, object) of every line that `read_jsonl` returns. The place, `FILE line N`, is for errors."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") or not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict):
                    raise SkipwiseError(
                        f"{path} line {number} is not a JSON object; give another file, or remove that line"
                    )
                yield f"{path} line {number}", row
    except FileNotFoundError:
        return
    except OSError as error:
        raise path_error(error, path, "read") from error


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    """Replace a JSONL file atomically. Raises PathError if it cannot be written."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
