"""Samplers of positions: where the tokens of each training example stand, and where their text comes from. NumPy only.

Every draw is a pure function of (seed, epoch, example index, draw number), so an example's layout is the same whatever
batch, worker or rank asks for it, and after a resume; there is no generator state, global or other. The words come from
SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): each part of a key picks one output of a SplitMix64 stream, and that
output starts the stream from which the next part picks. Only integer arithmetic is used, so the layouts do not depend
on NumPy's version either.
"""

import difflib
import numbers
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from skipwise.config import PositionsConfig
from skipwise.errors import SkipwiseError

SamplerName = Literal["pose", "randpos", "full", "original"]
TextChoice = Literal["skip", "contiguous", "aligned"]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

# First part of every key, so that layouts and the order of examples share no words.
_LAYOUT, _ORDER = 0, 1


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
class Sampler:
    """One way of assigning positions to the tokens of examples.

    With L = train_length, T = target_length, N = chunks and n_doc the tokens of the document:

    - `pose`: N chunks of consecutive positions. From PoSE (arXiv 2309.10400, eq. 3-5) come the skips: u_0 = 0,
      u_i ~ U{u_(i-1)..T-L}, and the token with plain index j in the example, in chunk i, has position u_i + j; likewise
      its place in the document, v_i + j with v_i ~ U{v_(i-1)..n_doc-L}. The paper only says that L is "randomly
      divided" into chunks. Ours is l_0 ~ U{1..L-(N-1)}, l_1 ~ U{1..L-l_0-(N-2)}, …, and the last chunk takes the rest
      (N = 2: l_0 ~ U{1..L-1}). The authors' published code, for N = 2, draws l_0 ~ U{1..floor((L+1)/2)}, so its first
      chunk is never the longer one by more than a token. Paper and code keep v_0 = 0, and the code cuts documents to
      their first 5 L tokens. Here v_0 ~ U{0..n_doc-L} and documents are whole, because a long one would otherwise
      always show its head as the first chunk. `text` decides about the v_i: `skip` as above; `contiguous` v_i = 0;
      `aligned` v_i = u_i.
    - `randpos` (arXiv 2305.16843): a sorted sample of L of {0..T-1}. The paper does not fix the first position; here it
      is always 0 and the others are a uniform sample of L-1 of {1..T-1}, as RoPE sees differences only.
    - `full`: T consecutive positions and tokens. `original`: L consecutive ones.

    `randpos`, `full` and `original` take their text from the start of the document, without gaps. Positions do not
    depend on `text` or on the document, so runs that differ in these alone see the same positions.

    Raises:
        SkipwiseError: Lengths or names that cannot work.
    """

    name: SamplerName
    train_length: int
    """Tokens in one example, except for `full`."""
    target_length: int
    """Positions stay below it, tokens."""
    chunks: int = 2
    """`pose`: runs of consecutive positions in one example."""
    text: TextChoice = "skip"
    """`pose`: where the chunks' text comes from in the document."""
    seed: int = 0
    """0 … 2^64 - 1."""

    def __post_init__(self) -> None:
        for what in ("train_length", "target_length", "chunks", "seed"):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise SkipwiseError(f"{what} {value!r}: expected a whole number, such as 2048")
        _check_name("sampler", self.name, get_args(SamplerName))
        _check_name("text", self.text, get_args(TextChoice))
        if not 0 <= self.seed < 2**64:
            raise SkipwiseError(f"seed {self.seed}: expected 0 to 2^64 - 1; choose another seed")
        if self.train_length < 1:
            raise SkipwiseError(f"train_length {self.train_length}: expected at least 1 token; raise train_length")
        if self.target_length < self.train_length:
            raise SkipwiseError(
                f"target_length {self.target_length} is shorter than train_length {self.train_length}: "
                "raise target_length or lower train_length"
            )
        if self.name == "pose" and not 1 <= self.chunks <= self.train_length:
            raise SkipwiseError(
                f"chunks {self.chunks}: expected 1 to train_length ({self.train_length}), a token for every chunk; "
                "choose a number in that range"
            )

    @property
    def example_length(self) -> int:
        """Tokens in one example."""
        return self.target_length if self.name == "full" else self.train_length

    @property
    def document_length(self) -> int:
        """Tokens that a document must have at least."""
        aligned = self.name == "pose" and self.text == "aligned"
        return self.target_length if aligned else self.example_length

    def draw(self, epoch: int, index: ArrayLike, n_doc: ArrayLike) -> Layouts:
        """Draw the layouts of examples.

        Args:
            epoch: Number of the epoch, from 0.
            index: Numbers of the examples, (B,), from 0.
            n_doc: Tokens of their documents, (B,), or one number for all.

        Returns:
            The layouts, in the order of `index`.

        Raises:
            SkipwiseError: A document is too short, or the epoch or an index is negative.
        """
        examples = np.asarray(index, dtype=np.int64)  # (B,)
        lengths = np.broadcast_to(np.asarray(n_doc, dtype=np.int64), examples.shape)  # (B,)
        assert examples.ndim == 1, "index holds one number for each example"
        if epoch < 0 or (examples < 0).any():
            raise SkipwiseError(f"epoch {epoch}, index {examples.min(initial=0)}: expected 0 or more; count from 0")
        if (lengths < self.document_length).any():
            raise SkipwiseError(self._too_short(int(lengths.min())))
        states = _keyed(_LAYOUT, self.seed, epoch, examples)  # (B,)
        if self.name == "pose":
            return self._pose(states, lengths)
        plain = np.repeat(np.arange(self.example_length)[None], len(examples), axis=0)  # (B, S)
        positions = self._randpos(states) if self.name == "randpos" else plain.copy()
        return Layouts(positions, plain, np.zeros(plain.shape, dtype=np.bool_))

    def _pose(self, states: Words, n_doc: Ints) -> Layouts:
        n, length, batch = self.chunks, self.train_length, len(states)
        words = _words(states, 3 * n - 2)  # (B, 3N - 2): N - 1 lengths, N - 1 skips, N text skips
        lengths = _chunk_lengths(words[:, : n - 1], length)  # (B, N)
        skips = np.zeros((batch, n), dtype=np.int64)
        skips[:, 1:] = _ascending(words[:, n - 1 : 2 * n - 2], np.full(batch, self.target_length - length))
        if self.text == "skip":
            text_skips = _ascending(words[:, 2 * n - 2 :], n_doc - length)
        else:
            text_skips = skips if self.text == "aligned" else np.zeros_like(skips)
        return _lay_out(lengths, skips, text_skips, length)

    def _randpos(self, states: Words) -> Ints:
        positions = np.zeros((len(states), self.train_length), dtype=np.int64)  # (B, L)
        for row, state in zip(positions, states[:, None], strict=True):
            row[1:] = 1 + _subset(state, self.target_length - 1, self.train_length - 1)
        return positions

    def _too_short(self, n_doc: int) -> str:
        if self.document_length == self.train_length:
            return (
                f"a document of {n_doc} tokens: expected train_length {self.train_length} or more; lower train_length"
            )
        what = "sampler 'full'" if self.name == "full" else "text 'aligned'"
        return (
            f"a document of {n_doc} tokens: {what} takes target_length {self.target_length} or more; "
            "use longer documents, or sampler 'pose' with text 'skip'"
        )


def sampler_from_config(positions: PositionsConfig, *, train_length: int, target_length: int, seed: int) -> Sampler:
    """Make the sampler that a configuration asks for.

    Args:
        positions: The section `positions` of the configuration.
        train_length: Tokens in one example.
        target_length: Positions stay below it, tokens.
        seed: 0 … 2^64 - 1.

    Raises:
        SkipwiseError: As `Sampler`.
    """
    return Sampler(
        positions.sampler,
        train_length=train_length,
        target_length=target_length,
        chunks=positions.chunks,
        text=positions.text,
        seed=seed,
    )


def example_order(seed: int, epoch: int, n: int) -> Ints:
    """Draw the order of the examples of an epoch: a uniform permutation, a pure function of (seed, epoch, n).

    Example i is sorted by word i of the stream keyed by (seed, epoch), so no state has to be saved for a resume.

    Args:
        seed: 0 … 2^64 - 1.
        epoch: Number of the epoch, from 0.
        n: Number of examples.

    Returns:
        A permutation of 0..n-1, (n,).
    """
    return np.argsort(_words(_keyed(_ORDER, seed, epoch), n)[0], kind="stable")


def _check_name(what: str, name: str, valid: tuple[str, ...]) -> None:
    if name not in valid:
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of these"
        raise SkipwiseError(f"unknown {what} {name!r}: expected one of {', '.join(valid)}; {hint}")


def _split_mix(state: Words, number: Words) -> Words:
    """Output `number` (0 = first) of SplitMix64 started at `state`; the two are broadcast."""
    z: Words = state + (number + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def _keyed(*key: ArrayLike) -> Words:
    """The stream's start for each key (B,); the parts are integers or arrays of B integers."""
    state = np.zeros(1, dtype=np.uint64)
    for part in key:
        state = _split_mix(state, np.atleast_1d(np.asarray(part, dtype=np.uint64)))
    return state


def _words(states: Words, count: int) -> Words:
    """The first `count` words of each stream, (B, count)."""
    return _split_mix(states[:, None], np.arange(count, dtype=np.uint64))


def _uniform(words: Words, low: Ints | int, high: Ints | int) -> Ints:
    """U{low..high} from one word a draw: the upper half of word · (high - low + 1), uniform to within 2^-32.

    The 96-bit product is taken in two halves of 32 bits, so a range must be shorter than 2^32.
    """
    span = np.asarray(high - low + 1, dtype=np.uint64)
    assert (span < 2**32).all(), "a range of 2^32 or more"
    half, lower = np.uint64(32), np.uint64(0xFFFFFFFF)
    upper = (words >> half) * span + (((words & lower) * span) >> half)
    return low + (upper >> half).astype(np.int64)


def _chunk_lengths(words: Words, length: int) -> Ints:
    """l_i ~ U{1..what is left, less one token for every later chunk}; words (B, N - 1) → lengths (B, N)."""
    batch, later = words.shape
    lengths = np.empty((batch, later + 1), dtype=np.int64)
    left = np.full(batch, length)
    for i in range(later):
        lengths[:, i] = _uniform(words[:, i], 1, left - (later - i))
        left -= lengths[:, i]
    lengths[:, later] = left
    return lengths


def _ascending(words: Words, high: Ints) -> Ints:
    """x_0 ~ U{0..high}, x_i ~ U{x_(i-1)..high}; words (B, M), high (B,) → (B, M)."""
    values = np.empty(words.shape, dtype=np.int64)
    low = np.zeros(len(words), dtype=np.int64)
    for i in range(words.shape[1]):
        values[:, i] = low = _uniform(words[:, i], low, high)
    return values


def _lay_out(lengths: Ints, skips: Ints, text_skips: Ints, length: int) -> Layouts:
    """Chunks (B, N) spread over their tokens (B, L)."""
    batch, plain, counts = len(lengths), np.arange(length), lengths.ravel()
    position_ids = np.repeat(skips.ravel(), counts).reshape(batch, length)
    text_offsets = np.repeat(text_skips.ravel(), counts).reshape(batch, length)
    position_ids += plain  # in place: a second large array would cost more than all the rest
    text_offsets += plain
    seams = np.zeros((batch, length), dtype=np.bool_)
    starts = np.cumsum(lengths, axis=1)[:, :-1]  # (B, N - 1), of the chunks after the first
    seams[np.arange(batch)[:, None], starts] = np.diff(text_skips, axis=1) > 0
    return Layouts(position_ids, text_offsets, seams)


def _subset(state: Words, size: int, k: int) -> Ints:
    """A sorted uniform sample of k of {0..size-1} from one stream (1,): its first k distinct draws.

    A sample of more than half is the complement of a sample, so that distinct draws never become rare.
    """
    if k > size // 2:
        chosen = np.ones(size, dtype=np.bool_)
        chosen[_subset(state, size, size - k)] = False
        return np.flatnonzero(chosen)
    count = k + k * k // max(size, 1) + 4  # the second term is about twice the repeats to expect
    while True:
        values = _uniform(_words(state, count)[0], 0, size - 1)
        first = np.unique(values, return_index=True)[1]
        if len(first) >= k:
            return np.sort(values[np.sort(first)[:k]])
        count *= 2
