"""PoSE's figure 5: how evenly PoSE covers the relative distances of the target, by number of chunks."""

import math
from collections.abc import Sequence

from lab.bench import WINDOW, Bench
from lab.findings import Claim, Verdict
from lab.tables import Chart, Line, Result, Table
from skipwise.positions.coverage_summary import Number, summary
from skipwise.positions.sampler import Sampler
from skipwise.report.coverage_view import number_text, page, table

TITLE = "coverage of relative distances"
SOURCE = "PoSE, arXiv 2309.10400, figure 5"
PAPER = Table(
    "The paper",
    ["quantity", "value"],
    [["chance of each distance with 2 and 3 chunks", "a chart without numbers; all distances up to the target"]],
)
POINTS = 200
SAMPLERS = [("pose", 2), ("pose", 3), ("stratified", 2), ("stratified", 3), ("cream", 2), ("randpos", 2)]


def covers(name: str, needed: Number, factor: int) -> Claim:
    """Claim that all distances of the target are seen after some number of examples."""
    ever = math.isfinite(needed.value)
    evidence = f"95 % sure after {number_text(needed)} examples" if ever else "some never are"
    return Claim(f"{name} shows every distance at {factor}×", "yes" if ever else "no", evidence)


def fewer(name: str, later: Number, other: str, first: Number, factor: int) -> Claim:
    """Claim that a sampler needs fewer examples than another, whose number is exact.

    The number of `later` may be an upper bound, as that of PoSE with three chunks is, so it contradicts nothing.
    """
    verdict: Verdict = "yes" if (later.high or later.value) < first.value else "undecided"
    return Claim(
        f"{name} needs fewer examples than {other} at {factor}×",
        verdict,
        f"{number_text(later)} against {number_text(first)}",
    )


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points of a line, with as many digits as a chart shows."""
    return [(x, float(f"{y:.4g}")) for x, y in points[:: math.ceil(len(points) / POINTS)]]


def run(bench: Bench) -> Result:
    tables, charts, claims = [], [], []
    for factor in (8, 16, 64):
        rows = [
            summary(Sampler(name, WINDOW, factor * WINDOW, chunks=chunks), examples=200 if bench.quick else 1000)
            for name, chunks in SAMPLERS
        ]
        columns, cells = table(rows, 0.95)
        tables.append(Table(f"{WINDOW} tokens to {factor * WINDOW:,} ({factor}×)", columns, cells))
        lines = page(rows, 0.95)["sections"][0]["charts"][0]["series"]
        charts.append(
            Chart(
                f"Chance that one example shows a distance, {factor}×",
                "distance, tokens",
                "chance",
                [Line(line["name"], thinned(line["points"])) for line in lines],
                x_scale="linear",
                y_unit="wave",
            )
        )
        claims += [covers(f"PoSE with {n} chunks", row.all_seen, factor) for n, row in enumerate(rows[:2], start=2)]
        claims.append(fewer("PoSE with three chunks", rows[1].all_seen, "two", rows[0].all_seen, factor))
    return Result(claims, tables, charts, PAPER)
