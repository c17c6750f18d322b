"""Pre-training: rows teach what they should, Muon does its step, a stopped run goes on exactly, and all of it ends."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, PreTrainedTokenizerFast

from lab import pretrain, pretrain_rows
from lab.pretrain import SIZES, Size, Training, optimizers, share_of_rate, train
from lab.pretrain_rows import MIX, Rows, encode, train_tokenizer
from skipwise.data.labels import IGNORED
from skipwise.errors import SkipwiseError

TINY = Size(2, 32, 64, 2, 1, 128, 1, 8, 2, 1e-2, 4e-3)
VOCABULARY = 400


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [Path(module.__file__ or "").read_text(encoding="utf-8") for module in (pretrain, pretrain_rows)]
    return train_tokenizer(texts, VOCABULARY)


@pytest.fixture(scope="module")
def streams(tokenizer: PreTrainedTokenizerFast) -> pretrain_rows.Streams:
    text = Path(pretrain.__file__).read_text(encoding="utf-8")
    return {name: encode(tokenizer, [text[i * 2000 :]]) for i, name in enumerate(("code", "books", "modern"))}


@pytest.fixture
def rows(tokenizer: PreTrainedTokenizerFast, streams: pretrain_rows.Streams) -> Rows:
    return Rows(tokenizer, streams, TINY.window, MIX, seed=0)


def test_a_batch_is_a_function_of_its_number(rows: Rows) -> None:
    first, again, other = rows.batch(3), rows.batch(3), rows.batch(4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.ids, other.ids)
    assert first.ids.shape == (sum(MIX.values()), TINY.window)
    assert (first.ids[:, 0] == 0).all()


@pytest.mark.parametrize("kind", MIX)
def test_labels_are_the_tokens_or_nothing(rows: Rows, kind: str) -> None:
    for seed in range(20):
        row = rows.row(np.random.default_rng(seed), kind, TINY.window)
        for labels in (row.labels, row.answers):
            assert ((labels == row.ids) | (labels == IGNORED)).all()
        assert (row.answers != IGNORED).any() == (kind in ("recall", "list", "copy"))


def test_the_answers_of_a_list_stand_in_it(rows: Rows, tokenizer: PreTrainedTokenizerFast) -> None:
    """What the row asks for at its end is a value of the list, and no random pair has labels."""
    for seed in range(20):
        row = rows.row(np.random.default_rng(seed), "list", TINY.window)
        first = int(np.argmax(row.answers != IGNORED))
        answer = tokenizer.decode(row.answers[row.answers != IGNORED]).split("'")[0].split('"')[0].strip()
        assert answer[:3] in tokenizer.decode(row.ids[:first])
        unlearnt = np.flatnonzero(row.labels == IGNORED)
        assert len(unlearnt)
        assert unlearnt.max() < first


def test_a_copy_has_labels_from_its_second_passage_on(rows: Rows) -> None:
    row = rows.row(np.random.default_rng(1), "copy", TINY.window)
    period = int(np.argmax(row.labels != IGNORED)) - 1
    assert np.array_equal(row.ids[period:], row.ids[:-period])
    assert (row.labels[period + 1 :] == row.ids[period + 1 :]).all()


def test_muon_orthogonalises_the_momentum_of_each_matrix() -> None:
    """One step against the singular value decomposition: W ← W - rate · 0.2 · √max(n, m) · U Vᵀ.

    Muon's five iterations bring the singular values to 0.7 … 1.2 rather than to 1, so the direction is compared.
    """
    torch.manual_seed(0)
    size = TINY._replace(matrix_rate=0.01)
    model = pretrain.new_model(size, VOCABULARY)
    name, weight = next((n, p) for n, p in model.named_parameters() if "down_proj" in n)
    before, gradient = weight.detach().clone(), torch.randn_like(weight)
    weight.grad = gradient.clone()
    muon, adam = optimizers(model, size)
    muon.step()
    change = (before * (1 - 0.01 * 0.1) - weight.detach()) / (0.01 * 0.2 * max(weight.shape) ** 0.5)
    left, _, right = torch.linalg.svd(gradient, full_matrices=False)
    assert torch.cosine_similarity(change.flatten(), (left @ right).flatten(), dim=0) > 0.97
    assert torch.linalg.svdvals(change).min() > 0.6
    assert torch.linalg.svdvals(change).max() < 1.3
    matrices = {id(p) for p in muon.param_groups[0]["params"]}
    rest = {id(p) for p in adam.param_groups[0]["params"]}
    assert matrices.isdisjoint(rest)
    assert matrices | rest == {id(p) for p in model.parameters()}
    assert id(model.get_input_embeddings().weight) in rest, name


def test_the_rate_rises_stays_and_falls_to_zero() -> None:
    size = SIZES["packaged"]._replace(steps=1000, decay=200)
    shares = [share_of_rate(step, size) for step in range(1000)]
    assert shares[0] == pytest.approx(0.01)
    assert shares[99:801] == [1.0] * 702
    assert shares[900] == pytest.approx(0.5)
    assert shares[999] == pytest.approx(1 / 200)


def weights(training: Training) -> list[torch.Tensor]:
    return [p.detach().clone() for p in training.model.parameters()]


def test_a_stopped_training_goes_on_exactly(rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after a checkpoint that a shorter plan wrote, and resumed by another process's objects: equal weights."""
    monkeypatch.setattr(pretrain, "LOSS_STEPS", 4)
    whole = Training(TINY, VOCABULARY, 0, "cpu")
    train(whole, rows, tmp_path / "whole.pt")

    monkeypatch.setattr(pretrain, "SAVE_SECONDS", -1)  # a checkpoint after every step
    stopped = Training(TINY._replace(steps=50), VOCABULARY, 0, "cpu")
    calls = iter(range(3))
    step = stopped.advance
    monkeypatch.setattr(stopped, "advance", lambda rows: step(rows) if next(calls, None) is not None else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(stopped, rows, tmp_path / "stopped.pt")

    resumed = Training(TINY, VOCABULARY, 5, "cpu")
    resumed.resume(tmp_path / "stopped.pt")
    assert resumed.step == 3
    train(resumed, rows, tmp_path / "stopped.pt")
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(resumed), strict=True))
    assert len(whole.losses) == 2
    assert resumed.losses == whole.losses


def test_a_checkpoint_of_another_training_is_refused(rows: Rows, tmp_path: Path) -> None:
    ended = Training(TINY, VOCABULARY, 0, "cpu")
    ended.save(tmp_path / "early.pt")
    train(ended, rows, tmp_path / "ended.pt")
    Training(TINY._replace(steps=20), VOCABULARY, 0, "cpu").resume(tmp_path / "early.pt")
    for other, path in ((TINY._replace(steps=20), "ended.pt"), (TINY._replace(rate=1e-3), "early.pt")):
        with pytest.raises(SkipwiseError, match="another training"):
            Training(other, VOCABULARY, 0, "cpu").resume(tmp_path / path)


def test_bits_a_byte_of_a_model_that_knows_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    """With a head of zeros every token costs ln V; single-byte tokens of a text of digits make log2 V bits a byte."""
    model = pretrain.new_model(TINY, VOCABULARY).eval()
    torch.nn.init.zeros_(model.lm_head.weight)
    figures = pretrain.held_out(model, tokenizer, "0123456789" * 30, TINY.window)
    assert figures["loss"] == pytest.approx(math.log(VOCABULARY), abs=1e-4)
    assert figures["bits_per_byte"] == pytest.approx(math.log2(VOCABULARY), abs=1e-4)


def test_a_folder_that_holds_something_else_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(SkipwiseError, match="holds something else than a model; name a new folder"):
            pretrain.main(["--data", str(tmp_path / "data"), "--out", str(out)])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(SystemExit):
        pretrain.arguments(["--seed", "-1"])
    (tmp_path / "packaged-0.pt").write_bytes(b"not a checkpoint")
    training = pretrain.Training(TINY, VOCABULARY, 0, "cpu")
    with pytest.raises(SkipwiseError, match="is no whole checkpoint; remove it"):
        training.resume(tmp_path / "packaged-0.pt")


def test_one_command_from_texts_to_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything but the size of things and the packages that would be fetched is that of the real run."""
    monkeypatch.setattr(pretrain, "SIZES", {"packaged": TINY._replace(window=256, steps=3)})
    monkeypatch.setattr(pretrain_rows, "CODE_CHARACTERS", 400_000)
    monkeypatch.setattr(pretrain_rows, "PACKAGES", ("tokenizers",))
    monkeypatch.setattr(pretrain_rows, "read", lambda *names: [Path(pretrain.__file__).read_text(encoding="utf-8")])
    monkeypatch.setattr(pretrain, "read", pretrain_rows.read)
    monkeypatch.setattr(pretrain, "HELD_OUT", ("python-reference",))
    monkeypatch.setattr(pretrain, "VOCABULARY", VOCABULARY)
    monkeypatch.setattr(pretrain, "TRIALS", 1)
    command = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "model")]
    pretrain.main(command)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert type(model) is LlamaForCausalLM
    figures = json.loads((tmp_path / "model/figures.json").read_text(encoding="utf-8"))
    assert figures["tokens"] == 3 * sum(MIX.values()) * 256
    assert {"passkey at 256", "key_value at 256"} <= set(figures["retrieval"])
    assert 0 < figures["held_out"]["python-reference"]["bits_per_byte"] < 8
    before = (tmp_path / "model/model.safetensors").read_bytes()
    pretrain.main(command)  # ended: writes the same again
    assert (tmp_path / "model/model.safetensors").read_bytes() == before
