"""A run's report: run folders → one plain dict → one HTML page that needs no network.

In: config.yaml, environment.json, log.jsonl and results.jsonl of each run folder, and nothing else; all but the first
may be missing, and the page then says so. Out: one file with its data, its styles (page/page.css) and its figures
(page/*.js) inside. Every number on the page comes from the dict; the page's scripts only draw.
"""

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipwise import __version__
from skipwise.errors import SkipwiseError
from skipwise.files import write_text
from skipwise.page.render import render
from skipwise.page.run import Run, TrainRow, read_run
from skipwise.page.words import commands, headline, missing, settings

SCRIPTS = ["base.js", "chart.js", "figures.js", "page.js"]
BINS = 200  # of relative distances
LOG_POINTS = 500  # of a training curve
POSITIONS_BUDGET = 2**26  # examples × target length whose distances are counted: a few seconds


def write_report(runs: list[Path], out: Path) -> Path:
    """Write the page of one run, or of several to compare, to `out`, whole or not at all; returns `out`.

    Errors: SkipwiseError for no run, the same run twice, a folder that is no run, or a broken file in one.
    """
    if not runs:
        raise SkipwiseError("no run to report on; give at least one folder of a run, such as runs/skipwise")
    found = [read_run(folder, name) for folder, name in zip(runs, _names(runs), strict=True)]
    write_text(out, render(page_data(found), SCRIPTS))
    return out


def _names(folders: list[Path]) -> list[str]:
    """The last part of each path; more of it where two runs would have the same name."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise SkipwiseError(f"the same run was given twice: {', '.join(map(str, folders))}; give every folder once")


def page_data(runs: list[Run]) -> dict[str, Any]:
    """All that the page shows, as plain values; `results` holds the rows of results.jsonl, none changed."""
    series, results = _series(runs)
    return {
        "headline": headline(runs),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipwise": __version__,
        "runs": [_run_data(run) for run in runs],
        "series": series,
        "results": results,
    }


def _run_data(run: Run) -> dict[str, Any]:
    pairs = {task: run.at_target(task) for task in ("perplexity", "passkey")}
    return {
        "name": run.name,
        "original_length": run.original_length,
        "target_length": run.config.target_length,
        "train_length": run.train_length,
        "finished": run.finished,
        "missing": missing(run),
        "cost": run.cost,
        "at_target": {task: [row and row.model_dump() for row in pair] for task, pair in pairs.items() if pair},
        "settings": settings(run),
        "positions": _positions(run),
        "train": _thin(run.train),
        "validation": _validation(run),
        "commands": commands(run),
    }


def _series(runs: list[Run]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(series, rows): one series a model. An original model that several runs measured alike is one series."""
    series: dict[tuple[Any, ...], dict[str, Any]] = {}
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    originals: dict[tuple[Any, ...], tuple[float, int]] = {}  # key → (value, n), of the shared series
    for number, run in enumerate(runs):
        latest = {row.model: row.fingerprint for row in run.results}
        own = {row.key: (row.value, row.n) for row in run.results if row.model == "original"}
        alike = all(originals.get(key, measured) == measured for key, measured in own.items())
        originals |= own if alike else {}
        for row in run.results:
            owner = None if row.model == "original" and alike else number
            name = row.model if row.fingerprint == latest[row.model] else f"{row.model} (earlier {row.fingerprint[:6]})"
            if len(runs) > 1 and owner is not None:
                name = run.name if name == "extended" else f"{run.name} · {name}"
            entry = {"name": name, "model": row.model, "run": owner, "window": row.window, "scaling": row.scaling}
            entry = series.setdefault((owner, row.model, row.fingerprint), {"id": len(series), **entry})
            rows[(owner, *row.key)] = {"series": entry["id"], **row.model_dump(exclude={"scaling", "documents"})}
    return list(series.values()), list(rows.values())


def _thin(rows: list[TrainRow]) -> list[dict[str, Any]]:
    """At most LOG_POINTS rows: neighbours become one with their mean loss, at the last one's step."""
    size = math.ceil(len(rows) / LOG_POINTS)
    groups = [rows[i : i + size] for i in range(0, len(rows), size or 1)]
    return [group[-1].model_dump() | {"loss": sum(row.loss for row in group) / len(group)} for group in groups]


def _validation(run: Run) -> list[dict[str, Any]]:
    """Validation rows with the tokens and seconds that training had spent, so that they share the curve's axes."""
    steps = [row.step for row in run.train]
    if not steps:
        return [row.model_dump() | {"tokens": None} for row in run.validation]
    tokens, seconds = [row.tokens for row in run.train], [row.seconds for row in run.train]
    return [
        row.model_dump()
        | {"tokens": float(np.interp(row.step, steps, tokens)), "seconds": float(np.interp(row.step, steps, seconds))}
        for row in run.validation
    ]


def _positions(run: Run) -> dict[str, Any] | None:
    """Some examples' chunks, and how often each relative distance was trained, beside plain training's L − d."""
    from skipwise.coverage import distance_counts
    from skipwise.positions import sampler_from_config

    training, target, length = run.config.training, run.config.target_length, run.train_length
    if training.steps == 0:
        return None
    sampler = sampler_from_config(run.config.positions, train_length=length, target_length=target, seed=training.seed)
    examples = sampler.draw(0, np.arange(7), 2 * target).position_ids  # (7, S)
    trained = (run.cost["tokens"] or 0) // sampler.example_length
    planned = training.steps * training.batch_size * training.gradient_accumulation
    counted = max(1, min(trained or planned, POSITIONS_BUDGET // target))
    counts = distance_counts(sampler, examples=counted)  # (T,)
    seen = counts > 0
    edges = np.unique(np.linspace(0, target, BINS + 1).astype(int))

    def means(values: NDArray[Any]) -> list[float]:
        sums = np.add.reduceat(values.astype(float), edges[:-1])
        return [float(f"{mean:.5g}") for mean in sums / np.diff(edges)]

    return {
        "chunks": [_chunks(row, target) for row in examples],
        "example_length": sampler.example_length,
        "examples": trained,
        "counted": counted,
        "edges": edges.tolist(),
        "pairs": means(counts / counted),
        "plain_pairs": means(np.maximum(length - np.arange(target), 0)),
        "seen": means(seen),
        "share": float(seen.mean()),
        "plain_share": length / target,
    }


def _chunks(positions: NDArray[np.int64], target: int) -> list[tuple[int, int, float]]:
    """(start, stop, share used) of an example's runs of positions; of equal cells where there are many runs."""
    borders = np.flatnonzero(np.diff(positions) != 1) + 1
    if len(borders) < 16:
        return [(int(chunk[0]), int(chunk[-1]) + 1, 1.0) for chunk in np.split(positions, borders)]
    edges = np.unique(np.linspace(0, target, 129).astype(int)).tolist()
    counts = np.histogram(positions, bins=edges)[0].tolist()
    cells = zip(edges[:-1], edges[1:], counts, strict=True)
    return [(start, stop, round(n / (stop - start), 3)) for start, stop, n in cells if n]
