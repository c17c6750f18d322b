"""Training examples made of whole conversations, several in one row, with skipped positions in each."""

import bisect
import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from skipwise.data.chat_tokens import ANSWER, TURN
from skipwise.data.conversation_store import ConversationStore, Fitted, fitted
from skipwise.data.labels import IGNORED
from skipwise.errors import SkipwiseError
from skipwise.positions.sampler import Sampler, example_order

Ints = NDArray[np.int64]


class PackedConversations(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of conversations whose position ids reach to `target_length` in each of them.

    Item i is a pure function of (seed, epoch, i). It holds `input_ids`, `position_ids`, `labels` and `attention_mask`,
    each (train_length,) int64. The mask numbers the conversations of the row: 1, 2, …, and 0 for what is left over at
    its end. `models.packed_rows` makes of it what keeps them apart. Every conversation has positions of its own, from 0
    up to the target, laid out by the sampler for an example of its length. Its text is never cut into pieces. Labels
    stand at the tokens of answers, and are -100 elsewhere.

    Which conversations share a row does not change from epoch to epoch; the order of the rows does. Rows are filled by
    best fit: the longest conversation first, each into the fullest row that has room.

    Args:
        store: The conversations.
        sampler: Lays out positions. Its `example_length` is the length of a row. One that needs more tokens than a
            conversation has leaves its positions plain, and so does `full`.
        conversations: Those to use, from `conversation_store.fitted`; all that fit if absent.
        pad: Token id put at the end of rows.
        examples: Length of the dataset; one pass if absent.
        plain_share: Share of the rows whose positions do not skip.

    Raises:
        SkipwiseError: No conversation fits into a row.
    """

    def __init__(
        self,
        store: ConversationStore,
        *,
        sampler: Sampler,
        conversations: Fitted | None = None,
        pad: int = 0,
        examples: int | None = None,
        plain_share: float = 0.0,
    ) -> None:
        self.store, self.sampler, self.pad, self.plain_share = store, sampler, pad, plain_share
        self.conversations = fitted(store, sampler.example_length) if conversations is None else conversations
        if not len(self.conversations.indices):
            raise SkipwiseError("no conversation to train on; give more rows")
        self.epoch = 0
        self._rows = best_fit(self.conversations.lengths, sampler.example_length)
        self.per_epoch = len(self._rows)
        self._length = self.per_epoch if examples is None else examples
        self._order: tuple[int, Ints, Ints] | None = None
        self._samplers: dict[int, Sampler] = {}

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Draw other positions and another order."""
        self.epoch = epoch

    @property
    def example_length(self) -> int:
        """Tokens of a row."""
        return self.sampler.example_length

    @property
    def tokens_per_epoch(self) -> int:
        """Tokens of all conversations, without what is left over at the end of rows."""
        return int(self.conversations.lengths.sum())

    def _place(self, epoch: int, index: int) -> tuple[list[int], int]:
        """The conversations of a row, and how many conversations come before it in the epoch."""
        if self._order is None or self._order[0] != epoch:
            order = example_order(self.sampler.seed, epoch, self.per_epoch)
            counts = np.array([len(self._rows[row]) for row in order.tolist()], dtype=np.int64)
            self._order = epoch, order, np.cumsum(counts) - counts
        return self._rows[int(self._order[1][index])], int(self._order[2][index])

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        if not 0 <= item < self._length:
            raise IndexError(item)
        rounds, index = divmod(item, self.per_epoch)
        members, before = self._place(self.epoch + rounds, index)
        number = rounds * len(self.conversations.indices) + before
        size = self.sampler.example_length
        ids, labels = np.full(size, self.pad, np.int64), np.full(size, IGNORED, np.int64)
        positions, mask = np.zeros(size, np.int64), np.zeros(size, np.int64)
        plain = np.random.default_rng((self.sampler.seed, self.epoch, item)).random() < self.plain_share
        start = 0
        for k, member in enumerate(members):
            n = int(self.conversations.lengths[member])
            place = slice(start, start + n)
            tokens, marks = (part[:n] for part in self.store[int(self.conversations.indices[member])])
            ids[place] = tokens
            answers = (marks & ANSWER) != 0
            answers[0] = False  # the conversation before it would have to predict that token
            labels[place] = np.where(answers, ids[place], IGNORED)
            borders = np.flatnonzero(marks & TURN)
            drawn = (
                np.arange(n) if plain else self._sampler(n).draw(self.epoch, [number + k], n, [borders]).position_ids[0]
            )
            positions[place] = drawn
            mask[place] = k + 1
            start += n
        positions[start:] = np.arange(size - start)
        arrays = {"input_ids": ids, "position_ids": positions, "labels": labels, "attention_mask": mask}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _sampler(self, n: int) -> Sampler:
        """The sampler for a conversation of n tokens."""
        if n not in self._samplers:
            last = self.sampler.final.method
            changes: dict[str, Any] = {"train_length": n, "text": "contiguous", "chunks": min(self.sampler.chunks, n)}
            if last.whole_target or n < last.least_length:
                changes |= {"name": "original", "growth": 0}
            else:  # a target grows over rows; conversations are counted here
                changes["growth"] = round(self.sampler.growth * len(self.conversations.indices) / self.per_epoch)
            self._samplers[n] = dataclasses.replace(self.sampler, **changes)
        return self._samplers[n]


def best_fit(lengths: Ints, size: int) -> list[list[int]]:
    """Pack lengths into rows: the longest first, each into the fullest row that has room for it.

    Args:
        lengths: None longer than `size`, (n,).
        size: Of a row.

    Returns:
        Indices of the lengths in each row.
    """
    rows: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # keys of by_room, ascending
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            row, room = len(rows), size
            rows.append([])
        else:
            room = rooms[place]
            row = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        rows[row].append(index)
        left = room - length
        if left:
            if left not in by_room:
                by_room[left] = []
                bisect.insort(rooms, left)
            by_room[left].append(row)
    return rows


def split_conversations(conversations: Fitted, share: float) -> tuple[Fitted, Fitted]:
    """Hold conversations out for validation: whole ones from the end, at least one.

    Args:
        conversations: At least two.
        share: Share of the tokens to hold out, below one half.

    Raises:
        SkipwiseError: There is one conversation only.
    """
    if len(conversations.indices) < 2:
        raise SkipwiseError(
            "one conversation is too little to hold some out for validation; give at least two rows that fit into "
            "training.train_length"
        )
    tail = np.cumsum(conversations.lengths[::-1])
    held = int(np.searchsorted(tail, share * tail[-1])) + 1
    held = min(held, len(conversations.indices) - 1)
    first, last = slice(None, -held), slice(-held, None)
    parts = [(conversations.indices[part], conversations.lengths[part]) for part in (first, last)]
    return Fitted(*parts[0], 0, 0), Fitted(*parts[1], 0, 0)
