"""Intervals: counts of successes or per-token losses flow in, a 95 % interval flows out. NumPy only."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
RESAMPLES = 2000
MAX_BLOCKS = 256

Losses = npt.NDArray[np.float32]


class Interval(NamedTuple):
    low: float
    high: float
    name: str


def wilson(right: int, n: int) -> Interval:
    """Wilson's score interval (JASA 1927, 22:209) for the share of `right` out of `n` independent trials.

    Unlike the normal approximation it stays inside 0..1 and has a width at 0 % and 100 %.
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} right answers of {n}: expected 0 <= right <= n and n > 0")
    share, z2 = right / n, Z95**2
    middle = share + z2 / (2 * n)
    half = Z95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n**2))
    scale = 1 + z2 / n
    # Rounding must not leave 0 or 1 outside: at right = 0 the lower end is exactly 0, at right = n the upper one 1.
    low = (middle - half) / scale if right else 0.0
    high = (middle + half) / scale if right < n else 1.0
    return Interval(low, high, "wilson 95%")


def perplexity(losses: Sequence[Losses]) -> float:
    """exp of the mean loss over all tokens of all documents: token-weighted, losses in nats, one array a document."""
    tokens = sum(len(part) for part in losses)
    if tokens == 0:
        raise ValueError("perplexity of no tokens")
    return math.exp(sum(float(part.sum(dtype=np.float64)) for part in losses) / tokens)


def bootstrap(sums: npt.NDArray[np.float64], counts: npt.NDArray[np.int64], seed: Sequence[int]) -> tuple[float, float]:
    """Percentile bootstrap (Efron 1979) of the perplexity exp(Σ sums / Σ counts) over units drawn with replacement.

    `sums` (U,) is the loss, `counts` (U,) the tokens of each unit: a document, or a block of one.
    """
    units = len(sums)
    weights = np.random.default_rng(list(seed)).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)  # (R, U)
    resampled = np.exp((weights @ sums) / (weights @ counts))  # (R,)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return float(low), float(high)


def mean_interval(scores: Sequence[float], seed: Sequence[int]) -> Interval:
    """95 % interval of the mean of scores between 0 and 1: prompts are resampled; the same for the same seed."""
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        raise ValueError("mean of no scores")
    units = len(values)
    weights = np.random.default_rng(list(seed)).multinomial(units, np.full(units, 1 / units), size=RESAMPLES)  # (R, U)
    low, high = np.quantile(weights @ values / units, [0.025, 0.975])
    return Interval(float(low), float(high), "bootstrap 95%")


def block_size(tokens: int) -> int:
    """Tokens in a block: 32, fewer where that leaves under 8 blocks, more where it gives over 256 of them."""
    return max(min(32, tokens // 8), math.ceil(tokens / MAX_BLOCKS), 1)


class Units(NamedTuple):
    """What a perplexity's interval resamples: the loss (nats) and the tokens of each document, or block of one."""

    sums: npt.NDArray[np.float64]
    counts: npt.NDArray[np.int64]
    blocks: bool


def units(losses: Sequence[Losses]) -> Units:
    """Whole documents where there are two or more, since tokens of one document depend on each other; with a handful of
    documents an interval is narrow by nature. Of one document, blocks of consecutive tokens, which tell about it only.
    """
    if len(losses) > 1:
        sums = np.array([part.sum(dtype=np.float64) for part in losses])
        return Units(sums, np.array([len(part) for part in losses]), blocks=False)
    values = losses[0].astype(np.float64)
    starts = np.arange(0, len(values), block_size(len(values)))
    return Units(np.add.reduceat(values, starts), np.diff(np.append(starts, len(values))), blocks=True)


def perplexity_interval(found: Units, seed: Sequence[int]) -> Interval:
    """95 % interval of a perplexity from its units, the same for the same seed; the name says what was resampled."""
    name = "block bootstrap 95%" if found.blocks else "bootstrap 95%"
    return Interval(*bootstrap(found.sums, found.counts, seed), name)
