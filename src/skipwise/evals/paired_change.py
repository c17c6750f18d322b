"""Paired comparisons: the rows of two models flow in, the change from one to the other with its interval flows out.

Only rows that measure the same thing are paired: same task, version, settings, seed and `data`, the digest of prompts
or texts as tokens. What both models found hard then cancels out, so a paired interval is much narrower than what two
separate ones suggest. NumPy only.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from skipwise.evals.intervals import Z95
from skipwise.evals.rows import Row


class Change(NamedTuple):
    """From one model to another on the same prompts or texts."""

    value: float
    """Difference of mean scores (later − earlier) or, for a perplexity, their ratio (later / earlier)."""
    low: float
    high: float
    interval: str
    verdict: str
    """`better`, `worse`, or `undecided` where the interval holds no change."""
    n: int
    """Pairs: prompts, documents or blocks of a document."""


def pairs(first: Sequence[Row], later: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """(row of `first`, row of `later`) that measure the same thing; of rows measured twice the last ones."""
    earlier = {row.setup(): row for row in first}
    for setup, row in {row.setup(): row for row in later}.items():
        if setup in earlier:
            yield earlier[setup], row


def unpaired(first: Sequence[Row], later: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Pairs that differ in nothing but their prompts or texts, as those of models with different tokenizers do."""
    texts = ("data", "n")
    earlier = {row.setup(without=texts): row for row in first}
    for setup, row in {row.setup(without=texts): row for row in later}.items():
        if setup in earlier and earlier[setup].data != row.data:
            yield earlier[setup], row


def change(before: Row, after: Row) -> Change | None:
    """The change between two rows of `pairs`; None where they hold nothing to pair.

    Rows hold `scores`, one a prompt, or `sums` and `counts`, the losses (nats) and tokens of each document or block.
    """
    if before.metric == "perplexity":
        if not before.sums or before.counts != after.counts:
            return None
        return perplexity_ratio(before.sums, after.sums, before.counts)
    if not before.scores or len(before.scores) != len(after.scores):
        return None
    return score_difference(before.scores, after.scores)


def score_difference(before: Sequence[float], after: Sequence[float]) -> Change:
    """Difference of the mean scores (0 to 1, higher is better) of two models on the same prompts.

    Scores that are 0 or 1: Bonett & Price (J. Educational and Behavioral Statistics 2012, 37:479), the Wald interval
    after one prompt gained and one lost are added; it keeps its coverage for a handful of prompts and has a width where
    the models agree on all. Scores between: Student's t on the differences, which for few prompts is not as much too
    narrow as the percentile bootstrap.
    """
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    n = len(differences)
    value = float(differences.mean())
    if np.isin(differences, (-1.0, 0.0, 1.0)).all() or np.ptp(differences) == 0:
        added = np.append(differences, [1.0, -1.0])
        middle, half, name = float(added.mean()), Z95 * float(added.std()) / math.sqrt(n + 2), "paired Bonett-Price 95%"
    else:
        middle, half, name = value, _half_width(differences, np.ones(n)), "paired t 95%"
    low, high = max(middle - half, -1.0), min(middle + half, 1.0)
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return Change(value, low, high, name, verdict, n)


def perplexity_ratio(before: Sequence[float], after: Sequence[float], counts: Sequence[int]) -> Change:
    """Ratio of two models' perplexities, later / earlier, on the same texts; below 1 is better.

    `before` and `after` (U,) are the losses (nats) of each unit, a document or a block of one, `counts` (U,) its
    tokens. The logarithm of the ratio is the mean loss difference a token: Student's t for a ratio of sums over few
    units (Cochran, Sampling Techniques, 1977, section 6.4). A single unit has no finite interval and decides nothing.
    """
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    tokens = np.asarray(counts, dtype=np.float64)
    mean = float(differences.sum() / tokens.sum())
    half = _half_width(differences, tokens)
    low, high = _exp(mean - half), _exp(mean + half)
    verdict = "better" if high < 1 else "worse" if low > 1 else "undecided"
    return Change(_exp(mean), low, high, "paired t 95%", verdict, len(differences))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _half_width(differences: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> float:
    """Half the 95 % interval of Σ differences / Σ weights over independent units; infinite for one unit."""
    n, total = len(differences), float(weights.sum())
    if n < 2:
        return math.inf
    residuals = differences - weights * (differences.sum() / total)
    return student(n - 1) * math.sqrt(n / (n - 1) * float(residuals @ residuals)) / total


def student(degrees: int) -> float:
    """97.5 % quantile of Student's t: tabulated below 5 degrees of freedom, else the Cornish-Fisher expansion
    (Abramowitz & Stegun 26.7.5), right to 1e-3."""
    if degrees < 5:
        return (12.7062, 4.3027, 3.1824, 2.7764)[degrees - 1]
    z = Z95
    return (
        z
        + (z**3 + z) / 4 / degrees
        + (5 * z**5 + 16 * z**3 + 3 * z) / 96 / degrees**2
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / degrees**3
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160 / degrees**4
    )
