"""Token stores on real files with real tokenizers, built, killed, shared and reused; spans held out."""

import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from skipwise.config import DataConfig
from skipwise.data import documents, store_building, text_sources, token_store, tokenising
from skipwise.errors import SkipwiseError

LLAMA3 = r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)"""  # the pattern of Llama 3
LLAMA3 += r"""|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
SOURCE = Path(text_sources.__file__).read_text() + Path(token_store.__file__).read_text()


def train(size: int = 400, *, pattern: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on this package's own source: of the GPT-2 kind, or with another pattern."""
    backend = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    before = [pre_tokenizers.Split(Regex(pattern), "isolated")] if pattern else []
    backend.pre_tokenizer = pre_tokenizers.Sequence([*before, split])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    backend.train_from_iterator([SOURCE], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train()


def prose(words: int, seed: int = 0) -> str:
    """Words in lines and paragraphs, with indented lines and numbers among them."""
    generator = random.Random(seed)
    parts = []
    for _ in range(words):
        parts.append(generator.choice(["def", "source", "Überfluß", "path.", "12345", '"text"', "tokens", "日本"]))
        parts.append(generator.choices([" ", "\n", "\n\n", "\n    ", ",  "], [20, 3, 1, 1, 1])[0])
    return "".join(parts)


def config(folder: Path, **options: object) -> DataConfig:
    return DataConfig(paths=[str(folder / "data")], cache=str(folder / "cache"), **options)  # type: ignore[arg-type]


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if not path.name.endswith(".lock"))


def test_a_store_holds_the_tokens_of_every_document(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = tmp_path / "data"
    data.mkdir()
    odd = os.fsdecode(b"odd\xff.txt")  # a name that is not UTF-8
    contents = {"a.txt": prose(300), "b.md": "short", "empty.txt": "", "long.txt": prose(2000, 1), odd: "odd"}
    for name, content in contents.items():
        (data / name).write_text(content)
    (data / "rows.jsonl").write_text('{"text": "first row"}\n{"text": ""}\n{"text": "line\\nline"}\n')
    store = token_store.open_store(config(tmp_path), tokenizer, progress=False)
    assert store.names == ["a.txt", "b.md", "long.txt", "odd?.txt", "rows.jsonl:1", "rows.jsonl:3"]
    assert len(store) == 6
    assert store.tokens.dtype == np.uint16
    assert isinstance(store.tokens, np.memmap)
    wanted = [contents["a.txt"], "short", contents["long.txt"], "odd", "first row", "line\nline"]
    for index, text in enumerate(wanted):
        assert store[index].tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(store[index]) == text
        assert np.array_equal(tokenising.tokenise(tokenizer, text), store[index])
    assert store.lengths.tolist() == [len(store[index]) for index in range(6)]
    assert store.offsets.dtype == np.int64
    for index in (-1, 6):
        with pytest.raises(IndexError):
            store[index]
    copy = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 1000
    assert np.array_equal(copy.tokens, store.tokens)


@pytest.mark.parametrize("pattern", [None, LLAMA3], ids=["gpt2", "llama3"])
def test_cutting_long_text_does_not_change_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str | None
) -> None:
    chosen, text = train(pattern=pattern), prose(20_000)
    monkeypatch.setattr(documents, "PIECE", 3000)
    monkeypatch.setattr(documents, "SEARCHED", 1000)
    monkeypatch.setattr(store_building, "BATCH", 10_000)
    (tmp_path / "data").write_text(text)
    whole = chosen(text, add_special_tokens=False)["input_ids"]
    store = token_store.open_store(config(tmp_path), chosen, progress=False)
    assert len(store) == 1
    assert store[0].tolist() == whole
    assert tokenising.tokenise(chosen, text).tolist() == whole


@pytest.mark.parametrize(("size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_a_large_vocabulary_takes_uint32(tmp_path: Path, size: int, dtype: type) -> None:
    vocabulary = {f"w{index}": index for index in range(size)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    chosen = PreTrainedTokenizerFast(tokenizer_object=backend)
    (tmp_path / "data").write_text(f"w1 w65535 w{size - 1}")
    store = token_store.open_store(config(tmp_path), chosen, progress=False)
    assert store.tokens.dtype == dtype
    assert store[0].tolist() == [1, 65_535, size - 1]


def test_a_store_is_reused_until_something_it_depends_on_changes(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("some text")
    (data / "b.txt").write_text("other text")

    def built(chosen: PreTrainedTokenizerFast = tokenizer, **options: object) -> tuple[str, int]:
        store = token_store.open_store(config(tmp_path, **options), chosen, progress=False)
        return store.fingerprint, (store.folder / "meta.json").stat().st_ino

    first = built()
    tokenizer(["x y z", "w"], truncation=True, max_length=2, padding=False)  # leaves its mark on the backend
    assert built() == first
    assert built(validation=0.3) == first
    assert built(exclude=["b.txt"])[0] != first[0]
    assert built(train(380))[0] != first[0]
    (data / "a.txt").write_text("new text, more of it")
    changed = built()
    assert changed[0] != first[0]
    (tmp_path / "cache" / changed[0] / "tokens.bin").write_bytes(b"cut")
    again = built()
    assert again[0] == changed[0]
    assert again[1] != changed[1]


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: PreTrainedTokenizerFast) -> None:
    (tmp_path / "data").write_text("some text")
    data = DataConfig(paths=[str(tmp_path / "data")])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("SKIPWISE_CACHE", raising=False)
    assert token_store.open_store(data, tokenizer, progress=False).folder.parent == tmp_path / "xdg/skipwise/tokens"
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "own"))
    assert token_store.open_store(data, tokenizer, progress=False).folder.parent == tmp_path / "own/tokens"
    (tmp_path / "file").touch()
    with pytest.raises(SkipwiseError, match=r"cannot write tokens to .*file.*set data\.cache"):
        token_store.open_store(data.model_copy(update={"cache": str(tmp_path / "file")}), tokenizer)


def test_a_failing_build_leaves_nothing(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text(prose(1000))
    (data / "b.jsonl").write_text('{"text": "fine"}\n{"text": broken\n')
    with pytest.raises(SkipwiseError, match=r"b\.jsonl:2 is not JSON"):
        token_store.open_store(config(tmp_path), tokenizer, progress=False)
    assert left(tmp_path / "cache") == []


BUILD = """
import resource, sys
from pathlib import Path
from transformers import PreTrainedTokenizerFast
from skipwise.data import token_store
from skipwise.config import DataConfig
from skipwise.errors import SkipwiseError

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("ready", flush=True)
try:
    store = token_store.open_store(DataConfig(paths=[str(folder / "data")], cache=str(folder / "cache")), tokenizer)
except SkipwiseError as error:
    print(error)
else:
    print(len(store), int(store.lengths.sum()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def start(folder: Path, *, limit: int = 0) -> "subprocess.Popen[str]":
    """A fresh process that builds the store of `folder`/data with `folder`/tokenizer.json."""
    command = [sys.executable, "-c", BUILD, str(folder), str(limit)]
    environment = os.environ | {"OMP_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}

    def listen() -> None:  # a parent in the background has Ctrl-C ignored, which a child would inherit
        signal.signal(signal.SIGINT, signal.default_int_handler)

    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, preexec_fn=listen, **pipes)


def wait_for_partial(cache: Path) -> None:
    """Until a build has written tokens into its temporary folder."""
    for _ in range(3000):
        if any(path.stat().st_size for path in cache.glob(".*/tokens.bin")):
            return
        time.sleep(0.01)
    raise AssertionError("no build was seen")


@pytest.fixture
def large(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a tokenizer and some 15 MB of text in one file: seconds of work."""
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "data").write_text(prose(20_000) * 120)
    return tmp_path


def test_a_killed_build_is_no_store_and_is_cleared(large: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    process = start(large)
    wait_for_partial(large / "cache")
    process.kill()
    process.wait()
    (partial,) = left(large / "cache")
    assert partial.startswith(".")
    (large / "data").write_text("another, small corpus")
    store = token_store.open_store(config(large), tokenizer, progress=False)
    assert left(large / "cache") == [store.folder.name]


def test_an_interrupted_build_leaves_nothing(large: Path) -> None:
    process = start(large)
    wait_for_partial(large / "cache")
    process.send_signal(signal.SIGINT)
    errors = process.communicate()[1]
    assert "KeyboardInterrupt" in errors
    assert left(large / "cache") == []


def test_a_full_disk_is_one_line_and_leaves_nothing(large: Path) -> None:
    out = start(large, limit=2**20).communicate()[0].splitlines()
    assert out[1].startswith(f"cannot write tokens to {large / 'cache'}: File too large")
    assert len(out) == 2
    assert left(large / "cache") == []


def test_two_processes_build_one_store(large: Path) -> None:
    (large / "data").write_text(prose(20_000) * 10)
    both = [start(large), start(large)]
    results = [process.communicate() for process in both]
    reports = {tuple(out.splitlines()[1].split()[:2]) for out, _ in results}
    assert len(reports) == 1
    assert len(left(large / "cache")) == 1
    assert sum("tokenising:" in errors for _, errors in results) == 1


def make_store(folder: Path, lengths: list[int]) -> token_store.TokenStore:
    """A store of documents with these numbers of tokens, from words of one token each."""
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    rows = "".join('{"text": "' + "a " * length + '"}\n' for length in lengths)
    (folder / "data.jsonl").write_text(rows)
    data = DataConfig(paths=[str(folder / "data.jsonl")], cache=str(folder / "cache"), duplicates="keep")
    return token_store.open_store(data, PreTrainedTokenizerFast(tokenizer_object=backend), progress=False)


def test_usable_documents(tmp_path: Path) -> None:
    store = make_store(tmp_path, [5, 100, 99, 300])
    assert store.lengths.tolist() == [5, 100, 99, 300]
    assert token_store.usable(store, 100).tolist() == [1, 3]
    assert token_store.left_out(store, 100) == (2, 104)
    with pytest.raises(SkipwiseError, match=r"no document has the 1,000 tokens .* data\.jsonl:4, has 300; give longer"):
        token_store.usable(store, 1000)
    with pytest.raises(SkipwiseError, match=r"301 tokens that data\.minimum_tokens asks for: .* smaller data\.minim"):
        token_store.usable(store, 301, setting="data.minimum_tokens")


@pytest.mark.parametrize(
    ("lengths", "share", "train", "held"),
    [
        # whole documents from the end
        ([100] * 10, 0.2, [(i, 0, 100) for i in range(8)], [(8, 0, 100), (9, 0, 100)]),
        # the tail of the only document
        ([1000], 0.1, [(0, 0, 900)], [(0, 900, 1000)]),
        # a share below the minimum is raised to it
        ([1000], 0.001, [(0, 0, 950)], [(0, 950, 1000)]),
        # a short last document whole, then the tail of the long one before it
        ([1000, 50], 0.2, [(0, 0, 840)], [(0, 840, 1000), (1, 0, 50)]),
        # a last document too short to be cut is held out whole
        ([500, 90], 0.02, [(0, 0, 500)], [(1, 0, 90)]),
        # more than half of the share is held, and the next document is long: enough
        ([10_000, 800, 800], 0.2, [(0, 0, 10_000)], [(1, 0, 800), (2, 0, 800)]),
    ],
)
def test_the_end_is_held_out(
    tmp_path: Path,
    lengths: list[int],
    share: float,
    train: list[tuple[int, int, int]],
    held: list[tuple[int, int, int]],
) -> None:
    store = make_store(tmp_path, lengths)
    training, validation = token_store.split(store, token_store.usable(store, 50), share, 50)
    assert [tuple(span) for span in training.tolist()] == train
    assert [tuple(span) for span in validation.tolist()] == held


def test_too_little_to_hold_out(tmp_path: Path) -> None:
    store = make_store(tmp_path, [3, 99])
    with pytest.raises(SkipwiseError, match="one document of 99 tokens, at least 100"):
        token_store.split(store, token_store.usable(store, 50), 0.1, 50)


class Lengths:
    """All that `split` reads of a store."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = np.array(lengths)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 3000), min_size=1, max_size=30),
    st.floats(0.001, 0.499),
    st.integers(1, 500),
)
def test_spans_never_overlap_and_are_long_enough(lengths: list[int], share: float, minimum: int) -> None:
    long_enough = np.flatnonzero(np.array(lengths) >= minimum)
    if not len(long_enough) or (len(long_enough) == 1 and lengths[long_enough[0]] < 2 * minimum):
        return
    training, validation = token_store.split(Lengths(lengths), long_enough, share, minimum)  # type: ignore[arg-type]
    taken = [np.zeros(length, dtype=int) for length in lengths]
    for document, first, stop in [*training.tolist(), *validation.tolist()]:
        assert stop - first >= minimum
        taken[document][first:stop] += 1
    for document, count in enumerate(taken):
        assert (count == (document in long_enough)).all()
    assert len(training)
    assert len(validation)
    total = sum(lengths[document] for document in long_enough)
    held = int((validation[:, 2] - validation[:, 1]).sum())
    assert held >= minimum
    assert held <= max(1.5 * share * total + 1, 2 * minimum + share * total + 1)
    assert held >= min(share * total / 2 - 1, share * total - 2 * minimum - 1)
    assert validation[:, 0].min() >= training[:, 0].max()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path: Path) -> None:
    """1 GB of text, half of it in one file, takes less than 150 MB more at peak than 50 MB do."""
    generator, peaks = random.Random(0), []
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyzäß", k=generator.randint(2, 14))) for _ in range(500)]
    text = "".join(generator.choice(words) + generator.choice("     \n") for _ in range(100_000))
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.train_from_iterator([text], trainers.BpeTrainer(vocab_size=8000, show_progress=False))
    block = text.encode() * (5_000_000 // len(text.encode()) + 1)
    for megabytes in (50, 1000):
        folder = tmp_path / str(megabytes)
        (folder / "data").mkdir(parents=True)
        backend.save(str(folder / "tokenizer.json"))
        repeats = megabytes * 1_000_000 // 2 // len(block) + 1
        with (folder / "data" / "one_document.txt").open("wb") as file:
            file.writelines([block] * repeats)
        for index in range(repeats):
            (folder / "data" / f"part_{index:03}.txt").write_bytes(f"{index} ".encode() + block)
        out, errors = start(folder).communicate()
        print(errors)
        documents, count, peak = (int(part) for part in out.splitlines()[1].split())
        assert documents == repeats + 1
        assert count > megabytes * 50_000
        peaks.append(peak / 1024)
    print(f"peak memory: {peaks[0]:.0f} MB for 50 MB of text, {peaks[1]:.0f} MB for 1 GB")
    assert peaks[1] - peaks[0] < 150
