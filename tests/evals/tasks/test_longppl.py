"""LongPPL: the rule by hand, key tokens against the published loop, evaluators, plain perplexity, whole runs."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipwise.cli.main import main
from skipwise.config import EvaluationConfig, LongPplConfig, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import runner
from skipwise.evals.paired_change import change, pairs
from skipwise.evals.rows import Row, read
from skipwise.evals.tasks import longppl
from skipwise.evals.tasks.longppl import KeyRule, LossReader
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import load
from support.tiny import tiny_llama

RULE = KeyRule(12, 5, 0.2, -9.0)


def documents(*lengths: int) -> list[tuple[str, Any]]:
    generator = np.random.default_rng(0)
    return [(f"text {i}", generator.integers(3, 500, length)) for i, length in enumerate(lengths)]


def test_the_rule_by_hand() -> None:
    rule = KeyRule(8, 4, 2.0, -2.0)
    #                gains:  2.1 (key)  2.0 (no: not more)  5.0 at -2.0 (no: not more likely)  3 at -1 (key)  -1
    long, short = np.array([0.5, 0.5, 2.0, 1.0, 3.0]), np.array([2.6, 2.5, 7.0, 4.0, 2.0])
    assert rule.keys(long, short).tolist() == [True, False, False, True, False]


def test_lengths_of_the_rule() -> None:
    assert longppl.rule(LongPplConfig(), 32_768)[:2] == (4096, 1024)
    assert longppl.rule(LongPplConfig(), 1024)[:2] == (256, 64)
    assert longppl.rule(LongPplConfig(short_context=100, step=7), 1024) == KeyRule(100, 7, 2.0, -2.0)
    with pytest.raises(SkipwiseError, match=r"short context of 1k tokens and a step of 256 leave no token of 1k"):
        longppl.rule(LongPplConfig(short_context=1024), 1024)


def published_keys(model: Any, tokens: list[int], bos: list[int], rule: KeyRule) -> list[int]:
    """Places of the key tokens by the loop of the published code; a BOS takes one place of the short context."""

    def losses(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, :-1]
        return torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")

    full, short, keys = losses(bos + tokens), rule.short - len(bos), []
    for start in range(0, len(tokens) - short, rule.step):
        end = min(start + short + rule.step, len(tokens))
        part = losses(bos + tokens[start:end])
        for place in range(start + short, end):
            long_loss = full[place + len(bos) - 1]
            short_loss = part[place - start + len(bos) - 1]
            if short_loss - long_loss > rule.gain and long_loss < -rule.log_probability:
                keys.append(place)
    return keys


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize("scaling", [None, {"rope_type": "dynamic", "factor": 2.0}])
def test_key_tokens_are_those_of_the_published_loop(
    tmp_path: Path, bos: int | None, scaling: dict[str, Any] | None
) -> None:
    more = {"rope_parameters": {"rope_theta": 10000.0, **scaling}} if scaling else {}
    loaded = load(ModelConfig(path=str(tiny_llama(tmp_path, window=128, **more)), precision="float32"))
    texts, reader = documents(100, 83), Reader(loaded.model, chunk=64)
    losses, least = LossReader(reader, texts, bos), 1 if bos is None else 0
    read: list[int] = []
    for length in (83, 60):
        long, short = losses.long([length], read.append)[length], losses.short(length, RULE, read.append)
        for (_, tokens), a, b in zip(texts, long, short, strict=True):
            start = [] if bos is None else [bos]
            text = tokens[: length - len(start)].tolist()
            reader.reset()
            wanted = published_keys(loaded.model, text, start, RULE)
            assert (np.flatnonzero(RULE.keys(a, b)) + least).tolist() == wanted
            assert 0 < len(wanted) < length / 2
    assert sum(read) == losses.tokens([83], RULE) + losses.tokens([60], RULE) or bos is not None


def test_short_contexts_are_read_in_batches(tmp_path: Path) -> None:
    loaded = load(ModelConfig(path=str(tiny_llama(tmp_path)), precision="float32"))
    rows: list[int] = []
    loaded.model.get_decoder().embed_tokens.register_forward_hook(lambda _, given, __: rows.append(given[0].shape[0]))
    reader = Reader(loaded.model, chunk=128)
    rows.clear()
    LossReader(reader, documents(100), None).short(100, RULE, lambda tokens: None)
    assert max(rows) == 128 // 17


def evaluated(folder: Path, tmp_path: Path, label: str, **longppl: Any) -> list[Row]:
    loaded = load(ModelConfig(path=str(folder), precision="float32"))
    settings = EvaluationConfig.model_validate(
        {
            "tasks": ["longppl", "perplexity"],
            "documents": 3,
            "longppl": {"short_context": 12, "step": 5, "gain": 0.2, "log_probability": -9.0, **longppl},
        }
    )
    out = tmp_path / f"{label}.jsonl"
    rows = runner.evaluate(loaded, settings, documents(100, 80, 90), label=label, out=out, lengths=[40, 80])
    written = out.read_bytes()
    again = runner.evaluate(loaded, settings, documents(100, 80, 90), label=label, out=out, lengths=[40, 80])
    assert again == rows
    assert out.read_bytes() == written
    return rows


def test_rows_and_plain_perplexity_beside(tmp_path: Path) -> None:
    rows = evaluated(tiny_llama(tmp_path / "a"), tmp_path, "a")
    by = {(row.task, row.variant, row.length): row for row in rows if not row.start}
    for length in (40, 80):
        key, every, plain = (
            by["longppl", "key", length],
            by["longppl", "all", length],
            by["perplexity", "prefix", length],
        )
        assert (every.value, every.low, every.high, every.tokens) == (plain.value, plain.low, plain.high, plain.tokens)
        assert 0 < (key.tokens or 0) < (every.tokens or 0)
        assert key.value < every.value  # key tokens are those that the model finds likely
        assert key.value == pytest.approx(math.exp(sum(key.sums) / sum(key.counts)), rel=1e-4)
        assert (key.n, key.span, key.stride, key.metric) == (3, 12, 5, "perplexity")
        assert key.beyond_window == (length > 64)


def test_two_models_compare_only_by_one_evaluator(tmp_path: Path) -> None:
    first, later = tiny_llama(tmp_path / "a", seed=0), tiny_llama(tmp_path / "b", seed=1)
    each = [evaluated(folder, tmp_path, folder.name) for folder in (first, later)]
    assert not [pair for pair in pairs(*each) if pair[0].task == "longppl"]
    one = [evaluated(folder, tmp_path, f"{folder.name} by b", evaluator=str(later)) for folder in (first, later)]
    both = [pair for pair in pairs(*one) if pair[0].task == "longppl" and pair[0].variant == "key"]
    assert [before.counts for before, _ in both] == [after.counts for _, after in both]
    assert len(both) == 2
    assert all(change(before, after) for before, after in both)
    own = [row for row in each[1] if row.task == "longppl"]
    assert [row.value for row in one[1] if row.task == "longppl"] == [row.value for row in own]


def test_an_evaluator_that_cannot_be(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "a")
    with pytest.raises(SkipwiseError, match="nowhere"):
        longppl.check(EvaluationConfig(longppl={"evaluator": str(tmp_path / "nowhere")}))
    other = tiny_llama(tmp_path / "c", vocab=400)
    with pytest.raises(SkipwiseError, match=r"evaluation\.longppl\.evaluator: .*c has another tokenizer than a"):
        evaluated(model, tmp_path, "a", evaluator=str(other))


def test_no_key_tokens_leave_the_row_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = evaluated(tiny_llama(tmp_path / "a"), tmp_path, "a", gain=100.0)
    assert {row.variant for row in rows if row.task == "longppl"} == {"all"}
    assert "a: longppl at 40: no token needs the long context" in capsys.readouterr().err


def test_a_length_inside_the_short_context_has_plain_perplexity_alone(tmp_path: Path) -> None:
    rows = evaluated(tiny_llama(tmp_path / "a"), tmp_path, "a", short_context=40, step=10)
    assert {(row.variant, row.length) for row in rows if row.task == "longppl"} == {
        ("all", 40),
        ("key", 80),
        ("all", 80),
    }


def test_the_whole_on_a_tiny_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, text, out = tiny_llama(tmp_path / "model"), tmp_path / "text.txt", tmp_path / "rows.jsonl"
    text.write_text(" ".join(f"The {i} rivers of valley {i % 7} run to the sea." for i in range(100)))
    command = ["eval", str(model), "--tasks", "longppl", "--lengths", "128,256", "--out", str(out)]
    assert main(command) == 2
    assert "longppl needs documents" in capsys.readouterr().err
    command += ["--data", str(text), "--set", "evaluation.longppl.gain=0.1"]
    command += ["--set", "evaluation.longppl.log_probability=-20"]
    assert main(command) == 0
    assert [(row.variant, row.length) for row in read(out)] == [("key", 128), ("all", 128), ("key", 256), ("all", 256)]
