"""Duplicates are left out of token stores: exact ones by their hash, near ones by MinHash."""

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from skipwise.config import DataConfig
from skipwise.data import documents, near_duplicates, token_store
from skipwise.data.earlier_sources import EarlierSources, Fresh
from skipwise.errors import SkipwiseError
from support.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def store_of(
    folder: Path, texts: list[str], tokenizer: PreTrainedTokenizerFast, **options: object
) -> token_store.TokenStore:
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    data = DataConfig(paths=[str(folder / "data.jsonl")], cache=str(folder / "cache"), **options)  # type: ignore[arg-type]
    return token_store.open_store(data, tokenizer, progress=False)


def words(n: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefgh", k=5)) for _ in range(n)]


def lines_of(store: token_store.TokenStore) -> list[int]:
    return [int(name.split(":")[1]) for name in store.names]


def test_the_first_of_equal_documents_stays(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["one text", "another text", " one\n text", "One text", "another text", "\u00ad"]
    store = store_of(tmp_path, texts, tokenizer)
    assert lines_of(store) == [1, 2, 4, 6]
    assert [tokenizer.decode(store[index]) for index in range(3)] == ["one text", "another text", "One text"]
    assert store.duplicates_text == ", 2 exact duplicates"
    whole = store_of(tmp_path, texts, tokenizer, duplicates="keep")
    assert lines_of(whole) == [1, 2, 3, 4, 5, 6]
    assert whole.duplicates_text == ""
    assert whole.fingerprint != store.fingerprint


def test_a_long_duplicate_is_cut_off_again(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE", 500)
    monkeypatch.setattr(documents, "SEARCHED", 100)
    long = " ".join(words(1000, 0))
    store = store_of(tmp_path, [long, "between", long, "after"], tokenizer)
    assert lines_of(store) == [1, 2, 4]
    assert tokenizer.decode(store[0]) == long
    assert tokenizer.decode(store[2]) == "after"
    assert store.offsets[-1] == len(store.tokens)
    assert store.passage_offsets[-1] == len(store.passages)


def test_near_duplicates_are_left_out(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    pytest.importorskip("rensa")
    base = words(400, 1)
    near, far, other = base.copy(), base.copy(), words(400, 2)
    near[100:102] = words(2, 3)  # 6 of 396 runs differ: 390 / 402 in common
    far[::8] = words(50, 4)  # most runs of five differ
    texts = [" ".join(text) for text in (base, near, far, other, [word.upper() for word in other], ["few", "words"])]
    store = store_of(tmp_path, [*texts, "few  words"], tokenizer, duplicates="near")
    assert lines_of(store) == [1, 3, 4, 6]
    assert store.duplicates_text == ", 1 exact duplicate, 2 near duplicates"
    strict = store_of(tmp_path, texts, tokenizer, duplicates="near", similarity=1.0)
    assert lines_of(strict) == [1, 2, 3, 4, 6]


def test_the_estimate_is_that_of_jaccard() -> None:
    """Pairs at known similarities, far enough from the limit of 0.8 on either side, are told apart."""
    pytest.importorskip("rensa")
    for seed in range(20):
        base, changed = words(2000, seed), words(2000, seed)
        for place in range(0, 2000, 100):  # 20 of 400 fifths: 100 of 1996 runs differ, 0.905 in common
            changed[place + 50] = f"new{seed}{place}"
        unlike = base.copy()
        for place in range(0, 2000, 20):  # 500 of 1996 runs differ: 0.6 in common
            unlike[place + 10] = f"new{seed}{place}"
        index = near_duplicates.NearDuplicates(0.8)
        verdicts = []
        for text in (base, changed, unlike):
            index.add(" ".join(text))
            verdicts.append(index.close())
        assert verdicts == [False, True, False]


def test_the_parts_of_a_document_do_not_matter_to_minhash() -> None:
    pytest.importorskip("rensa")
    text = words(300, 5)
    index = near_duplicates.NearDuplicates(1.0)
    index.add(" ".join(text))
    assert not index.close()
    for start in range(0, 300, 30):
        index.add(" ".join(text[start : start + 30]))
    assert index.close()


def chosen(folder: Path, sources: list[list[str]], tokenizer: PreTrainedTokenizerFast, kind: str) -> list[Fresh]:
    """What is chosen of each source of a mixture, all of whose documents are long enough."""
    earlier, parts = EarlierSources(DataConfig(paths=["x"], duplicates=kind)), []  # type: ignore[arg-type]
    for number, texts in enumerate(sources):
        (folder / f"{number}").mkdir(exist_ok=True)
        store = store_of(folder / f"{number}", texts, tokenizer, duplicates=kind)
        parts.append(earlier.fresh(store, np.arange(len(store))))
    return parts


def test_documents_of_an_earlier_source_are_left_out(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    sources = [["one", "two", "two"], ["three", " two\n"], ["two", "one", "three", "four"]]
    parts = chosen(tmp_path, sources, tokenizer, "exact")
    assert [part.indices.tolist() for part in parts] == [[0, 1], [0], [3]]
    assert [part.exact for part in parts] == [0, 1, 3]
    assert parts[2].text == ", 3 exact duplicates of earlier sources"
    assert [len(part.indices) for part in chosen(tmp_path, sources, tokenizer, "keep")] == [3, 2, 4]


def test_near_duplicates_of_an_earlier_source_are_left_out(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """The same verdicts as for one corpus of all documents, many enough to share bands by chance."""
    pytest.importorskip("rensa")
    bases = [words(400, seed) for seed in range(30)]
    near = [base[:100] + words(2, 100 + n) + base[102:] for n, base in enumerate(bases[:10])]  # 390 / 402 in common
    far = [[*base[:200], *words(200, 200 + n)] for n, base in enumerate(bases[10:20])]
    sources = [[" ".join(text) for text in each] for each in (bases, near + far, [words(400, 300), near[3], bases[4]])]
    parts = chosen(tmp_path, sources, tokenizer, "near")
    assert [part.indices.tolist() for part in parts] == [[*range(30)], [*range(10, 20)], [0]]
    assert [(part.exact, part.near) for part in parts] == [(0, 0), (0, 10), (1, 1)]
    whole = store_of(tmp_path, [text for each in sources for text in each], tokenizer, duplicates="near")
    assert lines_of(whole) == [*range(1, 31), *range(41, 51), 51]


def test_a_store_without_its_signatures_is_made_again(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    pytest.importorskip("rensa")
    store = store_of(tmp_path, ["one text", "another"], tokenizer, duplicates="near")
    assert store.signatures.shape == (2, near_duplicates.PERMUTATIONS)
    assert token_store.is_whole(store.folder)
    (store.folder / "signatures.bin").unlink()
    assert not token_store.is_whole(store.folder)


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9, 0.95])
def test_bands_compare_what_is_similar_enough(similarity: float) -> None:
    bands = near_duplicates.bands(similarity)
    rows = near_duplicates.PERMUTATIONS // bands
    assert bands * rows == near_duplicates.PERMUTATIONS
    assert 1 - (1 - similarity**rows) ** bands >= 0.99


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SkipwiseError, match=r"needs the package rensa: pip install 'skipwise\[near-duplicates\]'"):
        near_duplicates.require_package()
