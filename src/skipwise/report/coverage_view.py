"""How `skipwise coverage` shows samplers: a table and lines of blocks for a terminal, and the data of a page."""

import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipwise import __version__
from skipwise.positions.coverage_summary import SHARE, Number, Summary
from skipwise.utils.text import aligned, length_text

CELLS = 64
"""Blocks of a line in the terminal."""
POINTS = 512
"""Points of a line on the page."""
BLOCKS = "▁▂▃▄▅▆▇█"
FLOOR = 1e-4
"""Chance that the lowest block stands for; each further block is the same factor above it, up to 1."""


def number_text(number: Number) -> str:
    """`11,693`, `51 (47–55)`, `51 (47 or more)`, `over 4,096` or `never`."""
    if math.isinf(number.value):
        return "never"
    value = f"{number.value:,.0f}"
    if number.at_least:
        return f"over {value}"
    if number.low is None or number.high is None:
        return value
    ends = f"{number.low:,.0f} or more" if math.isinf(number.high) else f"{number.low:,.0f}–{number.high:,.0f}"
    return f"{value} ({ends})"


def _chance_text(row: Summary, at: int | None = None) -> str:
    """Mean chance of all distances, or that of one, with its error where it is sampled."""
    value = float(row.chances.mean() if at is None else row.chances[at])
    if row.error is None:
        return f"{value:.3g}"
    return f"{value:.3g} ± {float(row.error.mean() if at is None else row.error[at]):.1g}"


def table(rows: list[Summary], probability: float) -> tuple[list[str], list[list[str]]]:
    """Titles and cells, both as text."""
    titles = ["sampler", "chance", "mean of all", "of the rarest", f"{SHARE:.0%} seen after"]
    titles += [f"all seen after ({100 * probability:.4g}% sure)", "beyond the train length, seen"]
    return titles, [
        [
            row.sampler.describe_positions(),
            row.origin,
            _chance_text(row),
            _chance_text(row, int(row.chances.argmin())),
            number_text(row.most_seen),
            number_text(row.all_seen),
            f"{row.least:,} to {row.most:,} times in {row.counted:,}",
        ]
        for row in rows
    ]


def _binned(values: NDArray[np.float64], bins: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    edges = np.unique(np.linspace(0, len(values), bins + 1).astype(np.int64))
    return edges, np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def _blocks(row: Summary) -> str:
    """One block for each part of the window, on a logarithmic scale from `FLOOR` to 1; a blank for a chance of 0."""
    means = _binned(row.chances, CELLS)[1]
    steps = len(BLOCKS) - 1
    levels = [round(steps * (1 - math.log(max(mean, FLOOR)) / math.log(FLOOR))) for mean in means.tolist()]
    return "".join(BLOCKS[level] if mean else " " for level, mean in zip(levels, means, strict=True))


def text(rows: list[Summary], probability: float) -> str:
    """The table and the lines for a terminal."""
    titles, cells = table(rows, probability)
    length, target = rows[0].sampler.train_length, rows[0].sampler.target_length
    names = [row.sampler.describe_positions() for row in rows]
    width = max(map(len, names))
    return "\n".join(
        [
            f"examples of {length_text(length)} tokens, target {length_text(target)}: distances 0 to {target - 1:,}",
            "",
            *aligned([titles, *cells]),
            "",
            f"chance that one example shows a distance, logarithmic: {BLOCKS[0]} {FLOOR:g} or less, {BLOCKS[-1]} 1",
            *(f"{name.ljust(width)}  {_blocks(row)}" for name, row in zip(names, rows, strict=True)),
            f"{' ' * width}  0{f'{target - 1:,}'.rjust(CELLS - 1)}",
        ]
    )


def plain(row: Summary) -> dict[str, Any]:
    """A row for JSON. The chances are means over at most 512 parts of the window."""
    edges, means = _binned(row.chances, POINTS)

    def number(value: Number) -> dict[str, Any]:
        examples, high = (None if end is None or math.isinf(end) else end for end in (value.value, value.high))
        return {"examples": examples, "low": value.low, "high": high, "at_least": value.at_least}

    return {
        "sampler": row.sampler.name,
        "chunks": row.sampler.chunks,
        "train_length": row.sampler.train_length,
        "target_length": row.sampler.target_length,
        "chances_are": row.origin,
        "mean_chance": float(row.chances.mean()),
        "least_chance": float(row.chances.min()),
        "most_seen": number(row.most_seen),
        "all_seen": number(row.all_seen),
        "counted_examples": row.counted,
        "least_times": row.least,
        "most_times": row.most,
        "edges": edges.tolist(),
        "chances": means.tolist(),
        "errors": None if row.error is None else _binned(row.error, POINTS)[1].tolist(),
    }


def page(rows: list[Summary], probability: float) -> dict[str, Any]:
    """Data of the HTML page, for the scripts `render.SHEET`."""
    titles, cells = table(rows, probability)
    length, target = rows[0].sampler.train_length, rows[0].sampler.target_length
    return {
        "runs": [],
        "series": [],
        "headline": f"What {length_text(length)} tokens show of {length_text(target)}",
        "kicker": f"Distances 0 to {target - 1:,}",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipwise": __version__,
        "tiles": [
            [row.sampler.describe_positions(), number_text(row.all_seen), "examples until all seen"] for row in rows
        ],
        "notes": [],
        "sections": [
            {
                "id": "chances",
                "nav": "Chances",
                "title": "Chance that one example shows a distance",
                "lead": "Exact where there is a formula, else the share of sampled examples.",
                "charts": [
                    {
                        "label": "chance by distance",
                        "x": {"label": "distance, tokens", "scale": "linear", "unit": "length"},
                        "y": {"label": "chance", "scale": "log", "unit": "wave"},
                        "marks": [{"x": length, "label": "train length"}],
                        "series": [
                            {"name": row.sampler.describe_positions(), "colour": i, "points": _points(row)}
                            for i, row in enumerate(rows)
                        ],
                    }
                ],
            },
            {
                "id": "examples",
                "nav": "Examples",
                "title": "Examples until distances have been seen",
                "lead": f"Of {length:,} tokens each, over a window of {target:,}.",
                "tables": [{"title": "Examples", "columns": titles, "rows": cells}],
            },
        ],
    }


def _points(row: Summary) -> list[tuple[float, float]]:
    """Centre and mean chance of each part of the window, without parts that are never shown."""
    edges, means = _binned(row.chances, POINTS)
    centres = (edges[:-1] + edges[1:] - 1) / 2
    return [(float(x), float(f"{y:.4g}")) for x, y in zip(centres, means, strict=True) if y > 0]
