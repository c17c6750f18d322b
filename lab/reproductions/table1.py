"""PoSE's table 1: perplexity by length of the original, of full-length training, RandPos and PoSE."""

from functools import partial

from lab.bench import CORPORA, ORIGINAL, Bench, Model, doubling, full_length, variant
from lab.by_length import by_length
from lab.findings import alike, better
from lab.tables import Chart, Result, Table

TITLE = "perplexity by length: none, full-length, RandPos, PoSE"
SOURCE = "PoSE, arXiv 2309.10400, table 1"
PAPER = Table(
    "The paper, LLaMA-7B, 2k to 16k: GovReport / Proof-pile",
    ["method", "2k", "4k", "8k", "16k"],
    [
        ["none", "4.74 / 2.83", "> 1,000", "> 1,000", "> 1,000"],
        ["full-length", "4.87 / 2.93", "4.70 / 2.71", "4.61 / 2.58", "4.59 / 2.53"],
        ["RandPos", "11.63 / 7.26", "11.17 / 6.83", "11.54 / 6.76", "15.16 / 7.73"],
        ["PoSE", "4.84 / 2.95", "4.68 / 2.74", "4.60 / 2.61", "4.60 / 2.60"],
    ],
)
MARGIN = 0.03
"""The paper's largest gap between PoSE and full-length training at the target is 2.8 %."""


def methods(factor: int) -> dict[str, Model]:
    """The rows of the table."""
    return {
        "none": ORIGINAL,
        "full-length": full_length(factor),
        "RandPos": variant("randpos", factor),
        "PoSE": variant("pose", factor),
    }


def run(bench: Bench) -> Result:
    tables, charts, claims = [], [], []
    for factor in sorted({bench.factor(8), bench.factor(16)}):
        lengths = doubling(factor)
        for corpus, source in CORPORA.items():
            measure = partial(bench.perplexity, corpus=source, lengths=lengths)
            figures = by_length(methods(factor), measure, "perplexity", lengths)
            title = f"Perplexity of {corpus}, extended {factor}×"
            tables.append(figures.table(title, "method"))
            charts.append(Chart(title, "tokens", "perplexity", figures.lines()))
            what, last = f"perplexity of {corpus} at {lengths[-1]:,} tokens", figures.last
            claims += [
                better("PoSE", last["PoSE"], "RandPos", last["RandPos"], what),
                better("PoSE", last["PoSE"], "the original", last["none"], what),
                alike("PoSE", last["PoSE"], "full-length training", last["full-length"], what, MARGIN),
            ]
    return Result(claims, tables, charts, PAPER)
