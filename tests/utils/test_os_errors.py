"""What the operating system refuses becomes one line about the path that was given."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import append_jsonl, atomic_folder, read_jsonl, write_text
from skipwise.utils.locks import locked
from skipwise.utils.os_errors import PathError, is_disk_full, path_error, user_path, writing


def write_folder(path: Path) -> None:
    with atomic_folder(path) as partial:
        (partial / "x").write_text("1")


def lock(path: Path) -> None:
    with locked(path / "lock"):
        pass


WRITERS = [lambda path: write_text(path, "text"), lambda path: append_jsonl(path, {"a": 1}), write_folder]


def refusal(write: Callable[[Path], None], path: Path) -> str:
    with pytest.raises(PathError) as caught:
        write(path)
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(caught.value, SkipwiseError)
    assert caught.value.filename == str(path)
    return message


@pytest.mark.parametrize("write", [*WRITERS, lock])
def test_a_parent_that_is_a_file(write: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "book.txt").touch()
    for path in (tmp_path / "book.txt" / "out", tmp_path / "book.txt" / "deep" / "out"):
        assert f"{path}: {tmp_path / 'book.txt'} is a file, not a folder; give another place" in refusal(write, path)


@pytest.mark.parametrize("write", WRITERS)
def test_a_parent_that_cannot_be_made(write: Callable[[Path], None]) -> None:
    path = Path("/proc/skipwise/out")
    assert f"cannot write {path}: No such file or directory" in refusal(write, path)


@pytest.mark.parametrize("write", WRITERS)
def test_names_that_are_too_long(write: Callable[[Path], None], tmp_path: Path) -> None:
    assert "File name too long; give a shorter name" in refusal(write, tmp_path / ("x" * 300))
    write(tmp_path / ("é" * 120))  # 240 bytes: the file system takes it, so its temporary name must fit too
    assert [len(path.name) for path in tmp_path.iterdir()] == [120]


def test_a_temporary_name_is_never_shown(tmp_path: Path) -> None:
    def fail(code: int, name: str | None) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            with atomic_folder(path) as partial:
                raise OSError(code, os.strerror(code), None if name is None else str(partial / name))

        return write

    out = tmp_path / "out"
    for name in (None, "model.safetensors"):
        message = refusal(fail(errno.ENOSPC, name), out)
        assert (
            message
            == f"cannot write {out}: the disk is full (No space left on device); make room, or give another place"
        )
    assert refusal(fail(errno.EROFS, "x"), out).endswith("Read-only file system; give a place that can be written")
    nested = refusal(lambda path: _nested(path), out)
    assert nested.startswith(f"cannot write {out}: ")
    assert list(tmp_path.iterdir()) == []


def _nested(path: Path) -> None:
    with atomic_folder(path) as partial:
        write_text(partial / ("x" * 300), "text")


def test_an_error_about_another_file_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "out"):
        (tmp_path / "missing.txt").read_text()


class SafetensorError(Exception): ...


def test_libraries_that_hide_a_full_disk(tmp_path: Path) -> None:
    for said in ("I/O error: No space left on device (os error 28)", "File too large (os error 27)"):
        assert is_disk_full(SafetensorError(said))
        with pytest.raises(PathError, match="the disk is full") as caught, writing(tmp_path / "model"):
            raise SafetensorError(said)
        assert is_disk_full(caught.value)
    with pytest.raises(PathError, match="the disk is full"), writing(tmp_path / "model"):
        raise OSError("1572864 requested and 179072 written")  # NumPy's tofile
    assert not is_disk_full(SafetensorError("header too large (os error 2)"))
    with pytest.raises(SafetensorError), writing(tmp_path / "model"):
        raise SafetensorError("header too large")


def test_reading_a_folder_as_rows(tmp_path: Path) -> None:
    with pytest.raises(PathError, match=f"cannot read {tmp_path}: Is a directory; give the name of a file"):
        read_jsonl(tmp_path)


def test_a_path_error_is_an_error_of_the_system_too() -> None:
    error = path_error(OSError(errno.EACCES, "Permission denied", "/tmp/.out.x"), "/out")
    assert isinstance(error, OSError)
    assert (error.errno, error.strerror, error.filename) == (errno.EACCES, "Permission denied", "/out")
    assert ".out.x" not in str(error)
    assert "cannot write /out: Permission denied" in str(error)


def test_the_home_of_nobody() -> None:
    assert user_path("~/x") == Path.home() / "x"
    with pytest.raises(SkipwiseError, match="~nobody-here/x: this machine has no such user"):
        user_path("~nobody-here/x")
