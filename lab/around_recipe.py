"""The packaged recipe with some settings changed, and the figures by which our own tables compare such models."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lab.bench import CORPORA, OLD_WINDOW, WINDOW, Bench, Model, Settings, pick
from lab.findings import Claim, effect, mean_over_seeds, no_worse
from lab.recipe_space import budgeted, packaged, without_unused
from lab.tables import Table, values_of
from skipwise.evals.rows import Row

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
    return budgeted(without_unused({**packaged(), **(changes or {})}), steps(bench), factor)


def facts(bench: Bench, factor: int) -> dict[str, Any]:
    """What a result says about its models: the recipe's settings, which its tables change."""
    return {"settings": recipe(bench, factor)}


class Measures(NamedTuple):
    """Names of the measures, in order: two inside the old window, three at or towards the target."""

    code: str
    prose: str
    target: str
    passkeys: str
    values: str

    @property
    def inside(self) -> Sequence[str]:
        """Those inside the old window."""
        return self[:2]

    @property
    def beyond(self) -> Sequence[str]:
        """Those beyond it."""
        return self[2:]


def measures(factor: int) -> Measures:
    """The measures for a target of `factor` windows."""
    inside = [f"perplexity of {corpus} in windows of {WINDOW}" for corpus in CORPORA]
    target, lists = factor * WINDOW, list_length(factor)
    beyond = [f"perplexity of code at {target:,}", f"passkeys at {target:,}", f"values of keys at {lists:,}"]
    return Measures(*inside, *beyond)


def list_length(factor: int) -> int:
    """Tokens of the lists of keys: a quarter of the target, where so small a model finds some, beyond the window."""
    return max(factor // 4, 2) * WINDOW


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


def figures(bench: Bench, model: Model, factor: int) -> Figures:
    """Measure a model; see `measures`."""
    target, lists = factor * WINDOW, list_length(factor)
    size = {"documents": 2, "span": 8 * WINDOW} if bench.quick else {"documents": 12, "span": 32 * WINDOW}
    inside = [
        pick(bench.measure(model, {**OLD_WINDOW, **size, "data": [corpus]}), task="perplexity", length=WINDOW)
        for corpus in CORPORA.values()
    ]
    beyond = pick(bench.perplexity(model, CORPORA["code"], [target]), task="perplexity", length=target)
    passkeys = pick(bench.retrieval(model, "passkey", [target]), task="passkey", length=target)
    values = pick(bench.pairs(model, [lists]), task="key_value", length=lists)
    return Figures(dict(zip(measures(factor), [*inside, beyond, passkeys, values], strict=True)))


def compared(models: Mapping[str, Figures], base: str, factor: int, title: str) -> list[Table]:
    """The figures of all models, and the effects from `base` to each other one."""
    cells = [[name, *those.texts()] for name, those in models.items()]
    values = {name: values_of(those.rows.values()) for name, those in models.items()}
    others = [name for name in models if name != base]
    return [Table(title, ["model", *measures(factor)], cells, values), effects(models, base, others, factor)]


def effects(models: Mapping[str, Figures], base: str, others: Sequence[str], factor: int) -> Table:
    """The effects from one model to some others."""
    title = f"From “{base}” to “{others[0]}”" if len(others) == 1 else f"From “{base}” to each of the others"
    return Table(title, ["to", *measures(factor)], [[name, *models[name].against(models[base])] for name in others])


def kept(name: str, model: Figures, original: Figures, factor: int) -> list[Claim]:
    """Claim for each corpus that a model keeps the old window."""
    return [
        no_worse(name, model.rows[measure], "the original", original.rows[measure], measure, PRICE)
        for measure in measures(factor).inside
    ]
