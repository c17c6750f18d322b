"""The packaged recipe against PoSE as published, and against training at full length with as many or more tokens.

PoSE and training at full length are tried at two learning rates, the recipe's and that of the papers' tables here,
since either may suit them better.
"""

from lab.around_recipe import compared, facts, figures, kept, measures, recipe, steps
from lab.bench import ORIGINAL, SHARED, Bench, Settings, full_length
from lab.findings import better, no_worse
from lab.recipe_space import BASELINES, FACTOR, PACKAGED, budgeted, packaged, settings_of
from lab.tables import Result, Table

TITLE = "the packaged recipe, PoSE, and full-length training with equal and with eight times the tokens"
SOURCE = "ours"
RECIPE, WHOLE, YARN = "the recipe", "the recipe, all its steps", "all its steps with yarn"
RATE = "training.learning_rate"
RATES = {"3e-4": packaged()[RATE], "1e-3": SHARED[RATE]}
TIMES = 8
"""Tokens of the longest trainings, as a multiple."""
TOLERANCE = 0.01
"""Perplexity at the target that the recipe may lose to training at full length."""
POINTS = 0.05
"""Share of answers that it may lose there."""
PAPER = Table(
    "PoSE's paper, LLaMA-7B, 2k to 16k, Proof-pile at 16k, equal steps",
    ["training", "perplexity"],
    [["PoSE", "2.60"], ["full-length", "2.53"]],
)


def full(bench: Bench, factor: int, times: int, examples: int, rate: float) -> Settings:
    """Training on whole targets, with the recipe's scaling and recall documents, without a teacher.

    Args:
        bench: Where it is trained.
        factor: Windows in the target.
        times: The recipe's tokens are multiplied by it.
        examples: In a step.
        rate: Learning rate.
    """
    count = steps(bench) * 8 * times // (factor * examples)
    settings = recipe(bench, factor)
    same = {key: settings[key] for key in ("scaling.method", "data.recall")}
    budget = {"training.steps": count, "training.warmup_steps": count // 12, "training.gradient_accumulation": examples}
    return {**full_length(factor), **same, **budget, RATE: rate}


def whole(bench: Bench, factor: int) -> Settings:
    """The recipe with its own number of steps; as many as others in a quick run."""
    own = {key: settings_of(PACKAGED)[key] for key in ("training.steps", "training.warmup_steps")}
    return {**recipe(bench, factor), **({} if bench.quick else own)}


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    times = 2 if bench.quick else TIMES
    once = Bench(bench.folder, quick=bench.quick, seeds=1)  # one of these is as dear as all the others together
    short = {
        f"{name}, {shown}": budgeted({**settings, RATE: rate}, steps(bench), factor)
        for name, settings in BASELINES.items()
        for shown, rate in RATES.items()
    } | {f"full-length, {shown}": full(bench, factor, 1, 1, rate) for shown, rate in RATES.items()}
    longer = f"full-length, 1e-3, {times} × the tokens"
    models = {
        "original": figures(bench, ORIGINAL, factor),
        RECIPE: figures(bench, recipe(bench, factor), factor),
        **{name: figures(bench, settings, factor) for name, settings in short.items()},
        WHOLE: figures(bench, whole(bench, factor), factor),
        YARN: figures(bench, {**whole(bench, factor), "scaling.method": "yarn"}, factor),
        longer: figures(once, full(bench, factor, times, 8, RATES["1e-3"]), factor),
    }
    names = measures(factor)
    ours = models[RECIPE].rows
    claims = [
        better(RECIPE, ours[measure], name, models[name].rows[measure], measure)
        for name in short
        for measure in names.beyond
    ]
    claims += [better(WHOLE, models[WHOLE].rows[name], YARN, models[YARN].rows[name], name) for name in names]
    for name in (RECIPE, WHOLE):
        claims += [
            no_worse(name, models[name].rows[measure], longer, models[longer].rows[measure], measure, margin)
            for measure, margin in ((names.target, TOLERANCE), (names.passkeys, POINTS), (names.values, POINTS))
        ]
        claims += kept(name, models[name], models["original"], factor)
    title = f"{factor}×, tokens of {steps(bench)} steps of 8 windows; with {times} × the tokens one seed"
    remark = (
        f"All steps of the recipe are {whole(bench, factor)['training.steps']}. Training at full length with equal "
        "tokens takes one example a step, since eight would leave a tenth of the steps."
    )
    tables = compared(models, RECIPE, factor, title)
    return Result(claims, tables, paper=PAPER, remark=remark, facts=facts(bench, factor))
