"""What all samplers share: keyed draws, chunks laid over tokens, and what a sampler declares. NumPy only.

Every draw is a pure function of (seed, epoch, example index, draw number), so an example's layout is the same whatever
batch, worker or rank asks for it, and after a resume; there is no generator state, global or other. The words come from
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): each part of a key picks one output of a SplitMix64 stream, and that
output starts the stream from which the next part picks. Only integer arithmetic is used, so the layouts do not depend
on NumPy's version either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from skipwise.positions.sampler import Sampler

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Chances = NDArray[np.float64]

LAYOUT, ORDER, SHIFT, MIX = 0, 1, 2, 3
"""First part of every key, so that layouts, orders of examples, shifts of sequences and mixtures share no words."""


class Layouts(NamedTuple):
    """How a batch of B examples of S tokens is laid over positions and over its documents.

    S is `Sampler.example_length`: train_length, or target_length for `full`.
    """

    position_ids: Ints
    """(B, S): strictly increasing, from 0, below target_length."""
    text_offsets: Ints
    """(B, S): place of each token in its document, strictly increasing."""
    seams: NDArray[np.bool_]
    """(B, S): True where a chunk's text does not continue the chunk before: unrelated text would predict that token."""


@dataclass(frozen=True)
class Method:
    """What a file in `positions/samplers/` declares as `METHOD`."""

    draw: Callable[[Sampler, Draws], Layouts]
    """Lays out the examples of a batch. Positions and text may depend on the sampler's fields and on the draws only."""
    uses: frozenset[str] = frozenset()
    """The sampler's fields that it reads beside the lengths and the seed: `chunks`, `text`, `base`, `growth`."""
    least_length: int = 1
    """Tokens that an example must have at least."""
    whole_target: bool = False
    """An example has target_length tokens instead of train_length."""
    chances: Callable[[Sampler], Chances | None] | None = None
    """q(d), (T,): the exact chance that one example has two tokens at distance d. None where there is no formula."""
    lower_bound: Callable[[Sampler], Chances | None] | None = None
    """The same where only a lower bound is known."""
    independent: bool = True
    """The examples of an epoch are independent draws of one distribution."""


class Draws:
    """The random words of a batch of examples, one stream for each.

    Args:
        seed: Of the sampler.
        epoch: Number of the epoch.
        index: Numbers of the examples, (B,).
        n_doc: Tokens of their documents, (B,).
        borders: For each, the tokens with which its turns begin; None where the text has no turns.
    """

    def __init__(self, seed: int, epoch: int, index: Ints, n_doc: Ints, borders: Sequence[Ints] | None = None) -> None:
        self.epoch, self.index, self.n_doc, self.borders = epoch, index, n_doc, borders
        self.states = keyed(LAYOUT, seed, epoch, index)  # (B,)
        self._taken = 0

    def words(self, count: int) -> Words:
        """Take the next `count` words of each stream, (B, count)."""
        numbers = np.arange(self._taken, self._taken + count, dtype=np.uint64)
        self._taken += count
        return split_mix(self.states[:, None], numbers)


def split_mix(state: Words, number: Words) -> Words:
    """Output `number` (0 = first) of SplitMix64 started at `state`; the two are broadcast."""
    z: Words = state + (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def keyed(*key: ArrayLike) -> Words:
    """The stream's start for each key (B,); the parts are integers or arrays of B integers."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = split_mix(state, np.atleast_1d(np.asarray(part, dtype=np.uint64)))
    return state


def words(states: Words, count: int) -> Words:
    """The first `count` words of each stream, (B, count)."""
    return split_mix(states[:, None], np.arange(count, dtype=np.uint64))


def uniform(word: Words, low: Ints | int, high: Ints | int) -> Ints:
    """U{low..high} from one word a draw: the upper half of word · (high - low + 1), uniform to within 2^-32.

    The 96-bit product is taken in two halves of 32 bits, so a range must be shorter than 2^32.
    """
    span = np.asarray(high - low + 1, dtype=np.uint64)
    assert (span < 2**32).all(), "a range of 2^32 or more"
    half, lower = np.uint64(32), np.uint64(0xFFFFFFFF)
    upper = (word >> half) * span + (((word & lower) * span) >> half)
    return low + (upper >> half).astype(np.int64)


def chunk_lengths(word: Words, length: int) -> Ints:
    """l_i ~ U{1..what is left, less one token for every later chunk}; words (B, N - 1) → lengths (B, N)."""
    batch, later = word.shape
    lengths = np.empty((batch, later + 1), dtype=np.int64)
    left = np.full(batch, length)
    for i in range(later):
        lengths[:, i] = uniform(word[:, i], 1, left - (later - i))
        left -= lengths[:, i]
    lengths[:, later] = left
    return lengths


def ascending(word: Words, high: Ints) -> Ints:
    """x_0 ~ U{0..high}, x_i ~ U{x_(i-1)..high}; words (B, M), high (B,) → (B, M)."""
    values = np.empty(word.shape, dtype=np.int64)
    low = np.zeros(len(word), dtype=np.int64)
    for i in range(word.shape[1]):
        values[:, i] = low = uniform(word[:, i], low, high)
    return values


def plain(batch: int, length: int) -> Ints:
    """0..length-1 in every row, (B, length)."""
    return np.repeat(np.arange(length)[None], batch, axis=0)


def chosen_text(sampler: Sampler, draws: Draws, skips: Ints) -> Ints:
    """The chunks' text skips v_i (B, N) by the sampler's `text`; `skips` (B, N) are those of the positions."""
    if sampler.text == "skip":
        return ascending(draws.words(skips.shape[1]), draws.n_doc - sampler.train_length)
    return skips if sampler.text == "aligned" else np.zeros_like(skips)


def lay_out(lengths: Ints, skips: Ints, text_skips: Ints, length: int) -> Layouts:
    """Chunks (B, N), none of them empty, spread over their tokens (B, L)."""
    batch, indices, counts = len(lengths), np.arange(length), lengths.ravel()
    position_ids = np.repeat(skips.ravel(), counts).reshape(batch, length)
    text_offsets = np.repeat(text_skips.ravel(), counts).reshape(batch, length)
    position_ids += indices  # in place: a second large array would cost more than all the rest
    text_offsets += indices
    seams = np.zeros((batch, length), dtype=np.bool_)
    starts = np.cumsum(lengths, axis=1)[:, :-1]  # (B, N - 1), of the chunks after the first
    seams[np.arange(batch)[:, None], starts] = np.diff(text_skips, axis=1) > 0
    return Layouts(position_ids, text_offsets, seams)


def continuous(position_ids: Ints) -> Layouts:
    """Positions (B, S) over the start of the document, without gaps in the text."""
    batch, length = position_ids.shape
    return Layouts(position_ids, plain(batch, length), np.zeros((batch, length), dtype=np.bool_))


def two_chunk_chances(length: int, target: int, most_first: int, across: Chances) -> Chances:
    """q(d) (T,) of two chunks: l_0 ~ U{1..most_first}, and the chance `across` (T,) that d lies between the chunks."""
    distance = np.arange(target)
    # max(l, L - l) ≤ d, which shows d inside no chunk, leaves the l of max(1, L - d)..min(most_first, d).
    outside = np.minimum(most_first, distance) - np.maximum(1, length - distance) + 1
    seen: Chances = 1 - (1 - across) * np.maximum(outside, 0) / most_first
    return seen
