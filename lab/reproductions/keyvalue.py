"""h2oGPT's long-context test: values of keys in a list, by length and depth."""

from lab.bench import ORIGINAL, Bench, Model, doubling, pick, variant
from lab.by_length import by_length
from lab.findings import better, mean_over_seeds
from lab.tables import Chart, Result, Table

TITLE = "values of keys in a list, by length and depth"
SOURCE = "h2oGPT's long-context tests"
FACTOR = 16
DEPTHS = [0.0, 0.25, 0.5, 0.75, 1.0]
PAPER = Table(
    "h2oGPT, Llama 2 and others",
    ["method", "result"],
    [["dynamic NTK without training, and trained models", "published as charts, without numbers"]],
)


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    lengths = doubling(factor)
    models: dict[str, Model] = {
        "none": ORIGINAL,
        "dynamic NTK untrained": variant("pose", factor, scaling__method="dynamic", training__steps=0),
        "YaRN untrained": variant("pose", factor, scaling__method="yarn", training__steps=0),
        "PoSE with linear scaling": variant("pose", factor),
        "PoSE with NTK": variant("pose", factor, scaling__method="ntk"),
        "PoSE with YaRN": variant("pose", factor, scaling__method="yarn"),
    }
    figures = by_length(models, lambda m: bench.pairs(m, lengths), "key_value", lengths)
    by_depth = []
    for name, model in models.items():
        measured = bench.pairs(model, lengths)
        at = [pick(measured, task="key_value", length=lengths[-1], depth=depth) for depth in DEPTHS]
        by_depth.append([name, *(mean_over_seeds(rows).text() for rows in at)])
    last, what = figures.last, f"values of keys at {lengths[-1]:,} tokens"
    claims = [
        better("PoSE with YaRN", last["PoSE with YaRN"], "YaRN untrained", last["YaRN untrained"], what),
        better("PoSE with NTK", last["PoSE with NTK"], "dynamic NTK untrained", last["dynamic NTK untrained"], what),
        better("PoSE with NTK", last["PoSE with NTK"], "PoSE with YaRN", last["PoSE with YaRN"], what),
    ]
    depths = [f"{100 * depth:.0f} %" for depth in DEPTHS]
    return Result(
        claims,
        [
            figures.table("Values answered (lines of 8 and 4 hex digits), over all depths", "model"),
            Table(f"Values answered at {lengths[-1]:,} tokens, by place in the list", ["model", *depths], by_depth),
        ],
        [Chart("Values answered", "tokens", "share", figures.lines(), y_scale="linear")],
        PAPER,
    )
