"""The search for the default recipe: successive halving over settings, at equal training tokens.

Every candidate is trained from nothing at each rung, because its learning rate falls over the rung's steps. The best
third by mean rank goes on to the next rung. Mean rank is over all measures, so that a setting which wins one and loses
another is not mistaken for a better one; the table shows each measure.

A trial is one line of the log, written when it is measured. The same command reads the log and goes on after the last
line; of the training and the measurements in between it repeats only what was not saved.
"""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lab.bench import CORPORA, OLD_WINDOW, ORIGINAL, WINDOW, Bench, Model, Settings, base_digest, pick
from lab.findings import Mean, mean_over_seeds
from lab.recipe_space import SPACE, Candidate, budgeted, candidates
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import Row
from skipwise.utils.atomic_files import append_jsonl, read_jsonl, write_text
from skipwise.utils.progress import say
from skipwise.utils.text import aligned, count_text, duration_words

RUNGS = [60, 180, 540]
"""Steps of 8 × 256 tokens; other train lengths have as many tokens."""
MOST_STEPS = 100_000
STEPS_OF_EFFORT = 60
"""Steps of training for each unit of effort. They take longer, 26 s of a core, than it, 18 s at 4,096 tokens."""
MOST = 4
NEEDLES = ["niah_single_1", "niah_single_2", "niah_multikey_1"]
"""RULER's tasks below the most effort, which asks all that fit the target."""
LEAST_FACTOR = 4
"""Windows that RULER's needles take."""
MEASURES = [
    *(f"loss at {WINDOW}, {corpus}" for corpus in CORPORA),
    "perplexity at the target",
    "values of keys",
    "passkeys",
    "RULER",
    "k_max",
]
"""The losses are changes against the original model, relative; k_max is a share of the target."""


@dataclass(frozen=True)
class Rung:
    """One round of the search."""

    steps: int
    seeds: int
    factor: int
    """Windows in the target."""
    effort: int
    """How much each model is asked, 1 to `MOST`; equal within a rung and more where training is longer."""

    @property
    def target(self) -> int:
        """Tokens."""
        return self.factor * WINDOW

    def evaluations(self) -> list[dict[str, Any]]:
        """Settings of the evaluations: the old window on each corpus, then everything at the target."""
        old = [
            {**OLD_WINDOW, "data": [corpus], "documents": 2 * self.effort, "span": 16 * WINDOW}
            for corpus in CORPORA.values()
        ]
        far = {
            "tasks": ["perplexity", "key_value", "passkey", "ruler", "k_max"],
            "lengths": [self.target],
            "data": [CORPORA["code"]],
            "documents": 2 * self.effort,
            "trials": 2 * self.effort,
            "key_value": {"protocols": ["lines"], "lists": 2 * self.effort},
            "ruler": {"samples": self.effort}
            if self.effort == MOST
            else {"tasks": NEEDLES, "samples": 2 * self.effort},
            "k_max": {"distances": 8, "trials": 4 * self.effort},
        }
        return [*old, far]


def rungs(steps: Sequence[int], seeds: Sequence[int], factor: int, *, quick: bool = False) -> list[Rung]:
    """The rungs of a search.

    Args:
        steps: Training steps of each rung, ascending.
        seeds: Seeds of each candidate in each rung, or one number for all rungs.
        factor: Windows in the target.
        quick: Ask every model little.

    Raises:
        SkipwiseError: The numbers are no search.
    """
    if not steps or sorted(set(steps)) != list(steps) or steps[0] < 1 or steps[-1] > MOST_STEPS:
        raise SkipwiseError(
            f"--rungs {_listed(steps)}: expected ascending numbers of steps up to {MOST_STEPS:,}, such as 60,180,540"
        )
    if len(seeds) not in (1, len(steps)) or min(seeds, default=0) < 1:
        further = f"one for each of the {count_text(len(steps), 'rung')}"
        raise SkipwiseError(f"--seeds {_listed(seeds)}: expected a number from 1, or {further}")
    if factor < LEAST_FACTOR:
        raise SkipwiseError(f"--factor {factor}: expected {LEAST_FACTOR} or more; RULER's prompts need so many windows")
    each = list(seeds) * len(steps) if len(seeds) == 1 else seeds
    efforts = [1 if quick else min(max(count // STEPS_OF_EFFORT, 1), MOST) for count in steps]
    return [Rung(count, n, factor, effort) for count, n, effort in zip(steps, each, efforts, strict=True)]


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


@dataclass(frozen=True)
class Trial:
    """A candidate that is measured."""

    candidate: Candidate
    figures: list[Mean]
    """In the order of `MEASURES`."""
    seconds: Mapping[str, float]
    """Of `training` and `evaluation`, of what was not there before."""


class Log:
    """The trials of all searches, one line each, by what determines them.

    Args:
        path: A .jsonl file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = {line["id"]: line for line in read_jsonl(path) if "id" in line}

    def trial(self, bench: Bench, rung: Rung, candidate: Candidate) -> Trial:
        """The trial of a candidate: read if the log has it, otherwise measured and logged."""
        settings = budgeted(candidate.settings, rung.steps, rung.factor)
        identity = [bench.identity(settings), rung.evaluations()]
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
        line = self.lines.get(key)
        if line is None:
            figures, seconds = measured(bench, rung, settings)
            line = {
                "id": key,
                "name": candidate.name,
                "baseline": candidate.baseline,
                **asdict(rung),
                "packaged model": base_digest(ORIGINAL),
                "settings": settings,
                "figures": {name: asdict(mean) for name, mean in zip(MEASURES, figures, strict=True)},
                "seconds": seconds,
            }
            append_jsonl(self.path, line)
            self.lines[key] = line
        return Trial(candidate, [Mean(**line["figures"][name]) for name in MEASURES], line["seconds"])


def measured(bench: Bench, rung: Rung, settings: Settings) -> tuple[list[Mean], dict[str, float]]:
    """Train and measure one candidate.

    Returns:
        Its figures in the order of `MEASURES`, and the seconds of training and of evaluation.
    """
    started = time.monotonic()
    bench.models(settings)
    trained = time.monotonic()
    result = figures(bench, rung, settings)
    seconds = {"training": round(trained - started, 1), "evaluation": round(time.monotonic() - trained, 1)}
    return result, seconds


def figures(bench: Bench, rung: Rung, model: Model) -> list[Mean]:
    """The figures that a recipe is judged by, in the order of `MEASURES`."""
    *old, far = rung.evaluations()
    losses = []
    for evaluation in old:
        before, after = (
            pick(bench.measure(each, evaluation), task="perplexity", length=WINDOW) for each in (ORIGINAL, model)
        )
        losses.append(loss_change(before[0], after))
    at_target = bench.measure(model, far)
    length = rung.target
    shares = [
        pick(at_target, task="key_value", length=length),
        pick(at_target, task="passkey", length=length),
        pick(at_target, task="ruler", variant="average", length=length),
        [row.model_copy(update={"value": row.value / length}) for row in pick(at_target, metric="k_max")],
    ]
    perplexity = mean_over_seeds(pick(at_target, task="perplexity", length=length))
    return [*losses, perplexity, *map(mean_over_seeds, shares)]


def loss_change(before: Row, after: Sequence[Row]) -> Mean:
    """The relative change of the loss in nats a token, from the original's row to those of each seed."""
    loss = math.log(before.value)
    changes = [row.model_copy(update={"metric": "loss", "value": math.log(row.value) / loss - 1}) for row in after]
    mean = mean_over_seeds(changes)
    return replace(mean, change=True)


def ranks(figures: Sequence[Sequence[Mean]]) -> list[float]:
    """Mean rank of each candidate over the measures, 1 the best; equal figures share their mean rank."""
    table = np.array(
        [[-m.value if m.lower_is_better else m.value for m in row] for row in figures]
    )  # (C, M), more is better
    better = (table[None] > table[:, None]).sum(axis=1)
    equal = (table[None] == table[:, None]).sum(axis=1)
    return list((better + (equal + 1) / 2).mean(axis=1))


Ranked = list[tuple[float, Trial]]
"""Mean ranks and trials, the best first."""


def best_first(trials: Sequence[Trial]) -> Ranked:
    """Order trials by their mean ranks."""
    by_rank = zip(ranks([trial.figures for trial in trials]), trials, strict=True)
    return sorted(by_rank, key=lambda entry: entry[0])


def search(bench: Bench, out: Path, plan: Sequence[Rung], *, count: int, seed: int = 0) -> str:
    """Run the halving.

    Args:
        bench: Where models are kept. Its seeds are not used.
        out: Folder of the log `recipe.jsonl`, which also gets the tables, `recipe.txt`. A quick search, which shall
            replace no real one, writes `recipe_quick`.
        plan: The rungs.
        count: Drawn candidates in the first rung.
        seed: Of the draws.

    Returns:
        The tables as text.
    """
    name = "recipe_quick" if bench.quick else "recipe"
    log, remaining, parts = Log(out / f"{name}.jsonl"), candidates(count, seed, plan[0].factor), []
    for rung in plan:
        of_rung = Bench(bench.folder, quick=bench.quick, seeds=rung.seeds)
        trials = []
        for number, candidate in enumerate(remaining, 1):
            at = f"rung of {count_text(rung.steps, 'step')}, {number} of {len(remaining)}"
            say(f"{at}: {candidate.name}: {candidate.described}")
            trials.append(log.trial(of_rung, rung, candidate))
        order = best_first(trials)
        parts.append(f"{title(rung, of_rung.seeds, trials)}\n\n{table(order)}")
        if rung is plan[0] and len(order) > len(plan):
            parts.append(f"Mean rank by setting in the first rung, n candidates each\n\n{by_setting(order)}")
        write_text(out / f"{name}.txt", "\n\n".join(parts) + "\n")
        chosen = [trial.candidate for _, trial in order if not trial.candidate.baseline]
        stays = {candidate.name for candidate in chosen[: max(2, len(chosen) // 3)]}
        remaining = [c for c in (trial.candidate for _, trial in order) if c.baseline or c.name in stays]
    return "\n\n".join(parts)


def title(rung: Rung, seeds: int, trials: Sequence[Trial]) -> str:
    """What a rung was and what it took."""
    parts = (
        f"{sum(trial.seconds[part] for trial in trials) / len(trials):.0f} s of {part}"
        for part in ("training", "evaluation")
    )
    total = duration_words(sum(sum(trial.seconds.values()) for trial in trials))
    return (
        f"Rung of {count_text(rung.steps, 'step')}, {rung.factor}×, {count_text(seeds, 'seed')}: "
        f"{count_text(len(trials), 'candidate')}, {total} ({' and '.join(parts)} each)"
    )


def table(order: Ranked) -> str:
    """Each candidate's mean rank and figures, the best first; baselines are marked."""
    rows = [[named(trial.candidate), f"{rank:.2f}", *(mean.text() for mean in trial.figures)] for rank, trial in order]
    legend = [f"{trial.candidate.name}: {trial.candidate.described}" for _, trial in order]
    return "\n".join([*aligned([["candidate", "rank", *MEASURES], *rows]), "", *legend])


def named(candidate: Candidate) -> str:
    """The name, with a mark for a baseline."""
    return f"{candidate.name} (baseline)" if candidate.baseline else candidate.name


def by_setting(order: Ranked) -> str:
    """The mean rank of the drawn candidates with each value of each setting."""
    drawn = [(rank, trial.candidate.settings) for rank, trial in order if not trial.candidate.baseline]
    rows = []
    for key in [*SPACE, "positions.text"]:
        values: dict[Any, list[float]] = {}
        for rank, settings in drawn:
            values.setdefault(settings.get(key), []).append(rank)
        for value in sorted(values, key=str):
            shown = "not set" if value is None else str(value)
            rows.append([key, shown, f"{np.mean(values[value]):.2f}", f"{len(values[value])}"])
    return "\n".join(aligned([["setting", "value", "mean rank", "n"], *rows]))


def numbers(text: str, option: str) -> list[int]:
    """`60,180` → [60, 180]. Raises SkipwiseError for anything else."""
    parts: Iterable[str] = text.split(",")
    try:
        return [int(part) for part in parts]
    except ValueError:
        raise SkipwiseError(f"{option} {text}: expected whole numbers with commas between, such as 60,180") from None
