"""Rows over several rows of a task at one length: over all depths, and the average of its variants."""

from collections.abc import Sequence
from typing import Any

from skipwise.evals.intervals import mean_interval
from skipwise.evals.rows import Row, digest
from skipwise.evals.task import scored


def joined(rows: Sequence[Row]) -> dict[str, Any]:
    """Columns of a row that stands for several: their data, mean length of a prompt, time and cut prompts."""
    return {
        "data": digest(rows),
        "answers": [],
        "tokens": round(sum((row.tokens or 0) * row.n for row in rows) / sum(row.n for row in rows)),
        "seconds": round(sum(row.seconds or 0 for row in rows), 3),
        "cut": sum(row.cut for row in rows),
    }


def average(rows: list[Row]) -> Row:
    """Average over variants, all of which count the same.

    Args:
        rows: One for each variant, with the same number of prompts, none of which shares a text with another.

    Returns:
        The row `average`. A sample of it is one prompt of every variant.
    """
    levels = [row.chance for row in rows if row.chance is not None]
    whole = rows[0].replace(
        variant="average",
        tasks=[row.variant for row in rows],
        **joined(rows),
        chance=round(sum(levels) / len(levels), 4) if len(levels) == len(rows) else None,
    )
    whole = scored(whole, [sum(column) / len(column) for column in zip(*(row.scores for row in rows), strict=True)])
    # All prompts are independent of each other, so the interval is that of all of them together. That variants differ
    # in difficulty makes it wider than need be (as for a binomial: Hoeffding 1956), never narrower.
    interval = mean_interval([score for row in rows for score in row.scores])
    return whole.replace(low=interval.low, high=interval.high, interval=interval.name)


def overall(rows: Sequence[Row]) -> list[Row]:
    """A row over all depths for each variant and length that has depths: `depth` None, all their trials together."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.depth is not None:
            groups.setdefault((row.variant, row.length), []).append(row)
    return [_overall(group) for group in groups.values()]


def _overall(rows: Sequence[Row]) -> Row:
    n = sum(row.n for row in rows)
    whole = rows[0].replace(
        depth=None,
        distance=None,
        depths=[row.depth for row in rows],
        n=n,
        units=[unit for row in rows for unit in row.units],
        **joined(rows),
        chance=rows[0].chance and round(sum((row.chance or 0) * row.n for row in rows) / n, 4),
    )
    return scored(whole, [score for row in rows for score in row.scores])
