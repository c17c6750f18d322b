"""Several processes train as one: equal losses and weights, one log and one voice, and an orderly end when one is lost.

The processes are real ones over gloo on the CPU.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skipwise.cli import main
from skipwise.training.checkpoints import checkpoints_in
from skipwise.utils.atomic_files import read_jsonl
from support.tiny import tiny_llama

TEXTS = [argparse.__file__, subprocess.__file__]
SETTINGS = [
    *("training.batch_size=4", "training.save_every=2", "training.validate_every=4", "training.log_every=1"),
    *("training.validation_examples=4", "training.learning_rate=1e-3", "model.precision=float32"),
    *("evaluation.tasks=[perplexity]", "evaluation.lengths=[64]"),
]
LIMIT = 240.0
"""Seconds that anything may take on a busy machine."""


GRID = ["tasks=[passkey,perplexity]", "lengths=[128,250]", "depths=[0.0,0.5,1.0]", "trials=2", "documents=2"]
"""An evaluation with cells and documents to divide, the passkeys partly too long for the window."""


def words(model: Path, out: Path, steps: int, *more: str) -> list[str]:
    settings = [part for each in (*SETTINGS, f"training.steps={steps}") for part in ("--set", each)]
    where = ["--model", str(model), "--target", "256", "--data", argparse.__file__, "--out", str(out)]
    return ["extend", *where, *settings, *more]


def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def torchrun(size: int) -> list[str]:
    return ["torch.distributed.run", "--standalone", f"--nproc-per-node={size}", "-m", "skipwise"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", window=64, adds_bos=True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps in one process."""
    folder = tmp_path_factory.mktemp("runs") / "alone"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main.main(words(model, folder, 6)) == 0
    return folder


def evaluation(model: Path, other: Path, out: Path, *more: str) -> list[str]:
    settings = [part for each in GRID for part in ("--set", f"evaluation.{each}")]
    where = [str(model), str(other), "--data", *TEXTS, "--out", str(out)]
    return ["eval", *where, "--set", "model.precision=float32", *settings, *more]


def untimed(out: Path) -> list[dict[str, Any]]:
    """The rows of a file in their order, without what differs from one measurement to the next."""
    return [{**row, "seconds": 0} for row in read_jsonl(out)]


def assert_same_training(run: Path, other: Path) -> None:
    """The same steps with the same losses, and the same weights to rounding: a step moves them by about 1e-3."""
    losses = [
        {row["step"]: row["loss"] for row in read_jsonl(folder / "log.jsonl") if row["kind"] == "train"}
        for folder in (run, other)
    ]
    assert losses[0].keys() == losses[1].keys()
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    weights, others = (load_file(folder / "model/model.safetensors") for folder in (run, other))
    for name, weight in weights.items():
        torch.testing.assert_close(weight.float(), others[name].float(), rtol=1e-2, atol=1e-4)  # bf16


def error_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("skipwise: ")]


def wait_for(running: subprocess.Popen[str], folder: Path, step: int) -> None:
    """Wait until a step is logged."""
    deadline = time.monotonic() + LIMIT
    while not any(row["step"] >= step for row in read_jsonl(folder / "log.jsonl")):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers_of(launcher: int) -> list[int]:
    """Processes whose parent is the launcher, by their rank."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    ranks = {}
    for child in map(int, children):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks |= {int(each[5:]): child for each in variables if each.startswith(b"RANK=")}
    return [ranks[rank] for rank in sorted(ranks)]


def test_two_processes_of_torchrun_train_like_one(model: Path, alone: Path, tmp_path: Path) -> None:
    running = start([*torchrun(2), *words(model, tmp_path / "run", 6)])
    printed, shown = running.communicate(timeout=LIMIT)
    assert running.returncode == 0, shown
    assert_same_training(tmp_path / "run", alone)
    assert printed.count("report.html") == 1
    assert shown.count("training: 6 step in") == 1
    assert "in 2 processes" in shown
    assert read_jsonl(tmp_path / "run/log.jsonl")[0].keys() == read_jsonl(alone / "log.jsonl")[0].keys()
    rows = [untimed(run / "results.jsonl") for run in (tmp_path / "run", alone)]
    assert [(row["model"], row["task"]) for row in rows[0]] == [(row["model"], row["task"]) for row in rows[1]]
    before = [[row for row in each if row["model"] == "original"] for each in rows]
    assert before[0] == before[1]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes under /proc")
def test_a_lost_process_ends_the_job_and_one_process_goes_on(model: Path, alone: Path, tmp_path: Path) -> None:
    """Killed between checkpoints; then resumed on another number of processes."""
    folder = tmp_path / "run"
    running = start(["skipwise", *words(model, folder, 6, "--processes", "2")])
    wait_for(running, folder, 3)  # a checkpoint was written after step 2
    killed = time.monotonic()
    os.kill(workers_of(running.pid)[1], signal.SIGKILL)
    _, shown = running.communicate(timeout=LIMIT)
    assert time.monotonic() - killed < 60
    assert running.returncode == 2
    assert len(error_lines(shown)) == 1, shown
    assert "process 2 of 2 was ended by SIGKILL" in error_lines(shown)[0]
    assert "--resume" in error_lines(shown)[0]
    assert "Traceback" not in shown
    assert not (folder / "model").exists()
    assert checkpoints_in(folder / "checkpoints")
    assert main.main(["extend", "--out", str(folder), "--resume"]) == 0
    assert_same_training(folder, alone)


@pytest.mark.slow
def test_sigterm_to_the_launcher_saves(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ["--set", "training.save_every=100000", "--processes", "2"]
    running = start(["skipwise", *words(model, folder, 100_000, *settings)])
    wait_for(running, folder, 2)
    running.send_signal(signal.SIGTERM)
    _, shown = running.communicate(timeout=LIMIT)
    assert running.returncode == 75, shown
    (line,) = error_lines(shown)
    step = int(line.split("after step ")[1].split(",")[0])
    assert (folder / f"checkpoints/step-{step:06d}/trainer_state.json").is_file()
    assert "Traceback" not in shown


@pytest.mark.slow
def test_an_error_is_said_once(model: Path, tmp_path: Path) -> None:
    """Before the processes meet, and after: the first one finds the missing text alone."""
    odd = start(["skipwise", *words(model, tmp_path / "a", 6, "--set", "training.batch_size=3", "--processes", "2")])
    missing = start(["skipwise", *words(model, tmp_path / "b", 6, "--processes", "2", "--data", "no-such-text")])
    for running, reason in ((odd, "2 processes cannot share 3 examples"), (missing, "no-such-text")):
        _, shown = running.communicate(timeout=LIMIT)
        assert running.returncode == 2, shown
        assert len(error_lines(shown)) == 1, shown
        assert reason in error_lines(shown)[0]
        assert "Traceback" not in shown
    assert not list(tmp_path.iterdir())


def test_sharded_training_equals_one_process(model: Path, alone: Path, tmp_path: Path) -> None:
    """FSDP2 with tied embeddings; the checkpoint is in shards, the model an ordinary folder."""
    folder = tmp_path / "run"
    sharded = ["--set", "training.parallel=fsdp", "--processes", "2"]
    running = start(["skipwise", *words(model, folder, 6, *sharded)])
    _, shown = running.communicate(timeout=LIMIT)
    assert running.returncode == 0, shown
    assert_same_training(folder, alone)
    names = sorted(path.name for path in (folder / "checkpoints/step-000006/pytorch_model_fsdp_0").iterdir())
    assert names == [".metadata", "__0_0.distcp", "__1_0.distcp"]
    assert load_file(folder / "model/model.safetensors").keys() == load_file(alone / "model/model.safetensors").keys()


def test_sharded_adapters_equal_one_process_and_go_on_with_others(model: Path, tmp_path: Path) -> None:
    """FSDP2 with a frozen base, adapters and tied embeddings; the last two steps again, in four processes."""
    one, two = tmp_path / "one", tmp_path / "two"
    values = ("adapter.method=lora", "adapter.rank=4", "adapter.also_train=[embeddings,norms]")
    adapted = [part for value in values for part in ("--set", value)]
    assert main.main(words(model, one, 6, *adapted)) == 0
    sharded = words(model, two, 6, *adapted, "--set", "training.parallel=fsdp", "--processes")
    for more in (["2"], ["4", "--resume"]):
        running = start(["skipwise", *sharded, *more])
        _, shown = running.communicate(timeout=LIMIT)
        assert running.returncode == 0, shown
        assert_same_training(two, one)
        trained, others = (load_file(folder / "adapter/adapter_model.safetensors") for folder in (two, one))
        assert trained.keys() == others.keys()
        for name, weight in trained.items():
            torch.testing.assert_close(weight, others[name], rtol=1e-3, atol=1e-5)
        checkpoint = two / "checkpoints/step-000006"
        assert not list(checkpoint.glob("pytorch_model*"))
        assert (
            load_file(checkpoint / "adapter.safetensors").keys()
            == load_file(one / "checkpoints/step-000006/adapter.safetensors").keys()
        )
        for done in (checkpoint, two / "model", two / "adapter"):
            shutil.rmtree(done)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "lora"])
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_teacher_in_two_processes_teaches_as_in_one(how: str, method: str, tmp_path: Path) -> None:
    """Each process holds the teacher whole, or as much of it as of the base of adapters, which is the teacher then.

    Plain examples and recall documents divide as the others do.
    """
    model = tiny_llama(tmp_path / "tiny", window=128, adds_bos=True)  # a shorter example holds no recall document
    values = ["training.distill=0.5", "positions.text=contiguous", "data.plain=0.3", "data.recall=0.3"]
    values.append(f"adapter.method={method}")
    taught = [part for value in values for part in ("--set", value)]
    assert main.main(words(model, tmp_path / "one", 6, *taught)) == 0
    parallel = ["--set", f"training.parallel={how}", "--processes", "2"]
    running = start(["skipwise", *words(model, tmp_path / "two", 6, *taught, *parallel)])
    _, shown = running.communicate(timeout=LIMIT)
    assert running.returncode == 0, shown
    assert shown.count("the original model is held beside the trained one") == (method == "none")
    assert_same_training(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
def test_a_sharded_training_goes_on_with_other_processes(model: Path, alone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    sharded = ["--set", "training.parallel=fsdp", "--processes"]
    running = start(["skipwise", *words(model, folder, 6, *sharded, "2")])
    wait_for(running, folder, 5)
    os.kill(workers_of(running.pid)[1], signal.SIGKILL)
    _, shown = running.communicate(timeout=LIMIT)
    assert running.returncode == 2, shown
    for checkpoint in (folder / "checkpoints").glob("step-000006"):
        shutil.rmtree(checkpoint)
    running = start(["skipwise", *words(model, folder, 6, *sharded, "4", "--resume")])
    _, shown = running.communicate(timeout=LIMIT)
    assert running.returncode == 0, shown
    assert_same_training(folder, alone)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "other", window=256, adds_bos=True, seed=1)


def test_two_processes_evaluate_like_one(model: Path, other: Path, tmp_path: Path) -> None:
    """Rows of two models in the order of one process, one table, and nothing left behind."""
    assert main.main(evaluation(model, other, tmp_path / "one.jsonl")) == 0
    running = start([*torchrun(2), *evaluation(model, other, tmp_path / "two.jsonl")])
    printed, shown = running.communicate(timeout=LIMIT)
    assert running.returncode == 0, shown
    assert untimed(tmp_path / "two.jsonl") == untimed(tmp_path / "one.jsonl")
    assert printed.count("rows    ") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.jsonl", "two.jsonl"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the processes under /proc")
def test_a_process_lost_in_evaluation_ends_the_job_and_its_rows_are_kept(
    model: Path, other: Path, tmp_path: Path
) -> None:
    long = ["--set", "evaluation.lengths=[192,224,250]", "--set", "evaluation.trials=40"]
    command = evaluation(model, other, tmp_path / "rows.jsonl", "--tasks", "passkey", *long)
    running = start(["skipwise", *command, "--processes", "2"])
    deadline = time.monotonic() + LIMIT
    while not list(tmp_path.glob(".rows.jsonl.parts/*/rows-1.jsonl")):
        assert running.poll() is None, running.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(workers_of(running.pid)[1], signal.SIGKILL)
    killed = time.monotonic()
    _, shown = running.communicate(timeout=LIMIT)
    assert time.monotonic() - killed < 60
    assert running.returncode == 2
    assert len(error_lines(shown)) == 1, shown
    assert "process 2 of 2 was ended by SIGKILL" in error_lines(shown)[0]
    assert error_lines(shown)[0].endswith("to go on, run the same command")
    assert "Traceback" not in shown
    kept = [row for path in tmp_path.glob(".rows.jsonl.parts/*/rows-*.jsonl") for row in read_jsonl(path)]
    assert kept
    assert main.main(command) == 0
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert rows[: len(kept)] == kept, "nothing was measured again"
    assert len({(row["model"], row["length"], row["depth"]) for row in rows}) == len(rows) == 2 * 3 * (3 + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
