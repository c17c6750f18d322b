"""What keeps the old window: plain examples and self-distillation, at equal tokens and at equal seconds.

The control trains scaled RoPE on short windows at plain positions only, so it says what skipping is worth. The original
model teaches in self-distillation: on text that does not skip, what it predicts at plain positions is the target.
"""

from lab.around_recipe import TAUGHT, UNTAUGHT, compared, effects, facts, figures, kept, measures, recipe, steps
from lab.bench import ORIGINAL, Bench, Model
from lab.costs import cost
from lab.findings import better
from lab.recipe_space import FACTOR
from lab.tables import Result, Table

TITLE = "plain positions only, plain examples and self-distillation"
SOURCE = "ours; compare RoPE-perturbed self-distillation, arXiv 2604.14339"
PAPER = Table(
    "Elsewhere",
    ["source", "what"],
    [["arXiv 2604.14339, full length, Llama-3-8B", "RULER at 64k +12 points"], ["skipped positions", "not tried"]],
)
TEACHER, PLAIN = ({key: TAUGHT[key]} for key in ("training.distill", "data.plain"))
BASE, PLAINLY, BOTH = "PoSE", "PoSE, a fifth plain", "self-distillation, a fifth plain"
SLOW = "PoSE, the seconds of self-distillation"


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    pose = recipe(bench, factor, UNTAUGHT)
    dearer = cost(bench, recipe(bench, factor, UNTAUGHT | TEACHER)).middle / cost(bench, pose).middle
    longer = round(steps(bench) * dearer)
    settings: dict[str, Model] = {
        "original": ORIGINAL,
        "scaled, untrained": {**pose, "training.steps": 0},
        "plain positions only": recipe(bench, factor, UNTAUGHT | {"positions.sampler": "original"}),
        "RandPos": recipe(bench, factor, UNTAUGHT | {"positions.sampler": "randpos"}),
        BASE: pose,
        PLAINLY: recipe(bench, factor, UNTAUGHT | PLAIN),
        "self-distillation": recipe(bench, factor, UNTAUGHT | TEACHER),
        BOTH: recipe(bench, factor, TAUGHT),
        SLOW: {**pose, "training.steps": longer},
    }
    models = {name: figures(bench, model, factor) for name, model in settings.items()}
    claims = [
        better(BASE, models[BASE].rows[measure], other, models[other].rows[measure], measure)
        for other in ("plain positions only", "RandPos")
        for measure in measures(factor).beyond
    ]
    for other in (PLAINLY, SLOW):  # the first differs from it in the teacher alone
        claims += [
            better(BOTH, rows, other, models[other].rows[measure], measure)
            for measure, rows in models[BOTH].rows.items()
        ]
    claims += kept(BOTH, models[BOTH], models["original"], factor)
    remark = (
        f"A step of self-distillation took {dearer:.2f} times as long as one of PoSE on the machine that ran this, so "
        f"the last row has {longer} steps."
    )
    tables = [
        *compared(models, BASE, factor, f"{factor}×, {steps(bench)} steps"),
        effects(models, PLAINLY, [BOTH], factor),
        effects(models, SLOW, [BOTH], factor),
    ]
    return Result(claims, tables, paper=PAPER, remark=remark, facts=facts(bench, factor))
