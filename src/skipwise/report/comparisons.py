"""Paired comparisons that a page shows: which of them count, and in which part of the window they lie."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from skipwise.evals.paired_change import Change, change, pairs
from skipwise.evals.rows import Row
from skipwise.utils.text import TOKEN_METRICS

VERDICTS = ("better", "worse", "undecided")


class Comparison(NamedTuple):
    """One measurement of a model and of the model that it is compared with."""

    before: Row
    after: Row
    change: Change | None
    """None where the rows hold nothing to pair."""


def compare(before: Row, after: Row) -> Comparison:
    """Pair two rows that measured the same thing."""
    return Comparison(before, after, change(before, after))


def comparisons(first: Sequence[Row], later: Sequence[Row]) -> list[Comparison]:
    """Every pair of two models' rows, in the order of the later ones."""
    return [compare(before, after) for before, after in pairs(first, later)]


def counted(every: Iterable[Comparison]) -> list[Comparison]:
    """The comparisons that a count of verdicts is made of: those over all depths, and no measurement twice.

    Perplexity between two lengths reads the same documents as perplexity at the longer one, and so does the plain
    perplexity beside LongPPL. An average is made of
    tasks that count by themselves. A benchmark with several metrics counts by its first.
    """
    whole = [c for c in every if c.after.depth is None and c.after.metric not in TOKEN_METRICS]
    perplexities = {(c.after.variant, c.after.length) for c in whole if c.after.task == "perplexity"}
    one_each: dict[tuple[object, ...], Comparison] = {}
    for c in whole:
        row = c.after
        between = row.task == "perplexity_by_position" and (row.variant, row.length) in perplexities
        plain = row.task == "longppl" and row.variant == "all"
        if between or plain or row.tasks or (row.task == "ruler" and row.variant == "average"):
            continue
        one_each.setdefault((row.task, row.variant, row.start, row.length), c)
    return list(one_each.values())


def inside(row: Row, original: int) -> bool:
    """Whether a row lies inside the original window; a row of no length, such as a short benchmark, does."""
    return row.length is None or row.length <= original


def verdict_counts(every: Iterable[Comparison]) -> dict[str, int]:
    """How many comparisons have each verdict; those without a paired change have none."""
    verdicts = [c.change.verdict for c in every if c.change]
    return {verdict: verdicts.count(verdict) for verdict in VERDICTS}
