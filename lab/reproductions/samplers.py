"""All samplers at equal tokens: the comparison that no paper has. A new sampler is in it without being named here."""

from typing import Any

from lab.around_recipe import compared, facts, figures, measures, recipe, steps
from lab.bench import WINDOW, Bench
from lab.findings import better
from lab.recipe_space import FACTOR
from lab.tables import Result, Table
from skipwise.config.sampler_names import sampler_names
from skipwise.positions.samplers import method

TITLE = "samplers of positions at equal tokens"
SOURCE = "ours"
BASE = "PoSE with 3 chunks"
KNOWN: dict[str, dict[str, Any]] = {
    BASE: {"positions.sampler": "pose", "positions.chunks": 3},
    "PoSE with 2 chunks": {"positions.sampler": "pose", "positions.chunks": 2},
    "training without skips": {"positions.sampler": "original"},
    "RandPos": {"positions.sampler": "randpos"},
    "stratified with 3 chunks": {"positions.sampler": "stratified", "positions.chunks": 3},
    "CREAM": {"positions.sampler": "cream"},
    "EndPrompt": {"positions.sampler": "endprompt"},
    "curriculum over PoSE": {"positions.sampler": "curriculum", "positions.chunks": 3},
}
QUICK = 4
"""Of these a quick run takes the first so many."""
LEFT_OUT = {"pose_reference": "as pose but for its first chunk", "skipalign": "as pose where text has no turns"}
PAPER = Table("The papers", ["quantity", "value"], [["samplers at equal tokens", "not compared by any"]])


def added() -> dict[str, dict[str, Any]]:
    """Samplers that someone has added, each with three chunks if it has chunks."""
    known = {settings["positions.sampler"] for settings in KNOWN.values()} | set(LEFT_OUT)
    names = (name for name in sampler_names() if name not in known and not method(name).whole_target)
    return {name: {"positions.sampler": name, "positions.chunks": 3} for name in names}


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    samplers = dict(list(KNOWN.items())[: QUICK if bench.quick else None]) | added()
    models = {name: figures(bench, recipe(bench, factor, changes), factor) for name, changes in samplers.items()}
    claims = [
        better(BASE, models[BASE].rows[measure], name, models[name].rows[measure], measure)
        for name in models
        if name != BASE
        for measure in measures(factor).beyond
    ]
    title = f"The packaged recipe with each sampler, {factor}×, {steps(bench)} steps of 8 × {WINDOW} tokens"
    return Result(claims, compared(models, BASE, factor, title), paper=PAPER, facts=facts(bench, factor))
