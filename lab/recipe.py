"""The search for the default recipe: successive halving over settings, at equal training tokens.

Every candidate is trained from nothing at each rung, because its learning rate falls over the rung's steps. The best
third by mean rank goes on to a rung of three times the steps. Mean rank is over all measures, so that a setting which
wins one and loses another is not mistaken for a better one; the table shows each measure.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lab.bench import CORPORA, WINDOW, Bench, Settings, pick
from lab.findings import Mean, mean_over_seeds
from skipwise.utils.atomic_files import write_jsonl
from skipwise.utils.progress import say
from skipwise.utils.text import aligned

FACTOR = 16
SPACE: dict[str, Sequence[Any]] = {
    "positions.sampler": ["pose", "stratified", "cream"],
    "positions.chunks": [2, 3, 4],
    "scaling.method": ["yarn", "ntk", "linear"],
    "scaling.attention_factor": [None, 1.4, 1.5],
    "training.train_length": [WINDOW, WINDOW // 2],
    "training.learning_rate": [3e-4, 1e-3, 2e-3],
    "data.recall": [0.3, 0.5, 0.7],
    "data.plain": [0.0, 0.2],
    "training.distill": [0.0, 0.5],
}
BASELINES: dict[str, dict[str, Any]] = {
    "PoSE, linear": {"positions.sampler": "pose", "scaling.method": "linear", "data.recall": 0.5},
    "PoSE, YaRN": {"positions.sampler": "pose", "scaling.method": "yarn", "data.recall": 0.5},
}
RUNGS = [60, 180, 540]
"""Steps of 8 × 256 tokens; other train lengths have as many tokens."""


@dataclass(frozen=True)
class Candidate:
    """Settings with a name."""

    name: str
    settings: dict[str, Any]

    def at(self, steps: int, factor: int) -> Settings:
        """Settings of a training of `steps` × 8 windows of tokens towards `factor` windows."""
        length = self.settings.get("training.train_length", WINDOW)
        budget = {"training.batch_size": 8 * WINDOW // length, "training.steps": steps}
        return {"target_length": factor * WINDOW, **self.settings, **budget, "training.warmup_steps": steps // 12}


def candidates(count: int, seed: int) -> list[Candidate]:
    """The baselines, and distinct draws from the space."""
    rng = np.random.default_rng(seed)
    drawn: dict[str, dict[str, Any]] = {}
    while len(drawn) < count:
        settings = {key: values[int(rng.integers(len(values)))] for key, values in SPACE.items()}
        if settings["scaling.method"] != "yarn":
            settings["scaling.attention_factor"] = None
        if settings["positions.sampler"] == "cream":
            settings["positions.chunks"] = 2
        if settings["training.distill"]:
            settings["positions.text"] = "contiguous"  # only text that does not skip can be taught
        drawn.setdefault(", ".join(f"{key.partition('.')[2]} {value}" for key, value in settings.items()), settings)
    return [Candidate(name, settings) for name, settings in itertools.chain(BASELINES.items(), drawn.items())]


MEASURES = ["perplexity at the window", "at the target", "values of keys", "passkeys", "RULER", "k_max"]
RULER_TASKS = ["niah_single_1", "niah_single_2", "niah_multikey_1"]
"""RULER's tasks whose prompts fit a target of 1,024 tokens with the packaged model's small tokenizer."""


def measures(bench: Bench, settings: Settings) -> list[Mean]:
    """The figures that a recipe is judged by, in the order of `MEASURES`."""
    target = int(settings["target_length"])
    perplexity = bench.perplexity(settings, CORPORA["code"], [WINDOW, target])
    pairs = bench.pairs(settings, [target])
    passkey = bench.retrieval(settings, "passkey", [target])
    ruler = {"tasks": RULER_TASKS, "samples": 4 if bench.quick else 16}
    needles = bench.measure(settings, {"tasks": ["ruler"], "lengths": [target], "ruler": ruler})
    reach = bench.measure(settings, {"tasks": ["k_max"], "lengths": [target], "k_max": {"distances": 16, "trials": 4}})
    largest = [next(row for row in seed if row.metric == "k_max").value / target for seed in reach]
    return [
        mean_over_seeds(pick(perplexity, task="perplexity", length=WINDOW)),
        mean_over_seeds(pick(perplexity, task="perplexity", length=target)),
        mean_over_seeds(pick(pairs, task="key_value", length=target)),
        mean_over_seeds(pick(passkey, task="passkey", length=target)),
        mean_over_seeds(pick(needles, task="ruler", variant="average", length=target)),
        Mean(float(np.mean(largest)), None, len(largest)),
    ]


def ranks(figures: Sequence[Sequence[Mean]]) -> list[float]:
    """Mean rank of each candidate over the measures, 1 the best; equal figures share their mean rank."""
    table = np.array(
        [[-m.value if m.perplexity else m.value for m in row] for row in figures]
    )  # (C, M), more is better
    better = (table[None] > table[:, None]).sum(axis=1)
    equal = (table[None] == table[:, None]).sum(axis=1)
    return list((better + (equal + 1) / 2).mean(axis=1))


def search(bench: Bench, out: Path, *, count: int, seed: int = 0) -> str:
    """Run the halving, write every trial to `out` and return the last rung's table as text."""
    remaining, log = candidates(count, seed), []
    rungs, factor = RUNGS[:2] if bench.quick else RUNGS, bench.factor(FACTOR)
    for steps in rungs:
        say(f"rung of {steps} steps: {len(remaining)} candidates")
        figures = [measures(bench, candidate.at(steps, factor)) for candidate in remaining]
        order = sorted(zip(ranks(figures), remaining, figures, strict=True), key=lambda entry: entry[0])
        log += [
            {"steps": steps, "rank": rank, "name": c.name, "settings": c.settings}
            | {name: mean.value for name, mean in zip(MEASURES, means, strict=True)}
            for rank, c, means in order
        ]
        write_jsonl(out, log)
        keep = {c.name for _, c, _ in order[: max(2, len(order) // 3)]} | set(BASELINES)
        remaining = [c for _, c, _ in order if c.name in keep]
    rows = [[f"{rank:.2f}", *(mean.text() for mean in means), c.name] for rank, c, means in order]
    return "\n".join(aligned([["rank", *MEASURES, "settings"], *rows]))
