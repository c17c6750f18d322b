"""The packaged recipe with some settings changed, and the figures by which our own tables compare such models."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab.bench import CORPORA, OLD_WINDOW, WINDOW, Bench, Model, Settings, pick
from lab.findings import Claim, effect, mean_over_seeds, no_worse
from lab.recipe_space import Candidate, packaged, without_unused
from lab.tables import Table
from skipwise.evals.rows import Row

FACTOR = 16
STEPS = 160
"""Of a full run; fewer than the packaged recipe's 600, so that three seeds of many variants can be trained on a CPU."""
TAUGHT = {key: packaged()[key] for key in ("training.distill", "data.plain")}
"""What the recipe adds to PoSE and recall documents."""
UNTAUGHT = dict.fromkeys(TAUGHT, 0.0)
PRICE = 0.02
"""Rise of perplexity inside the old window that is still called kept."""


def steps(bench: Bench) -> int:
    """Optimiser steps of each model here."""
    return bench.steps if bench.quick else STEPS


def recipe(bench: Bench, factor: int, changes: Mapping[str, Any] | None = None) -> Settings:
    """Settings of the packaged recipe with changes, without those that its sampler does not use.

    Args:
        bench: Where it is trained.
        factor: Windows in the target.
        changes: Settings by their dotted keys.
    """
    return Candidate("", without_unused({**packaged(), **(changes or {})})).at(steps(bench), factor)


@dataclass(frozen=True)
class Figures:
    """What models are compared by: for each measure the row of each seed."""

    rows: Mapping[str, list[Row]]

    def texts(self) -> list[str]:
        """Cells of a table: means over seeds."""
        return [mean_over_seeds(rows).text() for rows in self.rows.values()]

    def against(self, base: "Figures") -> list[str]:
        """Cells of a table: effects from `base` to these, with their 95 % intervals."""
        effects = (effect(base.rows[name], rows) for name, rows in self.rows.items())
        return [seen.numbers() if seen else "too few prompts" for seen in effects]


def measures(factor: int) -> list[str]:
    """Names of the measures, in order: two inside the old window, three at or towards the target."""
    target = factor * WINDOW
    inside = [f"perplexity of {corpus} in windows of {WINDOW}" for corpus in CORPORA]
    return [
        *inside,
        f"perplexity of code at {target:,}",
        f"passkeys at {target:,}",
        f"values of keys at {target // 4:,}",
    ]


def figures(bench: Bench, model: Model, factor: int) -> Figures:
    """Measure a model; see `measures`."""
    target = factor * WINDOW
    size = {"documents": 2, "span": 8 * WINDOW} if bench.quick else {"documents": 12, "span": 32 * WINDOW}
    inside = [
        pick(bench.measure(model, {**OLD_WINDOW, **size, "data": [corpus]}), task="perplexity", length=WINDOW)
        for corpus in CORPORA.values()
    ]
    beyond = pick(bench.perplexity(model, CORPORA["code"], [target]), task="perplexity", length=target)
    passkeys = pick(bench.retrieval(model, "passkey", [target]), task="passkey", length=target)
    values = pick(bench.pairs(model, [target // 4]), task="key_value", length=target // 4)
    return Figures(dict(zip(measures(factor), [*inside, beyond, passkeys, values], strict=True)))


def compared(models: Mapping[str, Figures], base: str, factor: int, title: str) -> list[Table]:
    """The figures of all models, and the effects from `base` to each other one."""
    columns = measures(factor)
    effects = [[name, *those.against(models[base])] for name, those in models.items() if name != base]
    return [
        Table(title, ["model", *columns], [[name, *those.texts()] for name, those in models.items()]),
        Table(f"From “{base}” to each of the others", ["to", *columns], effects),
    ]


def kept(name: str, model: Figures, original: Figures) -> list[Claim]:
    """Claim for each corpus that a model keeps the old window."""
    inside = [measure for measure in model.rows if f"windows of {WINDOW}" in measure]
    return [no_worse(name, model.rows[m], "the original", original.rows[m], m, PRICE) for m in inside]
