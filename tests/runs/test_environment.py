"""What a run records of its environment: the commit of Skipwise and of nothing else."""

import shutil
import subprocess
from pathlib import Path

import pytest

from skipwise.runs.environment import checkout_commit, read_environment


def repository(folder: Path) -> str:
    """Commit everything in `folder`. Returns the commit."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *command], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def package(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    return folder


def test_commit_of_a_checkout(tmp_path: Path) -> None:
    own = package(tmp_path / "src/skipwise")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "skipwise"\n')
    assert checkout_commit(own) is None, "no repository"
    commit = repository(tmp_path)
    assert checkout_commit(own) == commit


def test_no_commit_of_the_repository_around_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = package(tmp_path / ".venv/lib/python3/site-packages/skipwise")
    vendored = package(tmp_path / "src/skipwise")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "thesis"\n')
    repository(tmp_path)
    assert checkout_commit(installed) is None
    assert checkout_commit(vendored) is None, "a copy inside another project"
    monkeypatch.setenv("PATH", "")
    assert checkout_commit(installed) is None, "without git"


def test_an_installed_package_in_a_checkout_of_skipwise(tmp_path: Path) -> None:
    installed = package(tmp_path / ".venv/lib/python3/site-packages/skipwise")
    shutil.copytree(installed, tmp_path / "src/skipwise")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "skipwise"\n')
    repository(tmp_path)
    assert checkout_commit(installed) is None, "another version may be installed"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"device": "CPU"}', "[" * 100_000])
def test_a_damaged_environment_is_none(content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "environment.json"
    assert read_environment(path) is None
    path.write_text(content)
    assert read_environment(path) is None
    assert "environment.json is damaged" in capsys.readouterr().err
