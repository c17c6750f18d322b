"""One large batch, accumulated small ones and two processes train alike, whatever the number of labels in each part.

Recall documents have a few labels each, and not the same number. The mean of their batches' means is another loss.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from skipwise.config import TrainingConfig
from skipwise.data.recall_documents import Recall
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.models.forward import loss
from skipwise.training.teacher import Teacher
from skipwise.training.trainer import SkippedLoss, train
from skipwise.utils.atomic_files import read_jsonl
from support import TESTS
from support.tiny import llama_config, tiny_model, tiny_tokenizer

STEPS, WINDOW = 3, 128


def examples(folder: Path, count: int, distill: bool = False) -> SkippedPositions:
    """Recall documents and plain text by turns, so that a batch's parts have few labels or many."""
    rng = np.random.default_rng(1)
    documents = [rng.integers(2, 512, size=400) for _ in range(6)]
    recall = Recall(tiny_tokenizer(folder / "tokenizer"))
    lengths = {"target_length": 512, "train_length": WINDOW}
    marked = {"mark_taught": True, "text": "contiguous"} if distill else {}
    return SkippedPositions(documents, **lengths, examples=count, recall=recall, recall_share=0.6, **marked)


def job(folder: Path, batch: int, accumulation: int, distill: float = 0.0) -> None:
    """Train on the same 8 examples a step, however they are divided."""
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    model = tiny_model(llama_config(window=WINDOW))
    config = TrainingConfig(
        steps=STEPS,
        batch_size=batch,
        gradient_accumulation=accumulation,
        learning_rate=1e-3,
        warmup_steps=0,
        log_every=1,
        validate_every=STEPS,
    )
    data = examples(folder, STEPS * batch * accumulation, distill > 0)
    teacher = Teacher(tiny_model(llama_config(window=WINDOW), seed=1), distill) if distill else None
    validation = {name: examples(folder, 8) for name in ("skipped", "plain")}
    train(model, config, data, validation, folder=folder, precision="float32", teacher=teacher)
    if int(os.environ.get("RANK", "0")) == 0:
        model.save_pretrained(folder / "end")


@pytest.fixture(scope="module")
def taught_batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("taught")
    job(folder, 8, 1, distill=0.5)
    return folder


@pytest.fixture(scope="module")
def large_batch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    job(folder, 8, 1)
    return folder


def assert_same_training(folder: Path, expected: Path) -> None:
    # AdamW moves a weight by about the learning rate, whatever the size of its gradient: rounding of the smallest
    # gradients shows. 2e-5 is a fiftieth of a step; a mean of means differs by several steps.
    losses = [
        [row["loss"] for row in read_jsonl(path / "log.jsonl") if row["kind"] == "train"] for path in (folder, expected)
    ]
    assert len(losses[0]) == STEPS
    np.testing.assert_allclose(*losses, rtol=2e-6)
    weights, others = (load_file(path / "end/model.safetensors") for path in (folder, expected))
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=2e-5)


def test_parts_have_unequal_label_counts(tmp_path: Path) -> None:
    labels = torch.stack([example["labels"] for example in (examples(tmp_path, 8)[i] for i in range(8))])
    counts = (labels[:, 1:] != -100).sum(1)
    assert counts.min() * 3 < counts.max()


@pytest.mark.parametrize(("batch", "accumulation"), [(4, 2), (2, 4), (1, 8)])
def test_accumulated_batches_equal_one(batch: int, accumulation: int, tmp_path: Path, large_batch: Path) -> None:
    job(tmp_path, batch, accumulation)
    assert_same_training(tmp_path, large_batch)


def test_accumulated_batches_with_a_teacher_equal_one(tmp_path: Path, taught_batch: Path, large_batch: Path) -> None:
    job(tmp_path, 2, 4, distill=0.5)
    assert_same_training(tmp_path, taught_batch)
    losses = [read_jsonl(path / "log.jsonl")[1]["loss"] for path in (taught_batch, large_batch)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("distill", ["0", "0.5"])
def test_two_processes_equal_one(distill: str, tmp_path: Path, large_batch: Path, taught_batch: Path) -> None:
    """Two processes with two batches of two each, over gloo: they share the examples of a step."""
    paths = [str(Path(__file__).parent), str(TESTS), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    code = (
        "import sys, pathlib, test_accumulation as t\n"
        "t.job(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:4]), distill=float(sys.argv[4]))"
    )
    script = tmp_path / "worker.py"
    script.write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    arguments = [str(tmp_path / "run"), "2", "4", distill]
    done = subprocess.run([*launch, *arguments], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_same_training(tmp_path / "run", taught_batch if float(distill) else large_batch)


def test_losses_of_parts_add_up() -> None:
    """The worked number: 5 labels and 1 label; the loss is the sum over 6, not the mean of two means."""
    model = tiny_model(llama_config(window=16))
    ids = torch.arange(2, 18)[None]
    few, many = ids.clone(), ids.clone()
    few[:, :-1], many[:, :-5] = -100, -100
    positions = torch.arange(16)[None]
    with torch.no_grad():
        parts = [float(SkippedLoss(model)(ids, positions, y, num_items_in_batch=6)["loss"]) for y in (few, many)]
        means = [float(loss(model, ids, positions, y)) for y in (few, many)]
    assert sum(parts) == pytest.approx((means[0] + 5 * means[1]) / 6, rel=1e-6)
    assert sum(parts) != pytest.approx(sum(means) / 2, rel=1e-3)
