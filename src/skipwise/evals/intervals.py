"""95 % intervals of one model's figures: shares, mean scores and perplexities. NumPy only.

Every interval here is named after its method. Their coverage is simulated in the tests: a name that ends in "95%" holds
95 % to 1.5 points for the data that its docstring names, and "at least 95%" never holds less. The unit of an interval
is what was drawn independently: a prompt, a document, a list of pairs that several prompts share.
"""

import functools
import math
import statistics
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
TAIL = 0.025
DRAWS = 10_000
"""Draws of a simulated quantile: its level is then right to 0.2 points."""
BLOCKS = 16
"""Most blocks of one document."""
LEAST_BLOCK = 256
"""Tokens of a block, unless fewer than `FEWEST_BLOCKS` would fit."""
FEWEST_BLOCKS = 4

Losses = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """Ends and method of an interval; all None where the data give no finite one."""

    low: float | None
    high: float | None
    name: str | None


NONE = Interval(None, None, None)


@functools.lru_cache(maxsize=10_000)
def share_interval(right: int, n: int, tail: float = TAIL) -> Interval:
    """Clopper and Pearson's exact interval for the share of `right` out of `n` independent trials.

    Its ends are the shares under which so many, or so few, right answers have a chance of `tail`. It never covers less
    than it says. Wilson's interval, which is narrower, holds 95 % on average over shares only: 83 % at some, such as
    0.98 for 10 trials.

    Args:
        right: Right answers.
        n: Trials, at least 1.
        tail: Chance of an error on each side.

    Raises:
        ValueError: for counts that are no share.

    Source: Clopper & Pearson, Biometrika 1934, 26:404; against Wilson: Brown, Cai & DasGupta, Statistical Science 2001,
    16:101.
    """
    if not 0 <= right <= n or n == 0:
        raise ValueError(f"{right} right answers of {n}: expected 0 <= right <= n and n > 0")
    low = _share_of_tail(right, n, tail) if right else 0.0
    high = 1 - _share_of_tail(n - right, n, tail) if right < n else 1.0
    return Interval(low, high, "Clopper-Pearson, at least 95%")


def _share_of_tail(right: int, n: int, tail: float) -> float:
    """The share under which `right` or more of `n` have the chance `tail`, by bisection."""
    k = np.arange(right, n + 1)
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # ln 0!, ln 1!, … ln n!
    ways = logs[n] - logs[k] - logs[n - k]
    low, high = 0.0, 1.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        chance = np.exp(ways + k * math.log(middle) + (n - k) * math.log1p(-middle)).sum()
        low, high = (middle, high) if chance < tail else (low, middle)
    return (low + high) / 2


def mean_interval(scores: Sequence[float]) -> Interval:
    """Interval of the mean of independent scores between 0 and 1, whatever their distribution.

    Gaffke's bounds: the scores and one more at the far end, 1 for the upper end and 0 for the lower one, are weighted
    by uniform Dirichlet weights, and the quantile of their mean is taken. Of scores that are 0 or 1 it is exactly
    Clopper and Pearson's interval, so one method serves both. That it covers at least 95 % is proved for those and was
    never contradicted for others. A bootstrap or Student's t misses the rare scores that a few prompts do not show: of
    twenty prompts that score 0.75, but 0 one time in twenty, t covers 77 %. The price is width where scores are all
    alike.

    Args:
        scores: One for each independent prompt, 0 to 1.

    Raises:
        ValueError: for no scores.

    Source: Gaffke, Mathematical Methods of Statistics 2005, 14:451; Learned-Miller & Thomas, arXiv 1905.06208.
    """
    values = np.asarray(scores, dtype=np.float64)
    if not len(values):
        raise ValueError("mean of no scores")
    levels, counts = np.unique(values, return_counts=True)
    if np.isin(levels, (0.0, 1.0)).all():
        return share_interval(round(float(values.sum())), len(values))
    generator = np.random.default_rng(
        0
    )  # the quantile is a constant of the scores, so its draws are the same each time
    ends = []
    for _ in range(size := math.ceil(DRAWS * len(levels) / 2_000_000)):  # parts, to bound the memory
        weights = generator.standard_gamma(counts, (math.ceil(DRAWS / size), len(levels)))  # (R, levels)
        spare = generator.standard_exponential(len(weights))
        sums, total = weights @ levels, weights.sum(axis=1) + spare
        ends.append([sums / total, (sums + spare) / total])
    low, high = np.concatenate(ends, axis=1)
    return Interval(
        max(float(np.quantile(low, TAIL)), 0.0), min(float(np.quantile(high, 1 - TAIL)), 1.0), "Gaffke, at least 95%"
    )


def t_interval(scores: Sequence[float]) -> Interval:
    """Interval of the mean of independent scores that spread about evenly around it, away from 0 and 1, such as ROUGE.

    Student's t, which is then a fourth of `mean_interval`'s width for 16 scores. For scores as skewed as ROUGE-2's it
    covers 92 to 94 % up to 16 of them. Scores that are all equal, or a single one, show no spread: `mean_interval`.
    """
    values = np.asarray(scores, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) == 0:
        return mean_interval(scores)
    mean, half = ratio_of_sums(values, np.ones(len(values)))
    return Interval(max(mean - half, 0.0), min(mean + half, 1.0), "Student t 95%")


def by_unit(scores: Sequence[float], units: Sequence[Hashable]) -> list[float]:
    """Mean score of each unit, in the order of their first appearance.

    Prompts about one text or list stand or fall together. Only the texts were drawn independently, so an interval is
    taken over their means.

    Args:
        scores: One a prompt.
        units: What each prompt belongs to.
    """
    groups: dict[Hashable, list[float]] = {}
    for score, unit in zip(scores, units, strict=True):
        groups.setdefault(unit, []).append(score)
    return [sum(group) / len(group) for group in groups.values()]


def perplexity(losses: Sequence[Losses]) -> float:
    """Exp of the mean loss over all tokens of all documents: token-weighted, losses in nats, one array a document."""
    tokens = sum(len(part) for part in losses)
    if tokens == 0:
        raise ValueError("perplexity of no tokens")
    return math.exp(sum(float(part.sum(dtype=np.float64)) for part in losses) / tokens)


class Units(NamedTuple):
    """Units of a perplexity's interval: the loss (nats) and the tokens of each document, or block of one."""

    sums: Floats
    counts: npt.NDArray[np.int64]
    blocks: bool


def block_count(tokens: int) -> int:
    """Blocks into which one document is cut: 16, fewer where a block would have under 256 tokens, but 4 if possible."""
    return max(min(BLOCKS, tokens // LEAST_BLOCK), min(FEWEST_BLOCKS, tokens), 1)


def units(losses: Sequence[Losses]) -> Units:
    """Whole documents where there are two or more; of one document, blocks of consecutive tokens.

    Tokens of one document depend on each other over hundreds of tokens: over 8,192 tokens of prose and of verse read by
    SmolLM2, the standard error from blocks of 512 tokens was 1.8 and 2.0 times that from blocks of 32. So blocks are
    few and long. With Student's t that costs little: 16 blocks widen the interval by 9 %, 8 by 21 %, against a known
    variance. An interval over blocks is about that document only.

    Source: Schmeiser, Operations Research 1982, 30:556, recommends 10 to 30 batches whatever the length.

    Args:
        losses: Nats, one array a document.
    """
    if len(losses) > 1:
        sums = np.array([part.sum(dtype=np.float64) for part in losses])
        return Units(sums, np.array([len(part) for part in losses]), blocks=False)
    return document_blocks(losses[0])


def document_blocks(losses: Losses) -> Units:
    """Cut one document into `block_count` blocks of consecutive tokens.

    Args:
        losses: Nats, one a token.
    """
    values = losses.astype(np.float64)
    edges = np.linspace(0, len(values), block_count(len(values)) + 1).round().astype(np.int64)
    return Units(np.add.reduceat(values, edges[:-1]), np.diff(edges), blocks=True)


def joined(sums: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """The shorter blocks of one document that earlier versions wrote, joined to `block_count` of them."""
    wanted = block_count(int(counts.sum()))
    if len(sums) <= wanted:
        return sums, counts
    edges = np.linspace(0, len(sums), wanted + 1).round().astype(np.int64)[:-1]
    return np.add.reduceat(sums, edges), np.add.reduceat(counts, edges)


def perplexity_interval(parts: Units) -> Interval:
    """Interval of a perplexity from its units: Student's t of the mean loss a token, its ends exponentiated.

    A percentile bootstrap over documents, as many tools print it, covers 79 % for four documents and 88 % for eight.
    """
    mean, half = ratio_of_sums(parts.sums, parts.counts.astype(np.float64))
    if mean + half > 700:  # one unit, or an end beyond what a float holds
        return NONE
    name = "Student t 95%, blocks of one document" if parts.blocks else "Student t 95%"
    return Interval(math.exp(mean - half), math.exp(mean + half), name)


def ratio_of_sums(sums: Floats, weights: Floats) -> tuple[float, float]:
    """Σ sums / Σ weights over independent units, and half the width of its 95 % interval; infinite for one unit.

    The ratio estimator's variance with jackknifed residuals and Student's t. The degrees of freedom are Kish's
    effective number of units less 1, so that one long document among short ones does not pass for many: plain t on
    units whose lengths spread by a factor of e covers 86 to 92 %. For units of one length both are the usual t of their
    means.

    Source: Cochran, Sampling Techniques, 1977, sections 6.4 and 6.17; Kish, Survey Sampling, 1965, section 11.2.

    Args:
        sums: Total of each unit (U,), such as its loss in nats.
        weights: Size of each unit (U,), such as its tokens.
    """
    estimate = ratio_estimate(sums, weights)
    return estimate.mean, estimate.half


class Estimate(NamedTuple):
    """A mean with its standard error, infinite for one unit, and the degrees of freedom of that error."""

    mean: float
    error: float
    degrees: float

    @property
    def half(self) -> float:
        """Half the width of the 95 % interval."""
        return student(self.degrees) * self.error


def ratio_estimate(sums: Floats, weights: Floats) -> Estimate:
    """Estimate the ratio of `ratio_of_sums`."""
    n, total = len(sums), float(weights.sum())
    mean = float(sums.sum()) / total
    if n < 2:
        return Estimate(mean, math.inf, 1.0)
    shares = weights / total
    residuals = (sums - weights * mean) / (1 - shares) / total
    error = math.sqrt((n - 1) / n * float(residuals @ residuals))
    return Estimate(mean, error, max(1 / float(shares @ shares) - 1, 1.0))


def same_texts_estimate(sums: Sequence[Floats], weights: Sequence[Floats]) -> Estimate:
    """Estimate Σ sums / Σ weights for the very texts that were read, from blocks of each of them.

    The texts are strata: how they differ from each other does not count, only how the blocks of one spread around its
    own mean. So this says what a measurement of these texts is worth and nothing of other texts. Variances of texts
    add up, and the degrees of freedom are Satterthwaite's. It holds 95 % to 1.5 points as long as the correlation of
    neighbouring tokens dies out well within a block (an AR(1) series with a coefficient of up to 0.95 and blocks of
    256 tokens, by simulation). A drift along a text widens it.

    Args:
        sums: Total of each block of each text, such as its loss in nats.
        weights: Size of each block of each text, such as its tokens.

    Source: Cochran, Sampling Techniques, 1977, section 5.9; Satterthwaite, Biometrics Bulletin 1946, 2:110.
    """
    total = sum(float(part.sum()) for part in weights)
    mean = sum(float(part.sum()) for part in sums) / total
    texts = [ratio_estimate(*part) for part in zip(sums, weights, strict=True)]
    parts = [text.error * float(part.sum()) / total for text, part in zip(texts, weights, strict=True)]
    variance = sum(part**2 for part in parts)
    if not 0 < variance < math.inf:
        return Estimate(mean, math.sqrt(variance), 1.0)
    spread = sum(part**4 / text.degrees for part, text in zip(parts, texts, strict=True))
    return Estimate(mean, math.sqrt(variance), max(variance**2 / spread, 1.0))


def over_seeds(
    values: Sequence[float], ends: Sequence[tuple[float, float]], limits: tuple[float, float]
) -> tuple[float, float, float]:
    """Mean of a score over the seeds of a training, or of a difference of scores, and its 95 % interval.

    All seeds are asked the same prompts, so an interval over seeds alone says nothing of other prompts, and three seeds
    that answer alike have none at all. To each side it is the wider of Student's t over seeds and the seeds' own
    intervals over prompts, on average.

    Args:
        values: One a seed, two or more.
        ends: The interval of each over its prompts; empty where that is not known.
        limits: What no value exceeds.

    Returns:
        (mean, low, high).
    """
    numbers = np.asarray(values, dtype=np.float64)
    mean, half = ratio_of_sums(numbers, np.ones(len(numbers)))
    below = above = half
    if ends:
        lows, highs = np.asarray(ends, dtype=np.float64).T
        below, above = max(half, float((numbers - lows).mean())), max(half, float((highs - numbers).mean()))
    return mean, max(mean - below, limits[0]), min(mean + above, limits[1])


@functools.lru_cache(maxsize=1024)
def student(degrees: float, tail: float = TAIL) -> float:
    """Quantile 1 - `tail` of Student's t with `degrees` of freedom, 1 or more, right to 1e-3. Default: 97.5 %.

    Up to 100 degrees by integration (with t = √degrees · tan θ the density is cos θ to the power degrees - 1), above by
    the Cornish-Fisher expansion (Abramowitz & Stegun 26.7.5).
    """
    if degrees > 100:
        z = statistics.NormalDist().inv_cdf(1 - tail)
        return z + (z**3 + z) / 4 / degrees + (5 * z**5 + 16 * z**3 + 3 * z) / 96 / degrees**2
    angles = np.linspace(0, math.pi / 2, 10_001)
    density = np.cos(angles) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(degrees) * math.tan(float(np.interp(1 - 2 * tail, area / area[-1], angles)))
