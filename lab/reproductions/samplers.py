"""All samplers at equal tokens: the comparison that no paper has."""

from typing import Any

from lab.around_recipe import compared, facts, figures, measures, recipe, steps
from lab.bench import Bench
from lab.findings import better
from lab.recipe_space import FACTOR
from lab.tables import Result, Table

TITLE = "samplers of positions at equal tokens"
SOURCE = "ours"
BASE = "PoSE with 3 chunks"
SAMPLERS: dict[str, dict[str, Any]] = {
    BASE: {"positions.sampler": "pose", "positions.chunks": 3},
    "PoSE with 2 chunks": {"positions.sampler": "pose", "positions.chunks": 2},
    "training without skips": {"positions.sampler": "original"},
    "RandPos": {"positions.sampler": "randpos"},
    "stratified with 3 chunks": {"positions.sampler": "stratified", "positions.chunks": 3},
    "CREAM": {"positions.sampler": "cream"},
    "EndPrompt": {"positions.sampler": "endprompt"},
    "curriculum over PoSE": {"positions.sampler": "curriculum", "positions.chunks": 3},
}
"""The packaged recipe with another sampler; all else is the same."""
PAPER = Table("The papers", ["quantity", "value"], [["samplers at equal tokens", "not compared by any"]])


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    names = list(SAMPLERS)[:4] if bench.quick else list(SAMPLERS)
    models = {name: figures(bench, recipe(bench, factor, SAMPLERS[name]), factor) for name in names}
    claims = [
        better(BASE, models[BASE].rows[measure], name, models[name].rows[measure], measure)
        for name in names[1:]
        for measure in measures(factor).beyond
    ]
    title = f"The packaged recipe with each sampler, {factor}×, {steps(bench)} steps"
    return Result(claims, compared(models, BASE, factor, title), paper=PAPER, facts=facts(bench, factor))
