"""What keeps the old window: plain examples and self-distillation, at equal tokens and at equal seconds.

The control trains scaled RoPE on short windows at plain positions only, so it says what skipping is worth. The original
model teaches in self-distillation: on text that does not skip, what it predicts at plain positions is the target.
"""

from typing import Any

from lab.bench import CORPORA, ORIGINAL, WINDOW, Bench, Model, pick, variant
from lab.costs import cost
from lab.findings import alike, better, mean_over_seeds
from lab.tables import Result, Table

TITLE = "plain positions only, plain examples and self-distillation"
SOURCE = "ours; compare RoPE-perturbed self-distillation, arXiv 2604.14339"
FACTOR = 16
PAPER = Table(
    "Elsewhere",
    ["source", "what"],
    [["arXiv 2604.14339, full length, Llama-3-8B", "RULER at 64k +12 points"], ["skipped positions", "not tried"]],
)
DISTILLED = {"training__distill": 0.5, "positions__text": "contiguous"}
PLAIN = {"data__plain": 0.2}
PRICE = 0.02
"""Loss of perplexity inside the old window that is still called kept."""


def yarn(sampler: str, factor: int, **settings: Any) -> dict[str, Any]:
    """Settings that all models here share."""
    chunks = {"positions__chunks": 3} if sampler == "pose" else {}
    return {**variant(sampler, factor, scaling__method="yarn", **chunks, **settings)}


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    lengths = [WINDOW, factor * WINDOW]
    pose, distilled = yarn("pose", factor), yarn("pose", factor, **DISTILLED)
    dearer = cost(bench, distilled).middle / cost(bench, pose).middle
    longer = {**pose, "training.steps": round(bench.steps * dearer)}
    models: dict[str, Model] = {
        "original": ORIGINAL,
        "YaRN, untrained": yarn("pose", factor, training__steps=0),
        "plain positions only": yarn("original", factor),
        "RandPos": yarn("randpos", factor),
        "PoSE": pose,
        "PoSE, a fifth plain": yarn("pose", factor, **PLAIN),
        "self-distillation": distilled,
        "self-distillation, a fifth plain": yarn("pose", factor, **DISTILLED, **PLAIN),
        "PoSE, the seconds of self-distillation": longer,
    }
    rows, inside, beyond, values = [], {}, {}, {}
    for name, model in models.items():
        measured = bench.perplexity(model, CORPORA["code"], lengths)
        inside[name], beyond[name] = (pick(measured, task="perplexity", length=n) for n in lengths)
        passkeys = pick(bench.retrieval(model, "passkey", lengths[1:]), task="passkey", length=lengths[1])
        values[name] = pick(bench.pairs(model, lengths[1:]), task="key_value", length=lengths[1])
        steps = 0 if isinstance(model, str) else model.get("training.steps", bench.steps)
        figures = (inside[name], beyond[name], passkeys, values[name])
        rows.append([name, f"{steps:,}", *(mean_over_seeds(of_seeds).text() for of_seeds in figures)])
    old, new = f"perplexity of code at {lengths[0]:,} tokens", f"perplexity of code at {lengths[1]:,} tokens"
    keys = f"values of keys at {lengths[1]:,} tokens"
    taught, slow = "self-distillation", "PoSE, the seconds of self-distillation"
    claims = [
        better("PoSE", beyond["PoSE"], "training at plain positions only", beyond["plain positions only"], new),
        better("PoSE", values["PoSE"], "training at plain positions only", values["plain positions only"], keys),
        better("PoSE", beyond["PoSE"], "RandPos", beyond["RandPos"], new),
        better(taught, inside[taught], "PoSE at equal tokens", inside["PoSE"], old),
        better(taught, beyond[taught], "PoSE at equal tokens", beyond["PoSE"], new),
        better(taught, values[taught], "PoSE at equal tokens", values["PoSE"], keys),
        better(taught, inside[taught], "PoSE at equal seconds", inside[slow], old),
        better(taught, beyond[taught], "PoSE at equal seconds", beyond[slow], new),
        better(taught, values[taught], "PoSE at equal seconds", values[slow], keys),
        alike(taught, inside[taught], "the original", inside["original"], old, PRICE),
    ]
    columns = ["training", "steps", f"perplexity at {lengths[0]:,}", f"at {lengths[1]:,}", "passkeys", "values of keys"]
    title = f"YaRN, {factor}×; the last three at {lengths[1]:,} tokens"
    remark = f"A step of self-distillation took {dearer:.2f} times as long as one of PoSE on the machine that ran this."
    return Result(claims, [Table(title, columns, rows)], paper=PAPER, remark=remark)
