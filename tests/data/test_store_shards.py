"""Shards of several processes become the store of one process; with datatrove's executor, two workers."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from skipwise.config import DataConfig
from skipwise.data import store_shards, token_store
from skipwise.data.store_building import Corpus
from skipwise.errors import SkipwiseError
from support.tiny import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).parents[2]
FILES = ("tokens.bin", "offsets.bin", "names.txt", "hashes.bin", "passages.bin", "passage_offsets.bin")


@pytest.fixture
def corpus(tmp_path: Path) -> DataConfig:
    """Five files of text and rows, one of them without text, with duplicates within and between them."""
    generator, folder = random.Random(0), tmp_path / "data"
    folder.mkdir()
    texts = [" ".join(generator.choices(["one", "two", "three", "four"], k=200)) for _ in range(12)]
    for number, name in enumerate(("a.jsonl", "b.jsonl", "c.jsonl")):
        rows = [texts[(3 * number + index) % 12] for index in range(6)] + texts[:1]
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in rows))
    (folder / "d.txt").write_text(texts[5] + "\n\nand more")
    (folder / "e.jsonl").write_text('{"text": ""}\n')
    return DataConfig(paths=sorted(map(str, folder.iterdir())), cache=str(tmp_path / "cache"))


def whole(corpus: DataConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> token_store.TokenStore:
    other = corpus.model_copy(update={"cache": str(tmp_path / "other")})
    return token_store.open_store(other, tokenizer, progress=False)


def assert_same(one: token_store.TokenStore, other: token_store.TokenStore) -> None:
    assert one.meta == other.meta
    assert one.folder.name == other.folder.name
    assert all((one.folder / name).read_bytes() == (other.folder / name).read_bytes() for name in FILES)


@pytest.mark.parametrize("duplicates", ["exact", "keep"])
def test_shards_become_the_store_of_one_process(corpus: DataConfig, tmp_path: Path, duplicates: str) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "tokenizer")
    corpus = corpus.model_copy(update={"duplicates": duplicates})
    parts, folder = Corpus(corpus, tokenizer), tmp_path / "shards"
    assert store_shards.write_shards(parts, folder, 1, 2) == [1, 3]
    with pytest.raises(SkipwiseError, match=r"3 of 5 shards are missing in .*, e\.g\. that of a\.jsonl"):
        store_shards.merge_shards(parts, folder)
    assert store_shards.write_shards(parts, folder, 0, 2) == [0, 2, 4]
    assert store_shards.write_shards(parts, folder, 0, 1) == []
    store = store_shards.merge_shards(parts, folder)
    assert_same(store, whole(corpus, tokenizer, tmp_path))
    assert bool(store.duplicates_text) == (duplicates == "exact")
    assert token_store.open_store(corpus, tokenizer).folder == store.folder


def test_near_duplicates_are_refused(corpus: DataConfig, tmp_path: Path) -> None:
    parts = Corpus(corpus.model_copy(update={"duplicates": "near"}), tiny_tokenizer(tmp_path / "tokenizer"))
    with pytest.raises(SkipwiseError, match="shards cannot; use exact or keep"):
        store_shards.write_shards(parts, tmp_path / "shards", 0, 1)


def test_datatrove_makes_the_store_of_one_process(corpus: DataConfig, tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    tiny_llama(tmp_path / "tiny", window=64)
    command = [sys.executable, str(ROOT / "recipes/tokenise_datatrove.py"), "--model", str(tmp_path / "tiny")]
    command += ["--data", *corpus.paths, "--scratch", str(tmp_path / "shards"), "--workers", "2"]
    done = subprocess.run(
        [*command, "--set", f"data.cache={corpus.cache}"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"in {corpus.cache}/{next(Path(corpus.cache or '').iterdir()).name}")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "tiny")
    store = token_store.open_store(corpus, tokenizer, progress=False)
    assert f"{len(store):,} documents, {len(store.tokens):,} tokens, " in done.stdout
    assert_same(store, whole(corpus, tokenizer, tmp_path))
    refused = subprocess.run(
        [*command, "--set", "data.duplicates=near"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert refused.returncode == 2
    assert refused.stderr.splitlines()[-1].startswith("tokenise_datatrove: data.duplicates=near compares")
