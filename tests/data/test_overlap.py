"""Passages of some texts are found in a token store, and only in the parts that are trained on."""

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest

from skipwise.config import DataConfig
from skipwise.data import overlap, token_store
from skipwise.data.fingerprints import passages
from skipwise.data.token_store import Spans
from support.tiny import tiny_tokenizer


def paragraph(seed: int) -> str:
    return " ".join("".join(random.Random(seed).choices("abcdefgh", k=8)) for _ in range(1)) * 10


@pytest.fixture
def store(tmp_path: Path) -> token_store.TokenStore:
    """Three documents with the paragraphs 0..9, 10..19 and 20..29."""
    texts = ["\n\n".join(paragraph(number) for number in range(start, start + 10)) for start in (0, 10, 20)]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = DataConfig(paths=[str(tmp_path / "data.jsonl")], cache=str(tmp_path / "cache"))
    return token_store.open_store(data, tiny_tokenizer(tmp_path / "tokenizer"), progress=False)


def hashes(*numbers: int) -> list[int]:
    return list(itertools.chain.from_iterable(passages(paragraph(number)) for number in numbers))


@pytest.mark.parametrize("block", [1, 7, 2**20])
def test_a_part_of_a_document_has_that_part_of_its_passages(
    store: token_store.TokenStore, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlap, "BLOCK", block)
    lengths = store.lengths.tolist()
    spans = [(0, 0, lengths[0]), (2, 0, round(0.4 * lengths[2]))]
    learned = np.concatenate(list(overlap.passages_of(Spans(store, np.array(spans)))))
    assert learned.tolist() == hashes(*range(10), *range(20, 24))
    held = Spans(store, np.array([(2, round(0.4 * lengths[2]), lengths[2])]))
    assert np.concatenate(list(overlap.passages_of(held))).tolist() == hashes(*range(24, 30))


def test_what_is_contained() -> None:
    generator = np.random.default_rng(0)
    wanted = generator.integers(0, 500, 300).astype(np.uint64)
    blocks = [generator.integers(0, 500, size).astype(np.uint64) for size in (0, 50, 70)]
    there = set(np.concatenate(blocks).tolist())
    assert overlap.contained(wanted, blocks).tolist() == [value in there for value in wanted.tolist()]
    assert overlap.contained(wanted, []).sum() == 0
    assert overlap.contained(np.empty(0, np.uint64), blocks).tolist() == []
