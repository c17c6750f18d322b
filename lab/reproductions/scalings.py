"""Scaling methods by factor, under the packaged recipe: where YaRN's last pair to interpolate fully is too late.

LongRoPE2 finds that pairs which turned once or twice in the original window were trained too little to be kept, and
that after training NTK-like scalings answer more than YaRN although perplexity says the opposite.
"""

from lab.around_recipe import compared, facts, figures, measures, recipe, steps
from lab.bench import Bench
from lab.findings import better
from lab.tables import Result, Table

TITLE = "YaRN, the critical dimension and NTK by factor"
SOURCE = "LongRoPE2, arXiv 2502.20082"
METHODS = ["critical", "yarn", "ntk"]
PAPER = Table(
    "LongRoPE2's paper, Llama-3-8B at 128k after training",
    ["scaling", "RULER"],
    [["NTK", "73"], ["YaRN", "49"]],
)


def run(bench: Bench) -> Result:
    tables, claims = list[Table](), []
    factors = [bench.factor(4)] if bench.quick else [4, 16, 64]
    for factor in factors:
        models = {
            method: figures(bench, recipe(bench, factor, {"scaling.method": method}), factor) for method in METHODS
        }
        tables += compared(models, "critical", factor, f"{factor}×, {steps(bench)} steps")
        claims += [
            better(name, models[name].rows[measure], "YaRN", models["yarn"].rows[measure], f"{measure}, {factor}×")
            for name in ("critical", "ntk")
            for measure in measures(factor).beyond
        ]
    return Result(claims, tables, paper=PAPER, facts=facts(bench, factors[0]))
