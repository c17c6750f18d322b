"""Where a process stands in its job, as launchers write it into the environment."""

import pytest

from skipwise.errors import SkipwiseError
from skipwise.utils.processes import HIDDEN, NEEDED, SIZES, Place, alone, first, place


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*SIZES, *NEEDED):
        monkeypatch.delenv(name, raising=False)


def launch(monkeypatch: pytest.MonkeyPatch, rank: int, size: int) -> None:
    values = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost", "MASTER_PORT": 29500}
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("name", SIZES)
def test_several_processes_that_cannot_find_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert place() == Place()
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match=f"{name}=2"):
        place()


def test_place(monkeypatch: pytest.MonkeyPatch) -> None:
    assert place() == Place(0, 1, launched=False)
    launch(monkeypatch, 0, 1)
    assert place() == Place(0, 1, launched=True)
    launch(monkeypatch, 3, 8)
    assert place() == Place(3, 8, launched=True)
    assert not first()
    monkeypatch.setenv("RANK", "x")
    with pytest.raises(SkipwiseError, match="WORLD_SIZE and RANK"):
        place()


def test_libraries_do_not_see_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    launch(monkeypatch, 1, 2)
    with alone() as variables:
        assert set(variables) == set(HIDDEN)
        assert not set(HIDDEN) & set(os.environ)
        assert place() == Place(1, 2, launched=True)
    assert os.environ["WORLD_SIZE"] == "2"
