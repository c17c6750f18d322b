"""Write a report: one HTML page about run folders and files of rows, which needs no network.

A run folder may lack everything but its config.yaml; the page says what is missing. The page is one file with its data,
its styles (static/*.css) and its scripts (static/*.js) inside. `page_data` gathers every number on it; the scripts only
draw.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipwise import __version__
from skipwise.errors import SkipwiseError
from skipwise.report import recipes, three_questions
from skipwise.report import series as series_module
from skipwise.report.headline import headline, rows_headline
from skipwise.report.model_answers import example
from skipwise.report.render import render
from skipwise.report.run_files import Rows, Run, TrainRow, read_rows, read_run
from skipwise.report.wording import commands, missing, settings
from skipwise.utils.atomic_files import write_text

SCRIPTS = [
    "base.js",
    "chart.js",
    "answers.js",
    "tasks.js",
    "retrieval.js",
    "perplexity.js",
    "training.js",
    "positions.js",
    "tables.js",
    "page.js",
]
BINS = 200  # of relative distances
LOG_POINTS = 500  # of a training curve
POSITIONS_BUDGET = 2**26  # examples × target length whose distances are counted: a few seconds


def write_report(paths: list[Path], out: Path, *, group: bool = False) -> Path:
    """Write the page of one run, or of several runs and files of rows to compare.

    Args:
        paths: Run folders, and files that `skipwise eval --out` wrote.
        out: The page, which is written whole or not at all.
        group: Whether runs that differ in nothing but their seed are one row with its spread.

    Returns:
        `out`.

    Raises:
        SkipwiseError: for no path, the same path twice, a folder that is no run, or a broken file.
    """
    if not paths:
        raise SkipwiseError("no run to report on; give at least one folder of a run, such as runs/skipwise")
    named = list(zip(paths, _names(paths), strict=True))
    runs = [read_run(path, name) for path, name in named if not path.is_file()]
    files = [read_rows(path, name) for path, name in named if path.is_file()]
    write_text(out, render(page_data(runs, files, group=group), SCRIPTS))
    return out


def _names(folders: list[Path]) -> list[str]:
    """The last part of each path; more of it where two runs would have the same name."""
    paths = [folder.resolve() for folder in folders]
    for depth in range(1, 1 + max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    raise SkipwiseError(f"the same run was given twice: {', '.join(map(str, folders))}; give every folder once")


def page_data(runs: list[Run], files: Sequence[Rows] = (), *, group: bool = False) -> dict[str, Any]:
    """Collect all that the page shows, as plain values.

    Args:
        runs: Run folders.
        files: Files of rows that `skipwise eval` wrote.
        group: Show runs that differ in `training.seed` alone as one.

    Returns:
        By name; `results` holds the rows of results.jsonl, none changed, each with the paired `change` from its series'
        base to it.
    """
    series, results = series_module.series(runs, files)
    if group:
        series, results = recipes.grouped(runs, series, results)
    return {
        "headline": headline(runs, recipes.recipes(runs) if group else ())
        if runs
        else rows_headline(series, results, files),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipwise": __version__,
        "runs": [_run_data(run) for run in runs],
        "questions": [] if runs else three_questions.of_rows([row for file in files for row in file.results]),
        "files": [{"name": file.name, "outdated": file.outdated} for file in files],
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
        "questions": three_questions.of_run(run),
        "example": example(
            run.latest("original"), run.latest("extended"), run.original_length or 0, run.config.target_length
        ),
        "cost": run.cost,
        "at_target": {
            task: [row and row.model_dump(include=series_module.SHOWN) for row in pair]
            for task, pair in pairs.items()
            if pair
        },
        "settings": settings(run),
        "positions": _positions(run),
        "train": _thin(run.train),
        "validation": _validation(run),
        "commands": commands(run),
    }


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
    from skipwise.positions.coverage import distance_counts
    from skipwise.positions.sampler import sampler_from_config

    training, target, length = run.config.training, run.config.target_length, run.train_length
    if training.steps == 0:
        return None
    planned = training.steps * training.batch_size * training.gradient_accumulation
    sampler = sampler_from_config(
        run.config.positions, train_length=length, target_length=target, seed=training.seed, examples=planned
    )
    examples = sampler.draw(0, np.arange(7), 2 * target).position_ids  # (7, S)
    trained = (run.cost["tokens"] or 0) // sampler.example_length
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
