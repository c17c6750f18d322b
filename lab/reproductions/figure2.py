"""Passkey retrieval by length: PoSE's figure 2 and the Mistral write-up's."""

from lab.bench import ORIGINAL, Bench, Model, doubling, variant
from lab.by_length import by_length
from lab.findings import at_least, better
from lab.tables import Chart, Result, Table

TITLE = "passkeys by length"
SOURCE = "PoSE, arXiv 2309.10400, figure 2"
FACTOR = 16
PAPER = Table(
    "The paper, LLaMA-7B, 50 prompts a length",
    ["method", "passkeys"],
    [
        ["PoSE, 2k to 16k and 2k to 32k", "90 % or more at every length up to the target"],
        ["the original; interpolation without training; RandPos", "near none beyond 2k"],
    ],
)


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    lengths = doubling(factor)
    models: dict[str, Model] = {
        "none": ORIGINAL,
        "linear scaling untrained": variant("pose", factor, training__steps=0),
        "YaRN untrained": variant("pose", factor, training__steps=0, scaling__method="yarn"),
        "YaRN trained without skips": variant("original", factor, scaling__method="yarn"),
        "RandPos with linear scaling": variant("randpos", factor),
        "PoSE with linear scaling": variant("pose", factor),
        "PoSE with YaRN": variant("pose", factor, scaling__method="yarn"),
    }
    figures = by_length(models, lambda m: bench.retrieval(m, "passkey", lengths), "passkey", lengths)
    last, what = figures.last, f"passkeys at {lengths[-1]:,} tokens"
    claims = [
        at_least("PoSE with YaRN", last["PoSE with YaRN"], 0.9, what),
        at_least("PoSE with linear scaling", last["PoSE with linear scaling"], 0.9, what),
        better(
            "PoSE with linear scaling",
            last["PoSE with linear scaling"],
            "the same scaling untrained",
            last["linear scaling untrained"],
            what,
        ),
        better("PoSE with YaRN", last["PoSE with YaRN"], "the same scaling untrained", last["YaRN untrained"], what),
        better(
            "PoSE with YaRN", last["PoSE with YaRN"], "training without skips", last["YaRN trained without skips"], what
        ),
    ]
    return Result(
        claims,
        [figures.table("Passkeys answered, over five depths", "model")],
        [Chart("Passkeys answered", "tokens", "share", figures.lines(), y_scale="linear")],
        PAPER,
    )
