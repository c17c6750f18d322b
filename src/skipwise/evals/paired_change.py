"""Compare two models row by row: the change from one to the other, with a paired interval.

Only rows that measure the same thing are paired: same task, version, settings, seed and `data`, the digest of prompts
or texts as tokens. What is hard for both models cancels out, so a paired interval is much narrower than what two
separate ones suggest. NumPy only.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from skipwise.evals import power
from skipwise.evals.intervals import Z95, by_unit, joined, ratio_estimate, same_texts_estimate
from skipwise.evals.rows import Row


class SameTexts(NamedTuple):
    """The interval and verdict of a perplexity's ratio for the very texts that were read; it says nothing of others."""

    low: float
    high: float
    interval: str
    verdict: str
    n: int
    """Blocks of all texts."""


class Change(NamedTuple):
    """From one model to another on the same prompts or texts."""

    value: float
    """Difference of mean scores (later − earlier) or, for a perplexity, their ratio (later / earlier)."""
    low: float
    high: float
    interval: str
    verdict: str
    """`better`, `worse`, or `undecided` where the interval holds no change, or rests on too little (`few`)."""
    n: int
    """Pairs: prompts, documents or blocks of a document."""
    few: str | None = None
    """What the change rests on where that is too little for a verdict, such as `one document`."""
    detectable: float | None = None
    """Smallest true change that would have been shown four times in five: a difference of scores or, for a perplexity,
    a ratio above 1. None where there is none."""
    same_texts: SameTexts | None = None
    """A perplexity over several documents: the same change for these documents alone."""


def pairs(first: Sequence[Row], later: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Pair the rows that measure the same thing. Of rows measured twice the last ones count.

    Args:
        first: Rows of one model.
        later: Rows of the other model.

    Yields:
        (row of `first`, row of `later`).
    """
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
    """Compute the change between two rows of `pairs`.

    Args:
        before: Row of one model. It holds `scores`, one a prompt, or `sums` and `counts`, the losses (nats) and tokens
            of each document or block.
        after: Row of the other model.

    Returns:
        The change; None if the rows hold nothing to pair.
    """
    paired = _change(before, after)
    few = paired and _few(after, paired.n)
    return paired._replace(verdict="undecided", few=few) if paired and few else paired


def _change(before: Row, after: Row) -> Change | None:
    """Compute the change whatever it rests on."""
    if before.metric == "perplexity":
        if not before.sums or before.counts != after.counts:
            return None
        paired = perplexity_ratio(before.sums, after.sums, before.counts, blocks=before.n == 1)
        return paired._replace(same_texts=same_texts_ratio(before, after))
    if not before.scores or len(before.scores) != len(after.scores):
        return None
    if before.units and before.units == after.units:
        return score_difference(*(by_unit(row.scores, row.units) for row in (before, after)))
    return score_difference(before.scores, after.scores)


def _few(row: Row, pairs: int) -> str | None:
    """`one document`, `one prompt` or `one list` where a change rests on no more than that; None where on more.

    The blocks of one document, or the prompts about one list, have an interval. It says nothing of other documents or
    lists.
    """
    if row.n < 2:
        return f"one {unit_name(row)}"
    return f"one {shared_unit(row) or unit_name(row)}" if pairs < 2 else None


def unit_name(row: Row) -> str:
    """What `n` of a row counts, in the singular."""
    if row.task == "harness":
        return "question"
    return "document" if row.metric == "perplexity" else "prompt"


def shared_unit(row: Row) -> str | None:
    """What several prompts of a row share, such as `list`; None where they share nothing."""
    return row.units[0].split()[0] if row.units else None


def score_difference(before: Sequence[float], after: Sequence[float]) -> Change:
    """Difference of the mean scores (0 to 1, higher is better) of two models on the same prompts.

    Where scores are 0 or 1, or most prompts agree: the Wald interval after one prompt gained and one lost are added
    (Bonett & Price, J. Educational and Behavioral Statistics 2012, 37:479). It has a width where the models agree on
    all prompts and covers 93.5 % or more, for few prompts nearly everything. Other scores: Student's t on the
    differences.

    Args:
        before: Scores of the first model, one an independent prompt.
        after: Those of the other model, in the same order.
    """
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    n = len(differences)
    value = float(differences.mean())
    binary = np.isin(differences, (-1.0, 0.0, 1.0)).all()
    if binary or np.ptp(differences) == 0 or (differences == 0).sum() > n / 2:
        added = np.append(differences, [1.0, -1.0])
        error = float(added.std()) / math.sqrt(n + 2)
        middle, half, name = float(added.mean()), Z95 * error, "paired Bonett-Price 95%"
        against = min((differences == 1).mean(), (differences == -1).mean())
        detectable = power.detectable_share(n, float(against)) if binary else power.detectable(error, math.inf)
    else:
        middle, error, degrees = estimate = ratio_estimate(differences, np.ones(n))
        half, name = estimate.half, "paired t 95%"
        detectable = power.detectable(error, degrees)
    low, high = max(middle - half, -1.0), min(middle + half, 1.0)
    verdict = "better" if low > 0 else "worse" if high < 0 else "undecided"
    return Change(value, low, high, name, verdict, n, detectable=detectable)


def perplexity_ratio(
    before: Sequence[float], after: Sequence[float], counts: Sequence[int], blocks: bool = False
) -> Change:
    """Ratio of two models' perplexities, later / earlier, on the same texts; below 1 is better.

    The logarithm of the ratio is the mean loss difference a token, and its interval that of `intervals.ratio_of_sums`,
    as for one model. A single unit has no finite interval and decides nothing.

    Args:
        before: Loss (nats) of the first model in each unit (U,): a document, or a block of one.
        after: That of the other model.
        counts: Tokens of each unit (U,).
        blocks: Whether the units are blocks of one document. Short ones, as earlier versions wrote them, are joined.
    """
    differences = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    tokens = np.asarray(counts, dtype=np.float64)
    if blocks:
        differences, tokens = joined(differences, tokens)
    mean, error, degrees = estimate = ratio_estimate(differences, tokens)
    low, high = _exp(mean - estimate.half), _exp(mean + estimate.half)
    name = "paired t 95%, blocks of one document" if blocks else "paired t 95%"
    shown = _exp(power.detectable(error, degrees)) if math.isfinite(error) else None
    return Change(_exp(mean), low, high, name, _ratio_verdict(low, high), len(differences), detectable=shown)


def same_texts_ratio(before: Row, after: Row) -> SameTexts | None:
    """Compare two perplexities for the very documents that were read, from paired blocks of each.

    Documents differ in how much a model changes on them, so the interval over documents, which speaks of other texts,
    is wide for few of them. This one leaves that out: see `intervals.same_texts_estimate`.

    Args:
        before: Row of one model, with `block_sums` and `block_counts`.
        after: Row of the other model.

    Returns:
        The interval of the ratio; None for rows of one document, or of an earlier version, which hold no such blocks.
    """
    if not before.block_sums or before.block_counts != after.block_counts:
        return None
    differences = [np.subtract(late, early) for early, late in zip(before.block_sums, after.block_sums, strict=True)]
    estimate = same_texts_estimate(differences, [np.asarray(part, dtype=np.float64) for part in before.block_counts])
    low, high = _exp(estimate.mean - estimate.half), _exp(estimate.mean + estimate.half)
    name = "paired t 95%, blocks of the same texts"
    return SameTexts(low, high, name, _ratio_verdict(low, high), sum(map(len, differences)))


def _ratio_verdict(low: float, high: float) -> str:
    return "better" if high < 1 else "worse" if low > 1 else "undecided"


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
