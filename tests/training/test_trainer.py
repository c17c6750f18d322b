"""Training: resuming after a kill ends with the same bits, checkpoints are whole, bad losses stop the run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from skipwise.config import AdapterConfig, TrainingConfig
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.errors import SkipwiseError
from skipwise.models.merging import merge
from skipwise.training import adapters
from skipwise.training.checkpoints import checkpoints_in, step_of
from skipwise.training.teacher import Teacher
from skipwise.training.trainer import train
from skipwise.utils.atomic_files import read_jsonl
from support import TESTS
from support.tiny import llama_config, tiny_model

STEPS = 12
WINDOW, TARGET = 32, 256


def job(folder: Path, *, resume: bool = False, adapter: str = "none", **settings: object) -> None:
    """A small training run; the same model, text and order every time."""
    torch.set_num_threads(1)
    model = tiny_model(llama_config(window=WINDOW, vocab=128))
    rng = np.random.default_rng(0)
    documents = [rng.integers(2, 128, size=200) for _ in range(8)]
    values = {"steps": STEPS, "batch_size": 2, "learning_rate": 1e-3, "save_every": 3, "validate_every": 6}
    config = TrainingConfig(**{**values, "log_every": 3, "warmup_steps": 2, "validation_examples": 2})
    config = config.model_copy(update=settings)  # takes what a configuration would refuse, such as a rate of 1e30
    lengths = {"target_length": TARGET, "train_length": WINDOW}
    per_step = config.batch_size * config.gradient_accumulation
    marked = {"mark_taught": True, "text": "contiguous"} if config.distill else {}
    examples = SkippedPositions(documents, **lengths, examples=config.steps * per_step, **marked)
    validation = {
        "skipped": SkippedPositions(documents[:2], **lengths, examples=2),
        "plain": SkippedPositions(documents[:2], **lengths, sampler="original", examples=2),
    }
    wrapped = None if adapter == "none" else adapters.attach(model, AdapterConfig(method=adapter, rank=4, dropout=0.1))
    teacher = Teacher(tiny_model(llama_config(window=WINDOW, vocab=128)), config.distill) if config.distill else None
    if teacher and wrapped is not None:
        teacher = Teacher(model, config.distill, plain=llama_config(window=WINDOW, vocab=128))
    train(model, config, examples, validation, folder=folder, precision="float32", resume=resume, teacher=teacher)
    (model if wrapped is None else merge(wrapped, torch.float32)).save_pretrained(folder / "end")


def spawn(folder: Path, delay: float = 0.0, adapter: str = "none", **settings: float) -> subprocess.Popen[bytes]:
    """`job` in a process of its own, resuming where it can; `delay` seconds are spent inside every checkpoint write."""
    code = (
        "import sys, time; from pathlib import Path; import skipwise.training.trainer as t; import test_trainer\n"
        "real = t.SkippedTrainer._save_rng_state\n"
        f"t.SkippedTrainer._save_rng_state = lambda self, folder: (real(self, folder), time.sleep({delay}))\n"
        f"test_trainer.job(Path(sys.argv[1]), resume=True, adapter={adapter!r}, **{settings!r})"
    )
    paths = [str(Path(__file__).parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], env=environment, stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    job(folder)
    return folder


def same_bits(left: Path, right: Path) -> bool:
    a, b = load_file(left / "end/model.safetensors"), load_file(right / "end/model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def wait_for(process: subprocess.Popen[bytes], pattern: str, folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not list(folder.glob(pattern)):
        assert process.poll() is None, "the process ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("moment", ["checkpoints/step-000003", "checkpoints/.step-000006.*", "checkpoints/step-000009"])
def test_killed_and_resumed_ends_with_the_same_bits(moment: str, tmp_path: Path, uninterrupted: Path) -> None:
    """Killed after a checkpoint, and while one is being written (its folder still has its temporary name)."""
    process = spawn(tmp_path, delay=0.5)
    wait_for(process, moment, tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "end").exists()
    killed_at = checkpoints_in(tmp_path / "checkpoints")
    assert spawn(tmp_path).wait() == 0
    assert same_bits(tmp_path, uninterrupted)
    assert not list((tmp_path / "checkpoints").glob(".*")), "what the killed process was writing is gone"
    steps = [row["step"] for row in read_jsonl(tmp_path / "log.jsonl") if row["kind"] == "train"]
    assert steps == [3, 6, 9, 12], f"no step is logged twice (resumed from {killed_at})"


def test_a_killed_training_of_adapters_ends_with_the_same_bits(tmp_path: Path) -> None:
    job(tmp_path / "whole", adapter="lora")
    process = spawn(tmp_path, delay=0.5, adapter="lora")
    wait_for(process, "checkpoints/step-000006", tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    weights = load_file(tmp_path / "checkpoints/step-000006/adapter.safetensors")
    assert all("lora_" in name for name in weights), "the base is not in the checkpoint"
    assert not (tmp_path / "checkpoints/step-000006/model.safetensors").exists()
    assert spawn(tmp_path, adapter="lora").wait() == 0
    assert same_bits(tmp_path, tmp_path / "whole")


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_killed_training_with_a_teacher_ends_with_the_same_bits(
    adapter: str, tmp_path: Path, uninterrupted: Path
) -> None:
    job(tmp_path / "whole", adapter=adapter, distill=0.5)
    process = spawn(tmp_path, delay=0.5, adapter=adapter, distill=0.5)
    wait_for(process, "checkpoints/step-000006", tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert spawn(tmp_path, adapter=adapter, distill=0.5).wait() == 0
    assert same_bits(tmp_path, tmp_path / "whole")
    assert not same_bits(tmp_path, uninterrupted)


def test_another_seed_ends_elsewhere(tmp_path: Path, uninterrupted: Path) -> None:
    job(tmp_path, learning_rate=2e-3)
    assert not same_bits(tmp_path, uninterrupted)


def test_log_has_losses_at_skipped_and_plain_positions(uninterrupted: Path) -> None:
    rows = read_jsonl(uninterrupted / "log.jsonl")
    validation = [row for row in rows if row["kind"] == "validation"]
    assert [row["step"] for row in validation] == [0, 6, 12]
    assert all(row["loss_skipped"] != row["loss_plain"] for row in validation)
    training = [row for row in rows if row["kind"] == "train"]
    assert [row["tokens"] for row in training] == [step * 2 * WINDOW for step in (3, 6, 9, 12)]
    assert training[0]["learning_rate"] > 0
    assert training[-1]["seconds"] > training[0]["seconds"]


def test_old_checkpoints_go(uninterrupted: Path) -> None:
    assert [step_of(path) for path in checkpoints_in(uninterrupted / "checkpoints")] == [9, 12]


def test_checkpoint_without_its_last_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "step-000003").mkdir()
    assert checkpoints_in(tmp_path) == []
    (tmp_path / "step-000003/trainer_state.json").write_text("{}")
    assert checkpoints_in(tmp_path) == [tmp_path / "step-000003"]


def test_accumulated_gradients_equal_one_large_batch(tmp_path: Path, uninterrupted: Path) -> None:
    """Same examples a step, so the same losses to rounding."""
    job(tmp_path, batch_size=1, gradient_accumulation=2)
    losses = [
        [row["loss"] for row in read_jsonl(path / "log.jsonl") if row["kind"] == "train"]
        for path in (tmp_path, uninterrupted)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, uninterrupted: Path) -> None:
    job(tmp_path, gradient_checkpointing=True)
    a, b = (load_file(path / "end/model.safetensors") for path in (tmp_path, uninterrupted))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_cosine_falls_to_zero_and_constant_stays(tmp_path: Path, uninterrupted: Path) -> None:
    job(tmp_path, schedule="cosine", log_every=1)
    rates = [row["learning_rate"] for row in read_jsonl(tmp_path / "log.jsonl") if row["kind"] == "train"]
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 0.1e-3
    constant = [row["learning_rate"] for row in read_jsonl(uninterrupted / "log.jsonl") if row["kind"] == "train"]
    assert constant[-1] == pytest.approx(1e-3)


def test_a_loss_that_is_no_number_names_step_and_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(SkipwiseError, match=r"(loss at|weights after) step \d+ (is|are) (nan|inf|not)") as caught:
        job(tmp_path, learning_rate=1e30, warmup_steps=0, save_every=1, max_grad_norm=1e30)
    assert "\n" not in str(caught.value)
    good = checkpoints_in(tmp_path / "checkpoints")[-1]
    assert str(good) in str(caught.value)
    assert all(torch.isfinite(weight).all() for weight in load_file(good / "model.safetensors").values())


def test_a_model_that_is_ruined_by_its_last_step_is_not_saved(tmp_path: Path) -> None:
    """The weights after one such step are finite, and the losses before it: the last validation tells."""
    with pytest.raises(SkipwiseError, match=r"after step 1 (is|are) (nan|inf|not|\d)") as caught:
        job(tmp_path, steps=1, learning_rate=1e3, warmup_steps=0)
    assert "training.learning_rate (now 1000)" in str(caught.value)
    assert checkpoints_in(tmp_path / "checkpoints") == []
    logged = [(row["step"], row["kind"]) for row in read_jsonl(tmp_path / "log.jsonl")]
    assert logged == [(0, "validation"), (1, "train")]  # no validation loss that is no number


def test_a_broken_model_is_not_blamed_on_the_learning_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tiny_model(llama_config(window=WINDOW, vocab=128))
    with torch.no_grad():
        broken.get_input_embeddings().weight[5] = float("nan")
    monkeypatch.setitem(job.__globals__, "tiny_model", lambda config: broken)
    with pytest.raises(SkipwiseError, match="before any weight was changed") as caught:
        job(tmp_path)
    assert "learning_rate" not in str(caught.value)


def test_nan_is_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token whose embedding is broken: the first module, and the one example of four that holds the token."""
    broken = tiny_model(llama_config(window=WINDOW, vocab=128, tie_word_embeddings=False))
    real = SkippedPositions.__getitem__

    def with_token(self: SkippedPositions, i: int) -> object:
        example = real(self, i)
        example["input_ids"] = example["input_ids"].clamp(max=126)
        if i == 3 and len(self) == STEPS * 4:  # not in a validation
            example["input_ids"][5] = 127
        return example

    with torch.no_grad():
        broken.get_input_embeddings().weight[127] = float("nan")
    monkeypatch.setattr(SkippedPositions, "__getitem__", with_token)
    monkeypatch.setitem(job.__globals__, "tiny_model", lambda config: broken)
    with pytest.raises(SkipwiseError, match=r"with example 3, see .*nonfinite.json") as caught:
        job(tmp_path, gradient_accumulation=2)
    assert "\n" not in str(caught.value)
    dump = json.loads((tmp_path / "nonfinite.json").read_text())
    assert dump["step"] == 1
    assert dump["places"] == [{"example": 3, "module": "model.embed_tokens"}]
