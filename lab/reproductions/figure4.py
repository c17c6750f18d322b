"""PoSE's figure 4: other families of models, and other scalings."""

from typing import Any

from lab.bench import CORPORA, Bench, Model, doubling, variant
from lab.by_length import by_length
from lab.families import FAMILIES, QUICK_STEPS, SLIDING, STEPS, family
from lab.findings import better
from lab.tables import Chart, Result, Table

TITLE = "families of models and scalings"
SOURCE = "PoSE, arXiv 2309.10400, figure 4"
FACTOR = 8
SCALINGS = {"linear": "linear", "NTK": "ntk", "YaRN": "yarn"}
CONTROL = "training without skips or scaling"
PAPER = Table(
    "The paper, LLaMA-7B, LLaMA2-7B, GPT-J-6B, Baichuan2-7B, 2k (4k) to 16k: a chart without numbers",
    ["scaling", "what it shows"],
    [
        ["none", "perplexity rises steeply beyond the window"],
        ["linear, YaRN", "low up to the target for all four"],
        ["NTK", "turns up before the target"],
    ],
)


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    lengths = doubling(factor)
    tables, charts, claims = [], [], []
    for name in FAMILIES:
        path = str(family(bench, name))
        base: dict[str, Any] = {"model__path": path, "data__recall": 0.0}
        if bench.quick:  # many models, and pre-trained too little to show anything
            base |= {"training__steps": max(bench.steps // 4, 1), "training__warmup_steps": 1}
        models: dict[str, Model] = {"none": path}
        models[CONTROL] = variant("original", factor, scaling__method="none", **base)
        tried = SCALINGS if not bench.quick or name == "llama" else {"YaRN": SCALINGS["YaRN"]}
        for scaling, method in tried.items():
            models[scaling] = variant("pose", factor, scaling__method=method, **base)
        figures = by_length(models, lambda m: bench.perplexity(m, CORPORA["code"], lengths), "perplexity", lengths)
        title = f"{name}: perplexity of code, PoSE, {factor}×"
        tables.append(figures.table(title, "scaling"))
        charts.append(Chart(title, "tokens", "perplexity", figures.lines()))
        last, what = figures.last, f"perplexity of code at {lengths[-1]:,} tokens"
        claims += [
            better(f"{name} after PoSE with {scaling} scaling", last[scaling], CONTROL, last[CONTROL], what)
            for scaling in tried
        ]
        if "NTK" in tried:
            claims.append(better(f"{name} after PoSE with YaRN", last["YaRN"], "NTK", last["NTK"], what))
    steps = QUICK_STEPS if bench.quick else STEPS
    return Result(
        claims,
        tables,
        charts,
        PAPER,
        remark=f"The models have about a million parameters, {steps:,} steps of pre-training and the same tokenizer. "
        f"All layers of the Mistral one slide over {SLIDING} tokens: no layer reads what is further away.",
    )
