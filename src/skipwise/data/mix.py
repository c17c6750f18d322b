"""Mix several sources of training examples by weight: which source example i comes from, and which of its items it is.

A source is any dataset whose item i is a pure function of i and holds the tensors of `SkippedPositions`, all of one
length. Example i takes the source in whose range of [0, 1) the number frac(x + i·φ) falls: φ is the golden section, x a
shift drawn from the seed, and a range is as wide as the source's share. After n examples a source has had its share of
them to within a few, in every part of the training, where independent draws would miss it by about √n. The item is the
number of earlier examples from that source, so each source is gone through in its own order, as if it were alone.

Both are computed from i alone: there is no state to save, and nothing grows with the number of examples.
"""

import bisect
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Protocol

import torch
from torch import Tensor

from skipwise.config.values import check_weights
from skipwise.errors import SkipwiseError
from skipwise.positions.layouts import MIX, keyed, words

UNITS = 2**64
GOLDEN = (math.isqrt(5 * UNITS**2) - UNITS) // 2
"""The golden section, (√5 - 1) / 2, in units of 2^-64; it is odd."""


class Examples(Protocol):
    """Training examples: what a training needs of one source or of a mixture."""

    @property
    def example_length(self) -> int:
        """Tokens of every example."""

    def __len__(self) -> int: ...

    def __getitem__(self, item: int) -> dict[str, Tensor]: ...

    def set_epoch(self, epoch: int) -> None:
        """Draw other examples."""


class Mixture(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Examples drawn from several sources by weight. Item i is a pure function of (seed, i) and of the sources.

    Args:
        sources: Datasets that hold the same tensors in items of one length. A source is asked for items from 0 on, as
            many as it has a share of `examples`.
        weights: One for each source, 0 or more; they need not sum to 1.
        examples: Length of the mixture.
        seed: 0 … 2^64 - 1.
        mark_taught: Add `taught`, all 0, to items that have none: the original model then teaches none of their tokens.

    Raises:
        SkipwiseError: Another number of weights than sources, a weight below 0, no weight above 0, or examples of
            several lengths.
    """

    def __init__(
        self,
        sources: Sequence[Examples],
        weights: Sequence[float],
        *,
        examples: int,
        seed: int = 0,
        mark_taught: bool = False,
    ) -> None:
        check_weights(weights, len(sources))
        lengths = sorted({source.example_length for source in sources})
        if len(lengths) > 1:
            raise SkipwiseError(
                f"the sources have examples of {lengths[0]:,} and {lengths[-1]:,} tokens; use one length"
            )
        self.sources, self.examples, self.mark_taught = list(sources), examples, mark_taught
        sums = list(itertools.accumulate(map(Fraction, weights), initial=Fraction(0)))
        self._bounds = [int(part * UNITS / sums[-1]) for part in sums]  # exact: the last one is UNITS
        self._shift = int(words(keyed(MIX, seed), 1)[0, 0])

    @property
    def example_length(self) -> int:
        """Tokens of every example."""
        return self.sources[0].example_length

    def __len__(self) -> int:
        return self.examples

    def set_epoch(self, epoch: int) -> None:
        """Draw other examples from every source. Which source an example comes from stays."""
        for source in self.sources:
            source.set_epoch(epoch)

    def place(self, item: int) -> tuple[int, int]:
        """Source of example `item`, and which of the source's items it is."""
        number = (self._shift + item * GOLDEN) % UNITS
        source = bisect.bisect_right(self._bounds, number) - 1
        before = [self._below(bound, item) for bound in self._bounds[source : source + 2]]
        return source, before[1] - before[0]

    def _below(self, bound: int, count: int) -> int:
        """How many of the first `count` examples have a number below `bound`.

        The number x mod U is below the bound where floor(x / U) - floor((x - bound) / U) = 1, and else that is 0.
        """
        passed = floor_sum(count, UNITS, GOLDEN, self._shift)
        return passed + count - floor_sum(count, UNITS, GOLDEN, self._shift - bound + UNITS)

    def __getitem__(self, item: int) -> dict[str, Tensor]:
        if not 0 <= item < self.examples:
            raise IndexError(item)
        source, index = self.place(item)
        example = self.sources[source][index]
        if self.mark_taught and "taught" not in example:
            example = {**example, "taught": torch.zeros_like(example["input_ids"])}
        return example


def source_seed(seed: int, source: int) -> int:
    """Seed of a source, so that no two of a mixture have the same positions in the same order."""
    return int(keyed(MIX, seed, source)[0])


def floor_sum(count: int, divisor: int, step: int, start: int) -> int:
    """Sum floor((start + i·step) / divisor) over i = 0..count-1, in about log(divisor) rounds.

    Each round exchanges the two sides of the triangle of grid points below the line, as Euclid's algorithm does.

    Args:
        count: Number of terms, 0 or more.
        divisor: Above 0.
        step: 0 or more.
        start: 0 or more.
    """
    total = 0
    while count > 0:
        total += (step // divisor) * count * (count - 1) // 2 + (start // divisor) * count
        step, start = step % divisor, start % divisor
        count, start = divmod(step * count + start, divisor)
        step, divisor = divisor, step
    return total
