"""Is there a rule for YaRN's attention factor after training on short windows?

Training never shows attention among more tokens than the train length, so at the target it is spread over more of them
than it has learned to choose from. A factor m on cos and sin multiplies every score by m². If scores are to keep their
share among n instead of L tokens, as in entropy-invariant attention, they have to grow with log n / log L, so a rule
m² = ln(target) / ln(train length) suggests itself, beside YaRN's m = 0.1·ln(factor) + 1, which is fitted to untrained
models.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lab.bench import CORPORA, WINDOW, Bench, pick, variant
from lab.findings import FEWEST_SEEDS, Claim, Verdict, mean_over_seeds
from lab.tables import Chart, Line, Result, Table
from skipwise.evals.intervals import ratio_of_sums
from skipwise.evals.rows import Row
from skipwise.utils.text import count_text

TITLE = "the attention factor after training"
SOURCE = "ours; YaRN, arXiv 2309.00071, eq. 22"
TIMES = [0.9, 1.0, 1.1, 1.2, 1.3]
"""Attention factors as multiples of YaRN's own."""


def yarn(factor: float) -> float:
    """YaRN's attention factor."""
    return 0.1 * math.log(factor) + 1


def entropy(factor: float) -> float:
    """The factor that keeps a score's share when the tokens grow from the window to `factor` windows."""
    return math.sqrt(math.log(factor * WINDOW) / math.log(WINDOW))


RULES = {"YaRN's rule": yarn, "√(ln T / ln L)": entropy}
CLOSE = 0.1


def vertex(factors: Sequence[float], losses: Sequence[float]) -> float:
    """The vertex of a parabola through log-perplexities, or the best one measured where there is none between them."""
    a, b, _ = np.polyfit(factors, losses, 2)
    middle = -b / (2 * a) if a > 0 else math.nan
    return float(middle) if factors[0] <= middle <= factors[-1] else factors[int(np.argmin(losses))]


def optimum(factors: Sequence[float], rows: Sequence[Sequence[Row]]) -> tuple[float, float, str]:
    """The best factor, half of its 95 % interval, and what that is over.

    Args:
        factors: Those tried.
        rows: For each of them the perplexity row of each seed.
    """
    if len(rows[0]) >= FEWEST_SEEDS:
        each = [vertex(factors, [math.log(row.value) for row in of_seed]) for of_seed in zip(*rows, strict=True)]
        unit = "seed"
    else:
        means = [np.divide(of_factor[0].sums, of_factor[0].counts) for of_factor in rows]  # (F, documents)
        each = [vertex(factors, list(losses)) for losses in zip(*means, strict=True)]
        unit = "document"
    middle, half = ratio_of_sums(np.array(each), np.ones(len(each)))
    return middle, half, count_text(len(each), unit)


def follows(name: str, value: float, at: str, best: tuple[float, float, str]) -> Claim:
    """Claim that a rule is within `CLOSE` of the best factor, whose interval decides."""
    middle, half, over = best
    low, high = middle - half - value, middle + half - value
    verdict: Verdict = "undecided"
    if low >= -CLOSE and high <= CLOSE:
        verdict = "yes"
    elif low > CLOSE or high < -CLOSE:
        verdict = "no"
    evidence = f"{value:.2f}; the best is {middle:.2f} [{middle - half:.2f}, {middle + half:.2f}] over {over}"
    return Claim(f"{name} is within {CLOSE} of the best factor at {at}", verdict, evidence)


def run(bench: Bench) -> Result:
    targets = [2, 4] if bench.quick else [2, 4, 8, 16, 32]
    times = TIMES[::2] if bench.quick else TIMES
    rows, lines, claims, optima = [], [], [], []
    for factor in targets:
        length = factor * WINDOW
        tried = [round(yarn(factor) * each, 3) for each in times]
        measured, cells = [], []
        for value in tried:
            chosen: dict[str, Any] = {"scaling__method": "yarn", "scaling__attention_factor": value}
            model = variant("pose", factor, positions__chunks=3, **chosen)
            perplexity = pick(bench.perplexity(model, CORPORA["code"], [length]), task="perplexity", length=length)
            share = mean_over_seeds(pick(bench.pairs(model, [length]), task="key_value", length=length))
            measured.append(perplexity)
            cells.append(f"{value:.2f}: {mean_over_seeds(perplexity).text()} · {share.text()}")
        best = optimum(tried, measured)
        optima.append(best[0])
        claims += [follows(name, rule(factor), f"{factor}×", best) for name, rule in RULES.items()]
        rows.append(
            [f"{factor}×", *cells, f"{best[0]:.2f} ± {best[1]:.2f}", *(f"{r(factor):.2f}" for r in RULES.values())]
        )
        lines.append(Line(f"{factor}×", [(v, mean_over_seeds(m).value) for v, m in zip(tried, measured, strict=True)]))
    slope, offset = np.polyfit(np.log(targets), optima, 1)
    columns = ["target", *(f"{each:g} × YaRN's" for each in times), "best by perplexity", *RULES]
    return Result(
        claims,
        [Table("Attention factor: perplexity of code at the target · values of keys", columns, rows)],
        [Chart("Perplexity at the target", "attention factor", "perplexity", lines, x_scale="linear", x_unit="count")],
        Table("YaRN's paper", ["quantity", "value"], [["attention factor of untrained models", "0.1·ln(factor) + 1"]]),
        remark=f"The best factors follow {slope:.3f}·ln(factor) + {offset:.2f}.",
    )
