"""PoSE's table 2: extreme extension, 64 times the window, by scaling."""

from lab.bench import CORPORA, WINDOW, Bench, variant
from lab.by_length import by_length
from lab.findings import better
from lab.tables import Chart, Result, Table

TITLE = "extension by 64: linear, NTK, YaRN"
SOURCE = "PoSE, arXiv 2309.10400, table 2"
FACTOR = 64
SCALINGS = {"linear": "linear", "NTK": "ntk", "YaRN": "yarn"}
PAPER = Table(
    "The paper, LLaMA-7B, 2k to 128k, perplexity of PG-19",
    ["scaling", "32k", "64k", "96k", "128k"],
    [
        ["linear", "16.90", "22.47", "26.77", "31.18"],
        ["NTK", "8.04", "14.84", "29.48", "34.80"],
        ["YaRN", "9.32", "10.36", "10.77", "11.33"],
    ],
)


def run(bench: Bench) -> Result:
    lengths = [n * WINDOW for n in ((8, 16) if bench.quick else (8, 16, 32, 64))]
    models = {name: variant("pose", FACTOR, scaling__method=scaling) for name, scaling in SCALINGS.items()}
    figures = by_length(models, lambda m: bench.perplexity(m, CORPORA["code"], lengths), "perplexity", lengths)
    last, what = figures.last, f"perplexity of code at {lengths[-1]:,} tokens"
    claims = [better("YaRN", last["YaRN"], f"{name} scaling", last[name], what) for name in ("linear", "NTK")]
    title = f"Perplexity of code after PoSE towards {FACTOR * WINDOW:,} tokens"
    return Result(
        claims, [figures.table(title, "scaling")], [Chart(title, "tokens", "perplexity", figures.lines())], PAPER
    )
