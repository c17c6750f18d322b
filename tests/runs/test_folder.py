"""The folder of a run: begun once, held by one process, left without a trace when nothing was begun."""

import shutil
from pathlib import Path

import pytest

from skipwise.config import RunConfig, read_yaml
from skipwise.errors import SkipwiseError
from skipwise.runs.folder import check_folder, held_folder, open_folder


def config(out: Path, **values: object) -> RunConfig:
    return RunConfig.model_validate({"target_length": 256, "out": str(out), **values})


def test_a_run_is_begun_once(tmp_path: Path) -> None:
    out = tmp_path / "run"
    check_folder(out, resume=False)
    with held_folder(out):
        open_folder(config(out), out, resume=False)
    with pytest.raises(SkipwiseError, match="already holds a run"):
        check_folder(out, resume=False)
    check_folder(out, resume=True)


def test_other_things_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(SkipwiseError, match=r"thesis\.txt"):
        check_folder(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    for out in ("thesis.txt", "thesis.txt/run"):
        with pytest.raises(SkipwiseError, match=r"thesis\.txt.*not a folder"):
            check_folder(tmp_path / out, resume=False)


def test_a_run_that_is_not_begun_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), held_folder(tmp_path / "a/b/run"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    with pytest.raises(RuntimeError), held_folder(tmp_path / "there"):
        raise RuntimeError
    assert not list((tmp_path / "there").iterdir()), "a folder that was there stays, without a lock"


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        held_folder(tmp_path / "run"),
        pytest.raises(SkipwiseError, match="another process"),
        held_folder(tmp_path / "run"),
    ):
        pass
    with held_folder(tmp_path / "run"):
        pass


def test_a_moved_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another place, and another spelling of it, is the same run; its config.yaml then names the new place."""
    first, second = tmp_path / "first", tmp_path / "second"
    with held_folder(first):
        open_folder(config(first), first, resume=False)
    shutil.move(first, second)
    open_folder(config(second), second, resume=True)
    assert read_yaml(second / "config.yaml")["out"] == str(second)
    monkeypatch.chdir(tmp_path)
    open_folder(config(Path("./second")), Path("./second"), resume=True)


def test_spellings_of_one_path_are_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "book.txt").write_text("text")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    given = {"model": {"path": "model"}, "data": {"paths": ["book.txt::title"]}}
    with held_folder(out):
        open_folder(config(out, **given), out, resume=False)
    for model, book in (("./model/", "./book.txt"), (str(tmp_path / "model"), str(tmp_path / "book.txt"))):
        open_folder(config(out, model={"path": model}, data={"paths": [f"{book}::title"]}), out, resume=True)
    open_folder(config(out, model={"path": "link"}, data={"paths": ["book.txt::title"]}), out, resume=True)
    with pytest.raises(SkipwiseError, match=r"data\.paths"):
        open_folder(config(out, model={"path": "link"}, data={"paths": ["book.txt::text"]}), out, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"learning_rate": 1.0}}, r"another 'training': training\.learning_rate is 2e-05 there and 1\.0"),
        ({"model": {"path": "elsewhere"}}, r"another 'model': model\.path"),
        ({"target_length": 512}, r"another 'target_length'"),
        ({"training": {"seed": 1, "steps": 9}}, r"training\.steps.*1 more settings differ"),
    ],
)
def test_another_setting_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with held_folder(tmp_path):
        open_folder(config(tmp_path), tmp_path, resume=False)
    with pytest.raises(SkipwiseError, match=message) as caught:
        open_folder(config(tmp_path, **change), tmp_path, resume=True)
    assert len(str(caught.value)) < 300
