"""PoSE's appendix B: how many chunks."""

from lab.bench import CORPORA, WINDOW, Bench, doubling, full_length, variant
from lab.by_length import by_length
from lab.findings import alike, better
from lab.tables import Result, Table

TITLE = "chunks of an example: 1, 2, 3, 8, all"
SOURCE = "PoSE, arXiv 2309.10400, appendix B"
FACTOR = 8
ALL = f"{WINDOW} (RandPos)"
PAPER = Table(
    "The paper, LLaMA-7B, 2k to 16k, Proof-pile at 16k",
    ["chunks", "perplexity"],
    [["1", "> 1,000"], ["2", "2.60"], ["3", "2.59"], ["2,048 (RandPos)", "7.73"], ["full-length", "2.53"]],
)


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    lengths = doubling(factor)
    models = {
        "1": variant("original", factor),
        **{str(n): variant("pose", factor, positions__chunks=n) for n in (2, 3, 8)},
        ALL: variant("randpos", factor),
        "full-length": full_length(factor),
    }
    figures = by_length(models, lambda m: bench.perplexity(m, CORPORA["code"], lengths), "perplexity", lengths)
    last, what = figures.last, f"perplexity of code at {lengths[-1]:,} tokens"
    claims = [
        better("training with two chunks", last["2"], "training with one", last["1"], what),
        better("training with two chunks", last["2"], "chunks of one token", last[ALL], what),
        alike("training with three chunks", last["3"], "training with two", last["2"], what, 0.03),
    ]
    return Result(claims, [figures.table(f"Perplexity of code, extended {factor}×", "chunks")], paper=PAPER)
