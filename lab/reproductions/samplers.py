"""All samplers at equal tokens: the comparison that no paper has."""

from typing import Any

from lab.bench import CORPORA, WINDOW, Bench, Settings, pick, variant
from lab.findings import better, mean_over_seeds
from lab.tables import Result, Table

TITLE = "samplers of positions at equal tokens"
SOURCE = "ours"
FACTOR = 16
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "training without skips": ("original", {}),
    "RandPos": ("randpos", {}),
    "PoSE with 2 chunks": ("pose", {}),
    "PoSE with 3 chunks": ("pose", {"positions__chunks": 3}),
    "PoSE as published": ("pose_reference", {}),
    "stratified with 2 chunks": ("stratified", {}),
    "stratified with 3 chunks": ("stratified", {"positions__chunks": 3}),
    "CREAM": ("cream", {}),
    "EndPrompt": ("endprompt", {}),
    "curriculum over PoSE": ("curriculum", {}),
}
BASE = "PoSE with 2 chunks"
PAPER = Table("The papers", ["quantity", "value"], [["samplers at equal tokens", "not compared by any"]])


def yarn(name: str, factor: int) -> Settings:
    """The model of a sampler."""
    sampler, settings = SAMPLERS[name]
    return variant(sampler, factor, scaling__method="yarn", **settings)


def run(bench: Bench) -> Result:
    factor = bench.factor(FACTOR)
    lengths = [WINDOW, factor * WINDOW]
    names = list(SAMPLERS)[:4] if bench.quick else list(SAMPLERS)
    rows, perplexities, values = [], {}, {}
    for name in names:
        model = yarn(name, factor)
        measured = bench.perplexity(model, CORPORA["code"], lengths)
        inside, beyond = (pick(measured, task="perplexity", length=n) for n in lengths)
        passkeys = pick(bench.retrieval(model, "passkey", lengths[1:]), task="passkey", length=lengths[1])
        values[name] = pick(bench.pairs(model, lengths[1:]), task="key_value", length=lengths[1])
        perplexities[name] = beyond
        figures = (inside, beyond, passkeys, values[name])
        rows.append([name, *(mean_over_seeds(of_seeds).text() for of_seeds in figures)])
    claims = []
    for what, of_name in (("perplexity of code", perplexities), ("values of keys", values)):
        at = f"{what} at {lengths[1]:,} tokens"
        claims += [better(BASE, of_name[BASE], name, of_name[name], at) for name in names if name != BASE]
    columns = ["sampler", f"perplexity at {lengths[0]:,}", f"at {lengths[1]:,}", "passkeys", "values of keys"]
    title = f"YaRN, {factor}×, equal tokens; the last three at {lengths[1]:,} tokens"
    return Result(claims, [Table(title, columns, rows)], paper=PAPER)
