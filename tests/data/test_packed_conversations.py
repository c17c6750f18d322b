"""The store of conversations, and rows packed from it: what an item holds and what it depends on."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from skipwise.config import DataConfig
from skipwise.data.conversation_sources import conversation_sources
from skipwise.data.conversation_store import ConversationStore, fitted, open_conversations
from skipwise.data.earlier_sources import EarlierSources
from skipwise.data.labels import IGNORED
from skipwise.data.packed_conversations import PackedConversations, best_fit, split_conversations
from skipwise.errors import SkipwiseError
from skipwise.positions.sampler import Sampler
from support.chat import assistant, chat_tokenizer, user

L, T = 128, 1024


def write(path: Path, count: int = 40, turns: int = 1) -> Path:
    """Conversations of several lengths, the number of each in its text."""
    lines = []
    for i in range(count):
        messages = [m for j in range(turns) for m in (user(f"Say {i}" + " please" * (i % 7)), assistant(f"{i} {j}."))]
        lines.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(lines))
    return path


def open_store(path: Path, tokenizer: Any, cache: Path) -> ConversationStore:
    return open_conversations(DataConfig(cache=str(cache)), conversation_sources(str(path)), tokenizer, progress=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ConversationStore:
    folder = tmp_path_factory.mktemp("chats")
    return open_store(write(folder / "chat.jsonl"), chat_tokenizer(folder / "tokenizer"), folder / "cache")


def test_a_store_is_found_again_and_made_anew_for_other_content(tmp_path: Path) -> None:
    tokenizer, cache = chat_tokenizer(tmp_path / "tokenizer"), tmp_path / "cache"
    path = write(tmp_path / "chat.jsonl", 3)
    first = open_store(path, tokenizer, cache)
    made = (first.folder / "tokens.bin").stat().st_mtime_ns
    assert open_store(path, tokenizer, cache).folder == first.folder
    assert (first.folder / "tokens.bin").stat().st_mtime_ns == made
    assert first.names == ["chat.jsonl:1", "chat.jsonl:2", "chat.jsonl:3"]
    assert first.meta["answer_tokens"] > 0
    (first.folder / "marks.bin").write_bytes(b"")
    assert len(open_store(path, tokenizer, cache).marks) == len(first.tokens), "a damaged one is made again"
    tokenizer.chat_template = "Chat:\n" + str(tokenizer.chat_template)
    assert open_store(path, tokenizer, cache).folder != first.folder
    write(path, 4)
    assert len(open_store(path, tokenizer, cache)) == 4


def test_conversations_that_were_met_are_left_out(tmp_path: Path) -> None:
    """In one store and across sources; the roles count, white space does not."""
    tokenizer = chat_tokenizer(tmp_path / "tokenizer")
    rows = [[user("Hi"), assistant("Yes.")], [user("Hi "), assistant("Yes.\n")], [user("Ho"), assistant("Yes.")]]
    stores = []
    for name, turns in (("a", rows), ("b", [rows[2], [user("New"), assistant("No.")]])):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
        data = DataConfig(paths=[str(path)], cache=str(tmp_path / "cache"))
        stores.append(open_conversations(data, conversation_sources(str(path)), tokenizer, progress=False))
        kept = open_conversations(
            data.model_copy(update={"duplicates": "keep"}), conversation_sources(str(path)), tokenizer, progress=False
        )
        assert len(kept) == len(turns)
    assert [len(each) for each in stores] == [2, 2]
    assert stores[0].duplicates_text == ", 1 exact duplicate"
    assert [name.rpartition(":")[2] for name in stores[0].names] == ["1", "3"]
    earlier = EarlierSources(DataConfig(paths=["x"]))
    chosen = [earlier.fresh(store, np.arange(2)) for store in stores]
    assert [part.indices.tolist() for part in chosen] == [[0, 1], [1]]


def test_a_broken_row_leaves_nothing_behind(tmp_path: Path) -> None:
    path = write(tmp_path / "chat.jsonl", 3)
    path.write_text(path.read_text() + json.dumps({"messages": [user("Hi")]}) + "\n")
    with pytest.raises(SkipwiseError, match=r"chat\.jsonl:4 has no assistant turn"):
        open_store(path, chat_tokenizer(tmp_path / "tokenizer"), tmp_path / "cache")
    assert [file.name for file in (tmp_path / "cache").iterdir() if not file.name.endswith(".lock")] == []


def test_long_conversations_are_cut_behind_an_answer_or_left_out(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tmp_path / "tokenizer")
    store = open_store(write(tmp_path / "chat.jsonl", 7, turns=3), tokenizer, tmp_path / "cache")
    whole = fitted(store, int(store.lengths.max()))
    assert (whole.cut, whole.left_out, len(whole.indices)) == (0, 0, 7)
    shortest = int(store.lengths.min())
    fit = fitted(store, shortest - 1)
    assert fit.cut + fit.left_out == 7
    for index, length in zip(fit.indices.tolist(), fit.lengths.tolist(), strict=True):
        assert length < shortest
        assert tokenizer.decode(store[index].ids[:length]).endswith(".<|im_end|>")
    with pytest.raises(SkipwiseError, match="no conversation has its first answer within 5 tokens: the shortest of 7"):
        fitted(store, 5)


def dataset(store: ConversationStore, sampler: str = "pose", **more: Any) -> PackedConversations:
    layout = Sampler(sampler, train_length=L, target_length=T, seed=more.pop("seed", 0))
    return PackedConversations(store, sampler=layout, pad=1, **more)


def parts(item: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The conversations of a row."""
    numbers = item["attention_mask"]
    return [{name: part[numbers == k] for name, part in item.items()} for k in range(1, int(numbers.max()) + 1)]


def test_rows_hold_whole_conversations_each_with_positions_of_its_own(store: ConversationStore) -> None:
    data = dataset(store)
    whole = sorted(store[i].ids.tolist() for i in range(len(store)))
    met, reach = [], 0
    for i in range(len(data)):
        item = data[i]
        assert {tuple(value.shape) for value in item.values()} == {(L,)}
        assert {value.dtype for value in item.values()} == {torch.int64}
        used = int((item["attention_mask"] > 0).sum())
        assert bool((item["attention_mask"][:used].diff() >= 0).all())
        assert item["input_ids"][used:].tolist() == [1] * (L - used)
        assert bool((item["labels"][used:] == IGNORED).all())
        for part in parts(item):
            met.append(part["input_ids"].tolist())
            positions = part["position_ids"]
            assert int(positions[0]) == 0
            assert bool((positions.diff() >= 1).all())
            assert int((positions.diff() > 1).sum()) <= 1, "two chunks"
            reach = max(reach, int(positions[-1]))
            labelled = part["labels"] != IGNORED
            assert bool(labelled.any())
            assert torch.equal(part["labels"][labelled], part["input_ids"][labelled])
    assert sorted(met) == whole, "every conversation once in an epoch"
    assert 0.8 * T < reach < T


def test_labels_are_the_marks_of_the_store(store: ConversationStore) -> None:
    by_ids = {tuple(store[i].ids.tolist()): store[i].marks for i in range(len(store))}
    data = dataset(store)
    for part in parts(data[0]):
        marks = by_ids[tuple(part["input_ids"].tolist())]
        assert ((part["labels"] != IGNORED).numpy() == (marks & 1 != 0)).all()


def test_items_depend_on_seed_epoch_and_index_alone(store: ConversationStore) -> None:
    def rows(data: PackedConversations, name: str = "position_ids") -> torch.Tensor:
        return torch.stack([data[i][name] for i in range(len(data))])

    first = rows(dataset(store))
    backwards = dataset(store)
    assert torch.equal(first, torch.stack([backwards[i]["position_ids"] for i in reversed(range(len(first)))]).flip(0))
    assert not torch.equal(first, rows(dataset(store, seed=1)))
    second = dataset(store)
    second.set_epoch(1)
    assert not torch.equal(first, rows(second))
    longer = rows(dataset(store, examples=2 * len(first)))
    assert torch.equal(longer[: len(first)], first)
    assert not any(torch.equal(row, other) for row in longer[len(first) :] for other in first)
    loader = torch.utils.data.DataLoader(dataset(store), batch_size=1, num_workers=2)
    assert torch.equal(torch.cat([batch["position_ids"] for batch in loader]), first)


def test_skips_at_turn_borders(store: ConversationStore) -> None:
    data = dataset(store, "skipalign", examples=50)
    skips = 0
    for i in range(50):
        for part in parts(data[i]):
            jumps = torch.nonzero(part["position_ids"].diff() > 1).flatten() + 1
            skips += len(jumps)
            assert all(part["input_ids"][jump:][:1].item() in starts(store) for jump in jumps)
    assert skips > 100


def starts(store: ConversationStore) -> set[int]:
    """Tokens with which a turn begins: `<|im_start|>`."""
    return {int(store.tokens[i]) for i in np.flatnonzero(store.marks & 2)}


@pytest.mark.parametrize("name", ["original", "full", "cream", "curriculum", "endprompt", "stratified", "randpos"])
def test_every_kind_of_sampler_lays_conversations_out(store: ConversationStore, name: str) -> None:
    data = dataset(store, name, examples=5)
    for i in range(5):
        for part in parts(data[i]):
            positions = part["position_ids"]
            assert int(positions[0]) == 0
            assert bool((positions.diff() >= 1).all())
            if name in ("original", "full"):
                assert int(positions[-1]) == len(positions) - 1


def test_plain_rows_take_their_share(store: ConversationStore) -> None:
    data = dataset(store, examples=200, plain_share=0.25)
    plain = sum(all(int(p["position_ids"][-1]) < len(p["position_ids"]) for p in parts(data[i])) for i in range(200))
    assert 0.18 < plain / 200 < 0.32


def test_best_fit_fills_rows() -> None:
    assert best_fit(np.array([5, 4, 3, 2, 6]), 8) == [[4, 3], [0, 2], [1]]
    lengths = np.random.default_rng(0).integers(10, 400, size=2000)
    rows = best_fit(lengths, 1024)
    assert sorted(index for row in rows for index in row) == list(range(2000))
    assert max(int(lengths[row].sum()) for row in rows) <= 1024
    assert len(rows) <= -(-int(lengths.sum()) // 1024) + 1


def test_validation_holds_whole_conversations_from_the_end(store: ConversationStore) -> None:
    learned, held = split_conversations(fitted(store, L), 0.1)
    assert [*learned.indices, *held.indices] == list(range(len(store)))
    assert 0.05 < held.lengths.sum() / store.lengths.sum() < 0.2
    with pytest.raises(SkipwiseError, match="one conversation is too little"):
        split_conversations(fitted(store, L)._replace(indices=np.array([0]), lengths=np.array([9])), 0.1)
