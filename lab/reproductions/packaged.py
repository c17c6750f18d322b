"""The packaged recipe against PoSE as published, and against training at full length with as many or more tokens."""

from lab.around_recipe import FACTOR, compared, figures, kept, measures, recipe, steps
from lab.bench import ORIGINAL, Bench, Settings, full_length
from lab.findings import better, no_worse
from lab.recipe_space import BASELINES, Candidate, whole_recipe
from lab.tables import Result, Table

TITLE = "the packaged recipe, PoSE, and full-length training with equal and with eight times the tokens"
SOURCE = "ours"
RECIPE, WHOLE, EQUAL = "the recipe", "the recipe, all its steps", "full-length, equal tokens"
TIMES = 8
"""Tokens of the training at full length, as a multiple."""
TOLERANCE = 0.01
"""Perplexity at the target that the recipe may lose to training at full length."""
POINTS = 0.05
"""Share of answers that it may lose there."""
PAPER = Table(
    "PoSE's paper, LLaMA-7B, 2k to 16k, Proof-pile at 16k, equal steps",
    ["training", "perplexity"],
    [["PoSE", "2.60"], ["full-length", "2.53"]],
)


def full(bench: Bench, factor: int, times: int, examples: int = 8) -> Settings:
    """Training on whole targets, with the recipe's scaling and recall documents and the other tables' learning rate.

    Args:
        bench: Where it is trained.
        factor: Windows in the target.
        times: The recipe's tokens are multiplied by it.
        examples: In a step.
    """
    count = steps(bench) * 8 * times // (factor * examples)
    settings = recipe(bench, factor)
    same = {key: settings[key] for key in ("scaling.method", "data.recall")}
    budget = {"training.steps": count, "training.warmup_steps": count // 12, "training.gradient_accumulation": examples}
    return {**full_length(factor), **same, **budget}


def whole(bench: Bench, factor: int) -> Settings:
    """The recipe with its own number of steps; as many as others in a quick run."""
    own = {key: whole_recipe()[key] for key in ("training.steps", "training.warmup_steps")}
    return {**recipe(bench, factor), **({} if bench.quick else own)}


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    times = 2 if bench.quick else TIMES
    at_full_length = f"full-length, {times} × the tokens"
    once = Bench(bench.folder, quick=bench.quick, seeds=1)  # full-length training is as dear as all the others together
    models = {
        "original": figures(bench, ORIGINAL, factor),
        RECIPE: figures(bench, recipe(bench, factor), factor),
        WHOLE: figures(bench, whole(bench, factor), factor),
        **{
            name: figures(bench, Candidate(name, settings).at(steps(bench), factor), factor)
            for name, settings in BASELINES.items()
        },
        EQUAL: figures(bench, full(bench, factor, 1, 1), factor),
        at_full_length: figures(once, full(bench, factor, times), factor),
    }
    _, _, beyond, passkeys, values = measures(factor)
    ours = models[RECIPE].rows
    claims = [
        better(RECIPE, ours[measure], name, models[name].rows[measure], measure)
        for name in [*BASELINES, EQUAL]
        for measure in (beyond, passkeys, values)
    ]
    claims += [
        no_worse(RECIPE, ours[measure], at_full_length, models[at_full_length].rows[measure], measure, margin)
        for measure, margin in ((beyond, TOLERANCE), (passkeys, POINTS), (values, POINTS))
    ]
    for name in (RECIPE, WHOLE):
        claims += kept(name, models[name], models["original"])
    count = whole(bench, factor)["training.steps"]
    title = f"{factor}×, {steps(bench)} steps, {count} where all; the last row has one seed"
    return Result(claims, compared(models, RECIPE, factor, title), paper=PAPER)
