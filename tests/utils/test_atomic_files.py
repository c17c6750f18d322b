"""Files appear whole or not at all."""

import os
from pathlib import Path

import pytest

from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import append_jsonl, atomic_file, atomic_folder, read_jsonl, write_jsonl, write_text


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_appears_at_the_end_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    path.write_text("old")

    def write(fail: bool) -> None:
        with atomic_file(path) as partial:
            partial.write_text("new")
            assert path.read_text() == "old"
            if fail:
                raise RuntimeError

    with pytest.raises(RuntimeError):
        write(True)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])
    write(False)
    assert (path.read_text(), list(tmp_path.iterdir())) == ("new", [path])


def test_a_folder_appears_at_the_end_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with atomic_folder(path) as partial:
        (partial / "x").write_text("1")
        assert not path.exists()
    with atomic_folder(path) as partial:
        (partial / "y").write_text("2")
        assert (path / "x").exists()
    assert [child.name for child in path.iterdir()] == ["y"]

    def fail() -> None:
        with atomic_folder(path) as partial:
            (partial / "z").write_text("3")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [child.name for child in path.iterdir()] == ["y"]
    assert list(tmp_path.iterdir()) == [path]


def test_an_unfinished_last_line_is_left_out_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert read_jsonl(path) == []
    append_jsonl(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    assert read_jsonl(path) == [{"a": 1}]
    append_jsonl(path, {"a": 3})
    assert read_jsonl(path) == [{"a": 1}, {"a": 3}]
    write_jsonl(path, [{"a": "é"}])
    assert read_jsonl(path) == [{"a": "é"}]


@pytest.mark.parametrize("line", ["no json", "[1]", '"text"'])
def test_a_file_that_holds_something_else_is_told(tmp_path: Path, line: str) -> None:
    (tmp_path / "notes.txt").write_text(f'{{"a": 1}}\n{line}\n')
    with pytest.raises(SkipwiseError, match=r"notes\.txt line 2 is not a JSON object"):
        read_jsonl(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700), (0o002, 0o664, 0o775)]
)
def test_permissions_are_those_that_the_umask_leaves(umask: int, file: int, folder: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "text")
        append_jsonl(tmp_path / "rows.jsonl", {"a": 1})
        with atomic_folder(tmp_path / "out") as partial:
            (partial / "deep").mkdir(0o700)
            (partial / "deep" / "private").write_text("as safetensors writes its files")
            (partial / "deep" / "private").chmod(0o600)
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {
        **{Path(name): file for name in ("a.txt", "rows.jsonl", "out/deep/private")},
        **{Path(name): folder for name in ("out", "out/deep")},
    }
