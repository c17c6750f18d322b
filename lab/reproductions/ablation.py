"""The packaged recipe, one setting changed at a time: what each is worth, at equal tokens."""

from typing import Any

from lab.around_recipe import STEPS, compared, facts, figures, measures, recipe, steps
from lab.bench import ORIGINAL, WINDOW, Bench
from lab.findings import better
from lab.recipe_space import FACTOR
from lab.tables import Result, Table

TITLE = "the packaged recipe, one setting changed at a time"
SOURCE = "ours"
RECIPE = "the recipe"
CHANGES: dict[str, dict[str, Any]] = {
    "scaling yarn": {"scaling.method": "yarn"},
    "scaling ntk": {"scaling.method": "ntk"},
    "scaling yarn, learning rate 1e-3": {"scaling.method": "yarn", "training.learning_rate": 1e-3},
    "learning rate 1e-3": {"training.learning_rate": 1e-3},
    "recall 0.3": {"data.recall": 0.3},
    "no plain examples": {"data.plain": 0.0},
    "no teacher": {"training.distill": 0.0},
    "no teacher, text that skips": {"training.distill": 0.0, "positions.text": "skip"},
    "no teacher, examples of 512 tokens": {"training.distill": 0.0, "training.train_length": 512},
    "no teacher, examples of 1,024 tokens": {"training.distill": 0.0, "training.train_length": 1024},
    "sampler endprompt": {"positions.sampler": "endprompt"},
}
"""Settings that differ from the recipe's. No teacher can read examples that are longer than the original window."""
QUICK = ["scaling yarn", "no teacher"]
PAPER = Table("The papers", ["quantity", "value"], [["recipes compared setting by setting", "not by any"]])


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    chosen = {name: change for name, change in CHANGES.items() if not bench.quick or name in QUICK}
    models = {
        "original": figures(bench, ORIGINAL, factor),
        RECIPE: figures(bench, recipe(bench, factor), factor),
        **{name: figures(bench, recipe(bench, factor, change), factor) for name, change in chosen.items()},
    }
    claims = [
        better(RECIPE, models[RECIPE].rows[measure], f"“{name}”", models[name].rows[measure], measure)
        for name in chosen
        for measure in measures(factor)
    ]
    title = f"{factor}×, {steps(bench)} steps of 8 × {WINDOW} tokens"
    remark = f"A full run has {STEPS} steps, the packaged recipe 600." if not bench.quick else ""
    tables = compared(models, RECIPE, factor, title)
    return Result(claims, tables, paper=PAPER, remark=remark, facts=facts(bench, factor))
