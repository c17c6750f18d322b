"""Is there a rule for YaRN's attention factor after training on short windows?

Training never shows attention among more tokens than the train length, so at the target it is spread over more of them
than it has learned to choose from. A factor m on cos and sin multiplies every score by m². If scores are to keep their
share among n instead of L tokens, as in entropy-invariant attention, they have to grow with log n / log L, so a rule
m² = ln(target) / ln(train length) suggests itself, beside YaRN's m = 0.1·ln(factor) + 1, which is fitted to untrained
models.

A rule is judged by both: whether it is near the factor of least perplexity, and whether its own factor finds as many
values of keys as any other.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lab.bench import CORPORA, WINDOW, Bench, pick, variant
from lab.findings import FEWEST_SEEDS, Claim, Verdict, effect, mean_over_seeds
from lab.tables import Chart, Line, Result, Table
from skipwise.evals.intervals import ratio_of_sums
from skipwise.evals.rows import Row
from skipwise.rope.methods import yarn_attention
from skipwise.utils.text import count_text

TITLE = "the attention factor after training"
SOURCE = "ours; YaRN, arXiv 2309.00071, eq. 22"
TIMES = [0.9, 1.0, 1.1, 1.2, 1.3]
"""Attention factors as multiples of YaRN's own; the factors of all rules are tried too."""
QUICK_TIMES = [0.9, 1.0, 1.2]


def entropy(factor: float) -> float:
    """The factor that keeps a score's share when the tokens grow from the window to `factor` windows."""
    return math.sqrt(math.log(factor * WINDOW) / math.log(WINDOW))


RULES = {"YaRN's rule": yarn_attention, "√(ln T / ln L)": entropy}
CLOSE = 0.05
"""Distance from the best factor by perplexity that counts as near."""
MARGIN = 0.05
"""Share of the values of keys that counts as a loss."""
AXES = {"x_scale": "linear", "x_unit": "count"}


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
    if {factors[0], factors[-1]} & set(each):  # the best one may lie beyond those tried: no surer than their distance
        half = max(half, float(np.diff(factors).max()))
    return middle, half, count_text(len(each), unit)


def follows(name: str, value: float, at: str, best: tuple[float, float, str]) -> Claim:
    """Claim that a rule is within `CLOSE` of the best factor by perplexity, whose interval decides."""
    middle, half, over = best
    low, high = middle - half - value, middle + half - value
    verdict: Verdict = "undecided"
    if low >= -CLOSE and high <= CLOSE:
        verdict = "yes"
    elif low > CLOSE or high < -CLOSE:
        verdict = "no"
    evidence = f"{value:.2f} against {middle:.2f} [{middle - half:.2f}, {middle + half:.2f}] over {over}"
    return Claim(f"{name} is within {CLOSE} of the factor of least perplexity at {at}", verdict, evidence)


def retrieves(name: str, value: float, at: str, keys: Mapping[float, Sequence[Row]]) -> Claim:
    """Claim that a rule's factor finds nearly as many values of keys as any other factor that was tried.

    It is shown only against all of them, and contradicted by the one that finds most. That one is the luckiest of those
    tried as well, so a contradiction by little means little.

    Args:
        name: Of the rule.
        value: Its factor, one of those tried.
        at: The target in words.
        keys: For each factor tried the row of each seed.
    """
    statement = f"{name} finds at most {100 * MARGIN:.0f} points fewer values of keys than any factor tried at {at}"
    others = {factor: mean_over_seeds(rows).value for factor, rows in keys.items() if factor != value}
    best = max(others, key=lambda factor: others[factor])
    here = mean_over_seeds(keys[value])
    each = {factor: effect(keys[factor], keys[value]) for factor in others}
    seen = each[best]
    evidence = f"{here.text()} with {value:.2f}, {mean_over_seeds(keys[best]).text()} with {best:.2f}"
    if not max(here.value, others[best]):
        return Claim(statement, "undecided", f"no factor finds any, {evidence}")
    if seen is None:
        return Claim(statement, "undecided", f"{evidence}, too few prompts for an interval")
    verdict = seen.at_most(MARGIN)
    if verdict == "yes" and not all(of and of.at_most(MARGIN) == "yes" for of in each.values()):
        verdict = "undecided"
    return Claim(statement, verdict, f"{evidence}, {seen.text()}")


def best_by_keys(keys: Mapping[float, Sequence[Row]]) -> str:
    """The factors tried that find most values of keys: `1.28, 1.40`, or `none` where no factor finds any."""
    shares = {factor: mean_over_seeds(rows).value for factor, rows in keys.items()}
    most = max(shares.values())
    return ", ".join(f"{factor:.2f}" for factor, share in shares.items() if share == most) if most else "none"


def fitted(factors: Sequence[int], optima: Sequence[float]) -> str:
    """The line through the best factors by perplexity, and how well it tells that of a target it was not fitted to."""
    if len(factors) < 2:
        return "One target fits no line."
    logs, values = np.log(factors), np.array(optima)
    slope, offset = np.polyfit(logs, values, 1)
    line = f"By perplexity the best factors follow {slope:.3f}·ln(factor) + {offset:.2f}"
    if len(factors) < 3:
        return f"{line}."
    misses = []
    for left_out in range(len(values)):
        others = np.arange(len(values)) != left_out
        misses.append(np.polyval(np.polyfit(logs[others], values[others], 1), logs[left_out]) - values[left_out])
    return f"{line}; fitted to all targets but one, the line misses that one's by {np.abs(misses).max():.2f} at most."


def run(bench: Bench) -> Result:
    targets = [4] if bench.quick else [2, 4, 8, 16, 32]
    rows, claims, optima = [], [], []
    lines: dict[str, list[Line]] = {"perplexity": [], "share": []}
    for factor in targets:
        length, at = factor * WINDOW, f"{factor}×"
        by_rule = {name: round(rule(factor), 3) for name, rule in RULES.items()}
        times = QUICK_TIMES if bench.quick else TIMES
        tried = sorted({*by_rule.values(), *(round(yarn_attention(factor) * each, 3) for each in times)})
        losses, keys = {}, {}
        for value in tried:
            chosen: dict[str, Any] = {"scaling__method": "yarn", "scaling__attention_factor": value}
            model = variant("pose", factor, positions__chunks=3, **chosen)
            losses[value] = pick(bench.perplexity(model, CORPORA["code"], [length]), task="perplexity", length=length)
            keys[value] = pick(bench.pairs(model, [length]), task="key_value", length=length)
            figures = (mean_over_seeds(of[value]).text() for of in (losses, keys))
            names = [name for name, of_rule in by_rule.items() if of_rule == value]
            rows.append([at, f"{value:.2f}", *figures, " and ".join(names)])
        best = optimum(tried, list(losses.values()))
        optima.append((best[0], best[1], best_by_keys(keys)))
        for name, value in by_rule.items():
            claims += [follows(name, value, at, best), retrieves(name, value, at, keys)]
        for what, measured in (("perplexity", losses), ("share", keys)):
            lines[what].append(Line(at, [(value, mean_over_seeds(of).value) for value, of in measured.items()]))
    bests = [
        [f"{factor}×", f"{middle:.2f} ± {half:.2f}", by_keys, *(f"{rule(factor):.2f}" for rule in RULES.values())]
        for factor, (middle, half, by_keys) in zip(targets, optima, strict=True)
    ]
    columns = ["target", "attention factor", "perplexity of code", "values of keys", "given by"]
    return Result(
        claims,
        [
            Table("At the target, after PoSE with YaRN and three chunks", columns, rows),
            Table("The best factor of each target", ["target", "by perplexity", "by values of keys", *RULES], bests),
        ],
        [
            Chart("Perplexity at the target", "attention factor", "perplexity", lines["perplexity"], **AXES),
            Chart(
                "Values of keys at the target", "attention factor", "share", lines["share"], y_scale="linear", **AXES
            ),
        ],
        Table("YaRN's paper", ["quantity", "value"], [["attention factor of untrained models", "0.1·ln(factor) + 1"]]),
        remark=fitted(targets, [middle for middle, _, _ in optima]),
    )
