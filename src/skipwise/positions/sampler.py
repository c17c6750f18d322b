"""Samplers of positions: where the tokens of each training example stand, and where their text comes from. NumPy only.

The samplers themselves are the files in `samplers/`. `layouts` holds what they share.
"""

from __future__ import annotations

import dataclasses
import difflib
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from skipwise.config import PositionsConfig
from skipwise.config.sampler_names import SamplerName, sampler_names
from skipwise.errors import SkipwiseError
from skipwise.positions.layouts import ORDER, Draws, Ints, Layouts, Method, keyed, words
from skipwise.positions.samplers import method

__all__ = ["Layouts", "Sampler", "SamplerName", "TextChoice", "example_order", "sampler_from_config"]

TextChoice = Literal["skip", "contiguous", "aligned"]


@dataclass(frozen=True)
class Sampler:
    """One way of assigning positions to the tokens of examples.

    With L = train_length, T = target_length and N = chunks, positions start at 0, increase strictly and stay below T.
    The docstring of each file in `positions/samplers/` defines one name with its equations:

    - `pose`: N chunks of consecutive positions with even skips between them (PoSE, arXiv 2309.10400).
    - `pose_reference`: two chunks as the authors' published code draws them.
    - `stratified`: the chunks of `pose` from a low-discrepancy sequence, so that coverage is even after few examples.
    - `skipalign`: the chunks of `pose`, cut at the turns of conversations (after arXiv 2405.03939).
    - `cream`: a head, a middle and a tail (arXiv 2406.07138).
    - `endprompt`: the text at 0.., and a short closing part at the end of the target (arXiv 2605.14589).
    - `curriculum`: another sampler, `base`, under a target that grows (arXiv 2606.23687).
    - `randpos`: a sorted random sample of all positions (arXiv 2305.16843).
    - `full`: T consecutive positions and tokens. `original`: L consecutive ones.

    Samplers without a choice of text take it from the start of the document, without gaps. Positions do not depend on
    `text` or on the document, so runs that differ in these alone see the same positions.

    Raises:
        SkipwiseError: Lengths or names that cannot work.
    """

    name: SamplerName
    train_length: int
    """Tokens in one example, except for `full`."""
    target_length: int
    """Positions stay below it, tokens."""
    chunks: int = 2
    """`pose`, `stratified`, `skipalign`: runs of consecutive positions in one example."""
    text: TextChoice = "skip"
    """`pose`, `stratified`, `cream`: where the chunks' text comes from in the document."""
    seed: int = 0
    """0 … 2^64 - 1."""
    base: SamplerName = "pose"
    """`curriculum`: the sampler whose target grows."""
    growth: int = 0
    """`curriculum`: number of examples over which the target grows. 0: it is `target_length` from the start."""

    def __post_init__(self) -> None:
        for what in ("train_length", "target_length", "chunks", "seed", "growth"):
            value = getattr(self, what)
            if isinstance(value, bool) or not isinstance(value, numbers.Integral):
                raise SkipwiseError(f"{what} {value!r}: expected a whole number, such as 2048")
        _check_name("sampler", self.name, sampler_names())
        _check_name("text", self.text, get_args(TextChoice))
        if not 0 <= self.seed < 2**64:
            raise SkipwiseError(f"seed {self.seed}: expected 0 to 2^64 - 1; choose another seed")
        if self.growth < 0:
            raise SkipwiseError(f"growth {self.growth}: expected 0 or more examples; raise it")
        if self.train_length < 1:
            raise SkipwiseError(f"train_length {self.train_length}: expected at least 1 token; raise train_length")
        if self.target_length < self.train_length:
            raise SkipwiseError(
                f"target_length {self.target_length} is shorter than train_length {self.train_length}: "
                "raise target_length or lower train_length"
            )
        if "base" in self.method.uses:
            _check_name("base", self.base, tuple(n for n in sampler_names() if _can_grow(n)))
        least = self.final.method.least_length
        if self.train_length < least:
            raise SkipwiseError(
                f"train_length {self.train_length}: sampler {self.final.name!r} needs at least {least} tokens; "
                "raise train_length"
            )
        if "chunks" in self.final.method.uses and not 1 <= self.chunks <= self.train_length:
            raise SkipwiseError(
                f"chunks {self.chunks}: expected 1 to train_length ({self.train_length}), a token for every chunk; "
                "choose a number in that range"
            )

    @property
    def method(self) -> Method:
        """What the file of that name declares."""
        return method(self.name)

    @property
    def final(self) -> Sampler:
        """The sampler that `base` names, for one whose target grows; otherwise this one."""
        return dataclasses.replace(self, name=self.base, growth=0) if "base" in self.method.uses else self

    @property
    def example_length(self) -> int:
        """Tokens in one example."""
        return self.target_length if self.method.whole_target else self.train_length

    @property
    def document_length(self) -> int:
        """Tokens that a document must have at least."""
        aligned = "text" in self.final.method.uses and self.text == "aligned"
        return self.target_length if aligned else self.example_length

    @property
    def text_skips(self) -> bool:
        """Whether the chunks' text comes from anywhere in the document."""
        return "text" in self.final.method.uses and self.text == "skip"

    def draw(self, epoch: int, index: ArrayLike, n_doc: ArrayLike, borders: Sequence[Ints] | None = None) -> Layouts:
        """Draw the layouts of examples.

        Args:
            epoch: Number of the epoch, from 0.
            index: Numbers of the examples, (B,), from 0.
            n_doc: Tokens of their documents, (B,), or one number for all.
            borders: For each example, ascending, the tokens with which its turns begin, between 1 and train_length - 1.
                None where the text has no turns.

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
        return self.method.draw(self, Draws(self.seed, epoch, examples, lengths, borders))

    def describe(self) -> str:
        """Name the sampler with the settings that it reads: `pose, 2 chunks, skip text`."""
        return describe(self.name, self.base, self.chunks, self.text)

    def describe_positions(self) -> str:
        """Name the sampler with the settings that change its positions: `pose, 2 chunks`."""
        return self.describe().removesuffix(f", {self.text} text")

    def _too_short(self, n_doc: int) -> str:
        if self.document_length == self.train_length:
            return (
                f"a document of {n_doc} tokens: expected train_length {self.train_length} or more; lower train_length"
            )
        what = f"sampler {self.name!r}" if self.method.whole_target else "text 'aligned'"
        return (
            f"a document of {n_doc} tokens: {what} takes target_length {self.target_length} or more; "
            "use longer documents, or sampler 'pose' with text 'skip'"
        )


def sampler_from_config(
    positions: PositionsConfig, *, train_length: int, target_length: int, seed: int, examples: int = 0
) -> Sampler:
    """Make the sampler that a configuration asks for.

    Args:
        positions: The section `positions` of the configuration.
        train_length: Tokens in one example.
        target_length: Positions stay below it, tokens.
        seed: 0 … 2^64 - 1.
        examples: Examples of the whole training, over a share of which the target of `curriculum` grows.

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
        base=positions.base,
        growth=round(positions.growth * examples),
    )


def describe(name: str, base: str, chunks: int, text: str) -> str:
    """Name a sampler with the settings that it reads, as `Sampler.describe` does."""
    grows = "base" in method(name).uses
    uses = method(base if grows else name).uses
    parts = [f"{name} of {base}" if grows else name]
    parts += [f"{chunks} chunks"] if "chunks" in uses else []
    return ", ".join([*parts, *([f"{text} text"] if "text" in uses else [])])


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
    return np.argsort(words(keyed(ORDER, seed, epoch), n)[0], kind="stable")


def _can_grow(name: str) -> bool:
    """Whether a curriculum can be laid over a sampler: its examples have train_length tokens, whatever the target."""
    declared = method(name)
    return not declared.whole_target and "base" not in declared.uses


def _check_name(what: str, name: str, valid: tuple[str, ...]) -> None:
    if name not in valid:
        near = difflib.get_close_matches(name, valid, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of these"
        raise SkipwiseError(f"unknown {what} {name!r}: expected one of {', '.join(valid)}; {hint}")
