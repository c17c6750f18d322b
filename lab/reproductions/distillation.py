"""What keeps the old window: plain examples and self-distillation, at equal tokens and at equal seconds.

The control trains scaled RoPE on short windows at plain positions only, so it says what skipping is worth. The original
model teaches in self-distillation: on text that does not skip, what it predicts at plain positions is the target.
"""

from lab.around_recipe import FACTOR, TAUGHT, UNTAUGHT, compared, figures, kept, measures, recipe, steps
from lab.bench import ORIGINAL, Bench, Model
from lab.costs import cost
from lab.findings import better
from lab.tables import Result, Table

TITLE = "plain positions only, plain examples and self-distillation"
SOURCE = "ours; compare RoPE-perturbed self-distillation, arXiv 2604.14339"
PAPER = Table(
    "Elsewhere",
    ["source", "what"],
    [["arXiv 2604.14339, full length, Llama-3-8B", "RULER at 64k +12 points"], ["skipped positions", "not tried"]],
)
TEACHER, PLAIN = ({key: TAUGHT[key]} for key in ("training.distill", "data.plain"))
BASE, BOTH, SLOW = "PoSE", "self-distillation, a fifth plain", "PoSE, the seconds of self-distillation"


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    pose = recipe(bench, factor, UNTAUGHT)
    dearer = cost(bench, recipe(bench, factor, UNTAUGHT | TEACHER)).middle / cost(bench, pose).middle
    settings: dict[str, Model] = {
        "original": ORIGINAL,
        "scaled, untrained": {**pose, "training.steps": 0},
        "plain positions only": recipe(bench, factor, UNTAUGHT | {"positions.sampler": "original"}),
        "RandPos": recipe(bench, factor, UNTAUGHT | {"positions.sampler": "randpos"}),
        BASE: pose,
        "PoSE, a fifth plain": recipe(bench, factor, UNTAUGHT | PLAIN),
        "self-distillation": recipe(bench, factor, UNTAUGHT | TEACHER),
        BOTH: recipe(bench, factor, TAUGHT),
        SLOW: {**pose, "training.steps": round(steps(bench) * dearer)},
    }
    models = {name: figures(bench, model, factor) for name, model in settings.items()}
    _, _, beyond, passkeys, values = measures(factor)
    claims = [
        better(BASE, models[BASE].rows[measure], other, models[other].rows[measure], measure)
        for other in ("plain positions only", "RandPos")
        for measure in (beyond, passkeys, values)
    ]
    for other in (BASE, SLOW):
        claims += [
            better(BOTH, rows, other, models[other].rows[measure], measure)
            for measure, rows in models[BOTH].rows.items()
        ]
    claims += kept(BOTH, models[BOTH], models["original"])
    remark = f"A step of self-distillation took {dearer:.2f} times as long as one of PoSE on the machine that ran this."
    title = f"{factor}×, {steps(bench)} steps"
    return Result(claims, compared(models, BASE, factor, title), paper=PAPER, remark=remark)
