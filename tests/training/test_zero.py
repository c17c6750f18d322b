"""DeepSpeed: what is refused, and a ZeRO-3 training against the same one without it.

The trainings need DeepSpeed (extra `deepspeed`), which compiles a small library with gcc the first time.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skipwise.config import RunConfig, TrainingConfig, validate
from skipwise.errors import SkipwiseError
from skipwise.training import processes, zero
from skipwise.utils.atomic_files import read_jsonl
from skipwise.utils.processes import Place
from support.tiny import tiny_llama

installed = importlib.util.find_spec("deepspeed") is not None
STAGE = {"zero_optimization": {"stage": 2}}


def settings_of(folder: Path, values: Any) -> TrainingConfig:
    path = folder / "zero.json"
    path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
    return TrainingConfig(parallel="deepspeed", parallel_config=str(path))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "zero.json is not JSON"),
        ([], "holds list: expected a JSON object"),
        (STAGE | {"optimizer": {"type": "AdamW"}}, "sets 'optimizer', which comes from training.learning_rate"),
        (STAGE | {"train_batch_size": 8}, "sets 'train_batch_size', which comes from training.batch_size"),
        (STAGE | {"bf16": {"enabled": True}}, "sets 'bf16', which comes from model.precision"),
        (STAGE | {"sequence_parallel_size": 2}, "reads jumps of position_ids as borders"),
        ({}, "zero_optimization.stage is None: expected 1, 2 or 3"),
        ({"zero_optimization": {"stage": 0}}, "stage is 0: expected"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SkipwiseError, match=message) as caught:
        zero.file_settings(settings_of(tmp_path, values))
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SkipwiseError, match=r"none\.json cannot be read \(No such file or directory\)"):
        zero.file_settings(TrainingConfig(parallel="deepspeed", parallel_config=str(tmp_path / "none.json")))


def test_a_file_without_deepspeed_is_refused() -> None:
    with pytest.raises(SkipwiseError, match=r"read under training\.parallel=deepspeed alone"):
        zero.check(TrainingConfig(parallel_config="zero.json"))


@pytest.mark.parametrize("name", ["DEEPSPEED", "FSDP", "PARALLELISM_CONFIG"])
def test_what_the_launcher_adds_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sequence parallelism comes that way too."""
    config = validate(RunConfig, {"target_length": 256, "model": {"path": "tiny"}})
    processes.check(config, Place(0, 2, launched=True))
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(SkipwiseError, match=f"accelerate's configuration sets ACCELERATE_USE_{name}; turn it off"):
        processes.check(config, Place(0, 2, launched=True))


@pytest.mark.parametrize(
    ("method", "parallel", "remedy"),
    [("lora", "fsdp", None), ("qlora", "fsdp", "use training.parallel=ddp"), ("qlora", "ddp", None)],
)
def test_adapters_that_cannot_be_divided_are_refused(method: str, parallel: str, remedy: str | None) -> None:
    values = {"target_length": 256, "model": {"path": "tiny"}, "training": {"parallel": parallel}}
    config = validate(RunConfig, values | {"adapter": {"method": method}})
    with pytest.raises(SkipwiseError, match=remedy) if remedy else contextlib.nullcontext():
        processes.check(config, Place(0, 2, launched=True))


@pytest.mark.skipif(installed, reason="needs a machine without DeepSpeed")
def test_deepspeed_that_is_missing_is_named() -> None:
    with pytest.raises(SkipwiseError, match=r"needs DeepSpeed: pip install 'skipwise\[deepspeed\]'"):
        zero.check(TrainingConfig(parallel="deepspeed"))


def test_what_is_automatic_comes_from_the_settings(tmp_path: Path) -> None:
    automatic = {"train_batch_size": "auto", "bf16": {"enabled": "auto"}, "optimizer": {"params": {"lr": "auto"}}}
    bucket = {"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}
    config = settings_of(tmp_path, bucket | automatic)
    values = zero.settings(config, batch=2, accumulation=3, processes=4, precision="bfloat16")
    assert values["train_batch_size"] == 24
    assert values["train_micro_batch_size_per_gpu"] == 2
    assert values["gradient_accumulation_steps"] == 3
    assert values["bf16"] == {"enabled": False}, "it would round the tables of RoPE"
    assert values["torch_autocast"]["enabled"]
    assert "optimizer" not in values
    assert values["zero_optimization"] == {"stage": 2}


def test_another_number_of_processes_cannot_go_on(tmp_path: Path) -> None:
    (tmp_path / "global_step2").mkdir()
    for rank in range(2):
        (tmp_path / f"global_step2/zero_pp_rank_{rank}_mp_rank_00_optim_states.pt").touch()
    zero.check_processes(tmp_path, 2)
    with pytest.raises(SkipwiseError, match="was written by 2 processes and there are 1 now"):
        zero.check_processes(tmp_path, 1)


def skipwise(*words: str) -> str:
    """Run the command line in a process of its own and return what it shows."""
    done = subprocess.run(
        [sys.executable, "-m", "skipwise", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


def assert_same_weights(run: Path, other: Path) -> None:
    weights, others = (load_file(folder / "model/model.safetensors") for folder in (run, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.float(), others[name].float(), rtol=1e-2, atol=1e-4)  # bf16


@pytest.mark.skipif(not installed, reason="needs DeepSpeed")
def test_zero_3_trains_and_resumes_like_one_process_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process; the steps, the validation before and after them, and the model gathered at the end."""
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "cache"))
    model = tiny_llama(tmp_path / "tiny", window=64, adds_bos=True)
    values = (
        *("batch_size=4", "save_every=2", "validate_every=2", "log_every=1", "validation_examples=4"),
        *("learning_rate=1e-3", "gradient_accumulation=2", "steps=4"),
    )
    words = ["--model", str(model), "--target", "256", "--data", argparse.__file__]
    words += [part for value in values for part in ("--set", f"training.{value}")]
    words += ["--set", "model.precision=float32", "--set", "evaluation.tasks=[perplexity]"]
    words += ["--set", "evaluation.lengths=[64]"]
    skipwise("extend", *words, "--out", str(tmp_path / "one"))
    partition = zero.SETTINGS["zero_optimization"] | {"stage3_param_persistence_threshold": 0}  # small weights too
    (tmp_path / "zero.json").write_text(json.dumps(zero.SETTINGS | {"zero_optimization": partition}), encoding="utf-8")
    sharded = [*words, "--set", "training.parallel=deepspeed", "--processes", "1", "--out", str(tmp_path / "run")]
    sharded += ["--set", f"training.parallel_config={tmp_path / 'zero.json'}"]
    skipwise("extend", *sharded)
    logs = [read_jsonl(tmp_path / name / "log.jsonl") for name in ("run", "one")]
    assert [(row["kind"], row["step"]) for row in logs[0]] == [(row["kind"], row["step"]) for row in logs[1]]
    assert len(logs[0]) == 7
    for row, expected in zip(*logs, strict=True):
        for key in ("loss", "loss_skipped", "loss_plain", "grad_norm"):
            assert row.get(key, 0.0) == pytest.approx(expected.get(key, 0.0), rel=1e-5), (key, row["step"])
    assert_same_weights(tmp_path / "run", tmp_path / "one")
    checkpoints = tmp_path / "run/checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-000002", "step-000004"]
    for done in ("checkpoints/step-000004", "model"):
        subprocess.run(["rm", "-r", str(tmp_path / "run" / done)], check=True)
    skipwise("extend", *sharded, "--resume")
    assert_same_weights(tmp_path / "run", tmp_path / "one")


TABLES = """
import sys
from pathlib import Path
import torch
from skipwise.config import ModelConfig, ScalingConfig, TrainingConfig
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.models.load import load
from skipwise.training import processes
from skipwise.training.trainer import train

folder, model = Path(sys.argv[1]), ModelConfig(path=sys.argv[2])
def tables(model):
    return {name: each.clone() for name, each in model.named_buffers() if "inv_freq" in name}
with processes.joined() as team, team.training():
    loaded = load(model, target_length=256, scaling=ScalingConfig(method="yarn"), dtype=torch.float32)
    before = tables(loaded.model)
    texts = {"documents": [torch.arange(2, 200).numpy()], "target_length": 256, "train_length": 64}
    config = TrainingConfig(parallel="deepspeed", steps=1, batch_size=1, save_every=1)
    data = {name: SkippedPositions(**texts, examples=1) for name in ("skipped", "plain")}
    train(loaded.model, config, SkippedPositions(**texts, examples=1), data, folder=folder, precision="bfloat16")
    after = tables(loaded.model)
assert before and before.keys() == after.keys()
assert all(torch.equal(before[name], after[name]) and after[name].dtype == torch.float32 for name in before), after
import os
assert "ACCELERATE_USE_DEEPSPEED" not in os.environ
again = load(model, target_length=256, scaling=ScalingConfig(method="yarn"), dtype=torch.float32).model
assert all(weight.numel() for weight in again.parameters()), "the next model is loaded whole, not through zero.Init"
assert all(torch.equal(before[name], table) for name, table in tables(again).items())
"""


@pytest.mark.skipif(not installed, reason="needs DeepSpeed")
def test_rope_tables_stay_exact_and_the_next_model_is_whole(tmp_path: Path) -> None:
    """`zero.Init` and DeepSpeed's bf16 mode would round them; the training computes in bf16."""
    model = tiny_llama(tmp_path / "tiny", window=64, adds_bos=True)
    here = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-c", TABLES, str(tmp_path / "run"), str(model)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **here, **port},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
