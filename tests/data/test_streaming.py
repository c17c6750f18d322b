"""Text that is tokenised while it is read: examples by their definition, whatever the timing; stops and resumes."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from skipwise.config import DataConfig
from skipwise.data import store_building, streaming, token_store, tokenising
from skipwise.data.streaming import StreamedPositions, TextStream
from skipwise.errors import SkipwiseError
from skipwise.positions.sampler import Sampler, example_order
from support.tiny import tiny_tokenizer

SIZE = 16
FILES = ("tokens.bin", "offsets.bin", "names.txt", "hashes.bin", "passages.bin", "passage_offsets.bin")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 8 examples, and batches of about one document."""
    monkeypatch.setattr(streaming, "WINDOW", 8)
    monkeypatch.setattr(streaming, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(store_building, "BATCH", 200)


@pytest.fixture
def corpus(tmp_path: Path) -> DataConfig:
    """Files and rows of 0 to 60 words, with duplicates among them."""
    generator, folder = random.Random(0), tmp_path / "data"
    folder.mkdir()

    def text(words: int) -> str:
        return " ".join("".join(generator.choices("abcdefgh", k=4)) for _ in range(words))

    for name in ("a", "b"):
        (folder / f"{name}.txt").write_text(text(60))
        rows = [text(generator.randint(0, 60)) for _ in range(40)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in [*rows, *rows[:9]]))
    return DataConfig(paths=[str(folder)], cache=str(tmp_path / "cache"))


def stream_of(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerFast,
    *,
    minimum: int = SIZE,
    hold_out: int = 3 * SIZE,
    ahead: int = 1,
) -> TextStream:
    return TextStream(data, tokenizer, document_length=minimum, example_length=SIZE, hold_out=hold_out, ahead=ahead)


def examples_of(stream: TextStream) -> StreamedPositions:
    sampler = Sampler("pose", train_length=SIZE, target_length=4 * SIZE, seed=3)
    return StreamedPositions(stream, sampler=sampler, examples=10_000)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


def same_files(one: Path, other: Path) -> bool:
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in FILES)


def test_examples_are_what_their_definition_says(corpus: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    stream = stream_of(corpus, tokenizer)
    examples = examples_of(stream)
    examples[0]
    assert not stream.complete
    store = token_store.open_store(corpus, tokenizer, progress=False)
    long_enough = [index for index in range(len(store)) if len(store[index]) >= SIZE]
    # The first document has more than the three examples that are held out: it gives its end.
    assert stream.held_out.spans.tolist() == [[long_enough[0], len(store[long_enough[0]]) - 3 * SIZE, len(store[0])]]
    texts = [store[index] for index in long_enough]
    texts[0] = texts[0][: -3 * SIZE]
    slots = [(document, piece) for document, text in enumerate(texts) for piece in range(len(text) // SIZE)]
    for item in (0, 7, 8, 33, len(slots) - 1, len(slots), 2 * len(slots) + 5):
        example, passes = examples[item], item // len(slots)
        if passes:
            slot = example_order(3, passes, len(slots))[item % len(slots)]
        else:
            block = item // 8
            order = example_order(3, 2**32 + block, min(8, len(slots) - 8 * block))
            slot = 8 * block + order[item % 8]
        text = texts[slots[slot][0]]
        layout = examples.sampler.draw(0, [item], len(text))
        assert example["input_ids"].tolist() == text[layout.text_offsets[0]].tolist()
        assert example["position_ids"].tolist() == layout.position_ids[0].tolist()
    first_pass = sorted(examples.slot(item) for item in range(len(slots)))
    assert first_pass == list(range(len(slots)))
    assert stream.slots == len(slots)
    stream.close()


def test_examples_do_not_depend_on_timing(
    corpus: DataConfig, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = stream_of(corpus, tokenizer)
    before = [examples_of(growing)[item] for item in (0, 3, 9, 30)]
    assert not growing.complete
    last = examples_of(growing)[2000]
    assert growing.complete
    growing.close()
    finished = stream_of(corpus, tokenizer)
    assert finished.complete
    after = [examples_of(finished)[item] for item in (0, 3, 9, 30, 2000)]
    assert all(equal(one, other) for one, other in zip([*before, last], after, strict=True))


def test_a_finished_stream_is_the_store_of_one_pass(
    corpus: DataConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    stream = stream_of(corpus, tokenizer)
    stream.wait_for(10**6)
    whole = token_store.open_store(corpus.model_copy(update={"cache": str(tmp_path / "other")}), tokenizer)
    assert same_files(stream.store.folder, whole.folder)
    assert token_store.open_store(corpus, tokenizer).folder == stream.store.folder
    assert stream.store.meta == whole.meta
    assert stream.store.duplicates_text
    stream.close()


def test_a_stopped_stream_goes_on_behind_its_last_document(
    corpus: DataConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = token_store.open_store(corpus.model_copy(update={"cache": str(tmp_path / "other")}), tokenizer)
    counts = []
    encode = tokenising.encode
    for _ in range(100):
        tokenised = list[str]()

        def count(tokenizer: Any, texts: list[str], dtype: Any, tokenised: list[str] = tokenised) -> Any:
            tokenised += texts
            return encode(tokenizer, texts, dtype)

        monkeypatch.setattr(store_building, "encode", count)
        stream = stream_of(corpus, tokenizer)
        stream.wait_for(stream.slots + 20)
        stream.close()
        counts.append(len(tokenised))
        if stream.complete:
            break
        folder = streaming.unfinished(stream.store.folder)
        for name in FILES:  # what a killed process may leave behind the last whole document
            with (folder / name).open("ab") as file:
                file.write(b"12345678 left by a killed process")
    assert len(counts) > 3
    assert sum(counts) < 110 + 3 * len(counts)  # 100 documents with text, and a few twice at each stop
    assert same_files(stream.store.folder, whole.folder)
    assert not streaming.unfinished(stream.store.folder).exists()


def test_another_process_reads_what_the_first_one_fills(
    corpus: DataConfig, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stream_of(corpus, tokenizer)
    other = stream_of(corpus, tokenizer)
    assert equal(examples_of(first)[2], examples_of(other)[2])
    fills: list[TextStream] = []
    fill = TextStream._fill
    monkeypatch.setattr(TextStream, "_fill", lambda self: (fills.append(self), fill(self)))
    slots = first.slots
    other.wait_for(slots + 40)  # more than the first one would fill by itself
    assert other.slots >= slots + 40
    assert fills == []
    first.close()
    other.wait_for(10**6)  # and it goes on itself when the first one has ended
    assert other.complete
    assert fills == [other]
    other.close()


def test_an_error_in_the_text_comes_when_its_place_is_reached(
    corpus: DataConfig, tokenizer: PreTrainedTokenizerFast
) -> None:
    (Path(corpus.paths[0]) / "c.jsonl").write_text('{"text": "fine"}\n{"text": broken\n')
    stream = stream_of(corpus, tokenizer)
    examples_of(stream)[0]
    with pytest.raises(SkipwiseError, match=r"c\.jsonl:2 is not JSON"):
        stream.wait_for(10**6)
    stream.close()


def test_too_little_text_is_one_line(corpus: DataConfig, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(SkipwiseError, match=r"too little text .*: documents need 100,000 tokens .* the longest"):
        stream_of(corpus, tokenizer, minimum=100_000)
    with pytest.raises(SkipwiseError, match="the first ones are held out"):
        stream_of(corpus, tokenizer, hold_out=10**6)


def test_a_cache_that_cannot_be_written_is_one_line(
    corpus: DataConfig, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SkipwiseError, match=r"cannot write tokens to .*file.*set data\.cache"):
        stream_of(corpus.model_copy(update={"cache": str(tmp_path / "file")}), tokenizer)
