"""PoSE's appendix A: which text the chunks hold."""

from functools import partial

from lab.bench import CORPORA, Bench, doubling, variant
from lab.by_length import by_length
from lab.findings import alike
from lab.tables import Result, Table

TITLE = "text of the chunks: skip, contiguous, aligned"
SOURCE = "PoSE, arXiv 2309.10400, appendix A"
FACTOR = 8
PAPER = Table(
    "The paper, LLaMA-7B, 2k to 16k",
    ["quantity", "value"],
    [["largest difference between the three", "0.08 at perplexities of about 4.6 and 2.6, 3 %"]],
)
MARGIN = 0.03


def run(bench: Bench) -> Result:
    lengths = doubling(bench.factor(FACTOR))
    models = {
        text: variant("pose", bench.factor(FACTOR), positions__text=text) for text in ("skip", "contiguous", "aligned")
    }
    tables, claims = [], []
    for corpus, source in CORPORA.items():
        measure = partial(bench.perplexity, corpus=source, lengths=lengths)
        figures = by_length(models, measure, "perplexity", lengths)
        tables.append(figures.table(f"Perplexity of {corpus}, extended {bench.factor(FACTOR)}×", "text"))
        last, what = figures.last, f"perplexity of {corpus} at {lengths[-1]:,} tokens"
        claims += [
            alike(f"{text} text", last[text], "skipping text", last["skip"], what, MARGIN)
            for text in ("contiguous", "aligned")
        ]
    return Result(claims, tables, paper=PAPER)
