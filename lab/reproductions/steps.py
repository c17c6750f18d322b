"""PI's tables 3 and 4: perplexity and effective window by step, interpolation against direct fine-tuning."""

from collections.abc import Sequence

from lab.bench import CORPORA, ORIGINAL, WINDOW, Bench, Model, full_length, pick
from lab.findings import Claim, Verdict, better, mean_over_seeds
from lab.tables import Chart, Line, Result, Table
from skipwise.evals.rows import Row

TITLE = "perplexity and effective window by step"
SOURCE = "Position Interpolation, arXiv 2306.15595, tables 3 and 4"
FACTOR = 8
PAPER = Table(
    "The paper, LLaMA-7B, 2k to 8k",
    ["training", "steps", "k_max", "perplexity of PG-19 at 8k"],
    [["interpolation", "200", "8,192 (whole target)", "6.95"], ["direct", "10,000", "2,560", "7.69"]],
)


def reaches(name: str, rows: Sequence[Row], target: int, expected: bool) -> Claim:
    """Claim that the intervals of k_max hold the whole target only, or end below it, for every seed.

    Args:
        name: Of the training.
        rows: With k_max and its interval, one a seed.
        target: Tokens.
        expected: Whether the paper's reaches the target.
    """
    ends = [(row.low or 0.0, target if row.high is None else row.high) for row in rows]
    verdict: Verdict = "undecided"
    for whole in (True, False):
        if all(low >= target if whole else high < target for low, high in ends):
            verdict = "yes" if whole == expected else "no"
    does = "reaches the whole target" if expected else "does not reach the whole target"
    seeds = (f"{row.value:,.0f} [{low:,.0f}, {high:,.0f}]" for row, (low, high) in zip(rows, ends, strict=True))
    return Claim(f"{name} {does}", verdict, f"k_max of {target:,}: {', '.join(seeds)}")


def run(bench: Bench) -> Result:
    steps = [0, *bench.step_counts()]
    length = bench.factor(FACTOR) * WINDOW
    k_max = {"distances": 8 if bench.quick else 16, "trials": 6 if bench.quick else 20}
    rows, lines, last = [], [], {}
    for name, scaling in (("interpolation", "linear"), ("direct", "none")):
        cells, points = [], []
        for count in steps:
            schedule = {"training__schedule": "constant", "training__warmup_steps": min(10, count)}
            model: Model = full_length(bench.factor(FACTOR), scaling__method=scaling, training__steps=count, **schedule)
            if scaling == "none" and not count:
                model = ORIGINAL
            perplexity = pick(bench.perplexity(model, CORPORA["code"], [length]), task="perplexity", length=length)
            measured = bench.measure(model, {"tasks": ["k_max"], "lengths": [length], "k_max": k_max})
            window = pick(measured, metric="k_max")
            mean = sum(row.value for row in window) / len(window)
            cells.append(f"{mean_over_seeds(perplexity).text()} · {mean:,.0f}")
            points.append((float(max(count, 1)), mean))  # no training is drawn at 1: the axis is logarithmic
            last[name] = (perplexity, pick(measured, metric="accuracy", distance=None), window)
        rows.append([name, *cells])
        lines.append(Line(name, points))
    after = f"after {steps[-1]} steps"
    interpolated, direct = last["interpolation"], last["direct"]
    claims = [
        better("interpolation", interpolated[0], "direct training", direct[0], f"perplexity of code {after}"),
        better(
            "interpolation", interpolated[1], "direct training", direct[1], f"keys found over all distances {after}"
        ),
        reaches(f"interpolation {after}", interpolated[2], length, expected=True),
        reaches(f"direct training {after}", direct[2], length, expected=False),
    ]
    return Result(
        claims,
        [Table(f"Perplexity of code at {length:,} tokens · k_max, by step", ["training", *map(str, steps)], rows)],
        [Chart("Effective window", "step", "k_max, tokens", lines, x_unit="count", y_unit="length")],
        PAPER,
    )
