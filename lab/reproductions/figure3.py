"""PoSE's figure 3: memory and time of a step, and perplexity by step, against full-length training."""

import math
from typing import Any

import numpy as np

from lab.bench import CORPORA, WINDOW, Bench, full_length, pick, variant
from lab.costs import Cost, cost
from lab.findings import Claim, Effect, alike, mean_over_seeds
from lab.tables import Chart, Line, Result, Table
from skipwise.evals.intervals import ratio_of_sums
from skipwise.utils.text import bytes_text

TITLE = "memory, time and perplexity by step, PoSE against full-length training"
SOURCE = "PoSE, arXiv 2309.10400, figure 3"
FACTOR = 8
PAPER = Table(
    "The paper, LLaMA-7B, 2k to 16k, 1,000 steps",
    ["method", "memory", "time"],
    [["full-length", "31 GB", "13.7 h"], ["PoSE", "14.5 GB", "3.8 h"]],
)
MARGIN = 0.03


def slower(first: Cost, later: Cost) -> Effect:
    """The ratio of the seconds of a step, with Student's t over the steps of both (their logarithms)."""
    logs = [np.log(one.seconds) for one in (first, later)]
    (a, half_a), (b, half_b) = (ratio_of_sums(values, np.ones(len(values))) for values in logs)
    half = math.hypot(half_a, half_b)
    steps = f"{len(logs[0])} and {len(logs[1])} steps"
    return Effect(math.exp(b - a), math.exp(b - a - half), math.exp(b - a + half), True, steps)


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    # One example in a forward pass, as in full-length training: memory and time then differ by the tokens alone.
    passes: dict[str, Any] = {"training__batch_size": 1, "training__gradient_accumulation": 8}
    pose = cost(bench, variant("pose", factor, **passes))
    rows = [["PoSE", f"{WINDOW:,}", f"{pose.middle:.2f} s", bytes_text(pose.memory), "1", "1"]]
    points = []
    for times in (2, 4) if bench.quick else (2, 4, 8, 16):
        full = cost(bench, full_length(times))
        seen = slower(pose, full)
        memory = full.memory / pose.memory
        figures = [f"{times * WINDOW:,}", f"{full.middle:.2f} s", bytes_text(full.memory)]
        rows.append(["full-length", *figures, f"{seen.value:.2f} [{seen.low:.2f}, {seen.high:.2f}]", f"{memory:.2f}"])
        points.append((times * WINDOW, full.middle))
    target = f"at {points[-1][0]:,} tokens"
    claims = [
        Claim(f"a step of PoSE takes less time than one of full-length training {target}", seen.is_worse, seen.text()),
        Claim(
            f"full-length training {target} needs more memory",
            "yes" if memory > 1 else "no",
            f"×{memory:.2f} at the peak of the process, the interpreter and libraries with it, read once",
        ),
    ]
    steps = bench.step_counts()
    length = factor * WINDOW
    cells, lines, last = [], [], {}
    for name, settings in (("PoSE", variant("pose", factor)), ("full-length", full_length(factor))):
        means = []
        for count in steps:
            schedule = {"training.schedule": "constant", "training.steps": count}
            schedule["training.warmup_steps"] = min(10, count)
            measured = bench.perplexity({**settings, **schedule}, CORPORA["code"], [length])
            last[name] = pick(measured, task="perplexity", length=length)
            means.append(mean_over_seeds(last[name]))
        cells.append([name, *(mean.text() for mean in means)])
        lines.append(Line(name, [(count, mean.value) for count, mean in zip(steps, means, strict=True)]))
    what = f"perplexity of code at {length:,} tokens after {steps[-1]} steps"
    claims.append(alike("PoSE", last["PoSE"], "full-length training", last["full-length"], what, MARGIN))
    flat = [(tokens, pose.middle) for tokens, _ in points]
    return Result(
        claims,
        [
            Table(
                "A step of 8 examples, one in a forward pass",
                ["training", "tokens", "time", "memory", "times PoSE", "memory ratio"],
                rows,
            ),
            Table(f"Perplexity of code at {length:,} tokens, by step", ["training", *map(str, steps)], cells),
        ],
        [
            Chart("Seconds a step", "target, tokens", "seconds", [Line("PoSE", flat), Line("full-length", points)]),
            Chart("Perplexity by step", "step", "perplexity", lines, x_unit="count"),
        ],
        PAPER,
        remark="Times are those of the machine that ran this, and of what else it did meanwhile.",
    )
