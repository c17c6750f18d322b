"""Checkpoints: checksums tell a damaged one, and the one before it is used with a warning.

The training of `test_trainer` ends with checkpoints after steps 9 and 12. With the last one damaged, a resumed run
trains steps 10 to 12 again and must end with the same weights.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skipwise.errors import SkipwiseError
from skipwise.training.checkpoints import CHECKSUMS, OPTIMIZER, SCHEDULER, STATE, WEIGHTS, damage, usable_checkpoint
from support import TESTS
from training.test_trainer import job, same_bits

FILES = [WEIGHTS, OPTIMIZER, SCHEDULER, STATE, "rng_state.pth", CHECKSUMS]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    job(folder)
    return folder


def copy(finished: Path, tmp_path: Path) -> Path:
    """The run as a killed process leaves it: checkpoints, and no model at its end."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "end")
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_damage_is_seen(harm: Callable[[Path], object], name: str, finished: Path, tmp_path: Path) -> None:
    folder = copy(finished, tmp_path)
    assert damage(folder / "checkpoints/step-000012") is None
    harm(folder / "checkpoints/step-000012" / name)
    assert name in str(damage(folder / "checkpoints/step-000012")) or name == CHECKSUMS
    assert usable_checkpoint(folder / "checkpoints") == folder / "checkpoints/step-000009"


@pytest.mark.parametrize(
    ("harm", "name"), [(Path.unlink, OPTIMIZER), (flip, OPTIMIZER), (cut, WEIGHTS), (cut, STATE), (flip, WEIGHTS)]
)
def test_the_checkpoint_before_a_damaged_one_is_used(
    harm: Callable[[Path], object], name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy(finished, tmp_path)
    harm(folder / "checkpoints/step-000012" / name)
    job(folder, resume=True)
    warning = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("warning"))
    assert "step-000012" in warning
    assert name in warning
    assert same_bits(folder, finished)
    assert damage(folder / "checkpoints/step-000012") is None, "it was written anew"


def test_without_a_good_checkpoint_training_starts_again(finished: Path, tmp_path: Path) -> None:
    folder = copy(finished, tmp_path)
    for checkpoint in (folder / "checkpoints").iterdir():
        flip(checkpoint / OPTIMIZER)
    job(folder, resume=True)
    assert same_bits(folder, finished)


def test_every_file_has_a_checksum(finished: Path) -> None:
    for checkpoint in (finished / "checkpoints").iterdir():
        names = {path.name for path in checkpoint.iterdir()}
        assert set(json.loads((checkpoint / CHECKSUMS).read_text())) == names - {CHECKSUMS}
        assert set(FILES) <= names


def test_validation_is_not_repeated_where_training_goes_on(finished: Path, tmp_path: Path) -> None:
    """Rows of the log are the same whether or not a run was interrupted, but for the time."""
    folder = copy(finished, tmp_path)
    shutil.rmtree(folder / "checkpoints/step-000012")
    job(folder, resume=True)
    rows = [
        [{**json.loads(line), "seconds": 0} for line in (path / "log.jsonl").read_text().splitlines()]
        for path in (folder, finished)
    ]
    assert rows[0] == rows[1]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file where the checkpoints belong; permissions would not stop root."""
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(SkipwiseError, match=r"cannot write .*step-000003") as caught:
        job(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("limit", [100_000, 450_000])
def test_a_disk_that_fills_while_a_checkpoint_is_written(limit: int, tmp_path: Path, finished: Path) -> None:
    """A limit on the size of a file stands for the full disk: the weights do not fit, or they do and the optimizer not.

    Nothing half-written stays, and with more room the run goes on to the same weights.
    """
    sizes = [(finished / "checkpoints/step-000012" / name).stat().st_size for name in (WEIGHTS, OPTIMIZER)]
    assert 100_000 < sizes[0] < 450_000 < sizes[1]
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(SkipwiseError, match="the disk is full") as caught:
            job(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "\n" not in str(caught.value)
    assert "step-000003" in str(caught.value)
    assert not list((tmp_path / "checkpoints").iterdir())
    job(tmp_path, resume=True)
    assert same_bits(tmp_path, finished)


def test_sigterm_saves_the_last_whole_step(tmp_path: Path, finished: Path) -> None:
    """A training that would save after step 12 only is told to end after step 4 and goes on from there."""
    ended = tmp_path / "ended.py"
    ended.write_text(
        "import os, signal, sys; from pathlib import Path\n"
        "import skipwise.training.trainer as t; from skipwise.utils.termination import terminable\n"
        "from training.test_trainer import job\n"
        "def step(self, *args, real=t.TrainingLog.on_step_end):\n"
        "    real(self, *args)\n"
        "    args[1].global_step == 4 and os.kill(os.getpid(), signal.SIGTERM)\n"
        "t.TrainingLog.on_step_end = lambda self, a, s, c, **k: step(self, a, s, c)\n"
        "with terminable(): job(Path(sys.argv[1]), save_every=12)\n"
    )
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
    }
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, str(ended), str(folder)], env=environment, capture_output=True, text=True)
    assert done.returncode == 75, done.stderr
    assert "Traceback" not in done.stderr
    assert usable_checkpoint(folder / "checkpoints") == folder / "checkpoints/step-000004"
    job(folder, resume=True, save_every=12)
    assert same_bits(folder, finished)
