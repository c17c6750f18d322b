"""Which models a report compares: one series a model, its rows, and the change of each row against its base."""

from collections.abc import Sequence
from typing import Any

from skipwise.evals.paired_change import change, pairs, unpaired
from skipwise.evals.rows import Row
from skipwise.report.run_files import Rows, Run

SHOWN = {
    *("model", "fingerprint", "window", "original_length", "task", "task_version", "variant", "length", "start"),
    *("depth", "distance", "metric", "value", "low", "high", "interval", "n", "tokens", "seed", "beyond_window"),
    *("bos", "chat", "answer_tokens", "stride", "span"),
}
"""Columns of rows that the page gets."""


def series(runs: Sequence[Run], files: Sequence[Rows]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Gather the rows of runs and files by model.

    Args:
        runs: Runs, each with an original and an extended model.
        files: Files of rows of any models.

    Returns:
        (series, rows) as plain values. A series has a `base`, the series that its changes are counted from: the
        original model of its run or, for rows without a run, the first of all. An original model that several runs
        measured alike is one series; so is a model in several files.
    """
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    rows: dict[tuple[Any, ...], Row] = {}
    for owner, name, row in [*_of_runs(runs), *_of_files(files)]:
        key = (owner, row.model, row.fingerprint)
        entry = {"name": name, "model": row.model, "run": owner, "window": row.window, "scaling": row.scaling}
        entries.setdefault(key, {"id": len(entries), **entry})
        rows[(key, *row.key)] = row
    measured: dict[int, list[Row]] = {entry["id"]: [] for entry in entries.values()}
    for (key, *_), row in rows.items():
        measured[entries[key]["id"]].append(row)
    for entry in entries.values():
        entry["base"] = _base(entry, list(entries.values()))
    changes = {entry["id"]: _changes(measured, entry) for entry in entries.values()}
    shown = [
        {
            "series": entries[key]["id"],
            **row.model_dump(include=SHOWN),
            "change": changes[entries[key]["id"]].get(row.key),
        }
        for (key, *_), row in rows.items()
    ]
    return list(entries.values()), shown


def _of_runs(runs: Sequence[Run]) -> list[tuple[int | None, str, Row]]:
    """(run, name, row) of every row; an original that several runs measured alike belongs to none of them."""
    named: list[tuple[int | None, str, Row]] = []
    originals: dict[tuple[Any, ...], tuple[float, int]] = {}  # key → (value, n), of the shared series
    for number, run in enumerate(runs):
        latest = {row.model: row.fingerprint for row in run.results}
        first = {row.key: (row.value, row.n) for row in run.results if row.model == "original"}
        alike = all(originals.get(key, measured) == measured for key, measured in first.items())
        originals |= first if alike else {}
        for row in run.results:
            owner = None if row.model == "original" and alike else number
            name = row.model if row.fingerprint == latest[row.model] else f"{row.model} (earlier {row.fingerprint[:6]})"
            if len(runs) > 1 and owner is not None:
                name = run.name if name == "extended" else f"{run.name} · {name}"
            named.append((owner, name, row))
    return named


def _of_files(files: Sequence[Rows]) -> list[tuple[str, str, Row]]:
    """("rows", name, row) of every row; models of one name are told apart by their fingerprint."""
    rows = [row for file in files for row in file.results]
    labels = [label for label, _ in dict.fromkeys((row.model, row.fingerprint) for row in rows)]
    return [
        ("rows", row.model if labels.count(row.model) == 1 else f"{row.model} {row.fingerprint[:6]}", row)
        for row in rows
    ]


def _base(entry: dict[str, Any], entries: list[dict[str, Any]]) -> int | None:
    """The series that `entry` is compared with; None for what others are compared with."""
    if entry["model"] == "original" and entry["run"] != "rows":
        return None
    runs = [other for other in entries if other["model"] == "original" and other["run"] in (entry["run"], None)]
    same = [other for other in runs if other["run"] == entry["run"]]
    base: int = next(iter([*same, *runs, *entries]))["id"]
    return base if base != entry["id"] else None


def _changes(measured: dict[int, list[Row]], entry: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The paired change of each row by its key: fields of `Change`, or {"other": True} for other prompts."""
    if entry["base"] is None:
        return {}
    first, later = measured[entry["base"]], measured[entry["id"]]
    changes: dict[tuple[Any, ...], dict[str, Any]] = {}
    for before, after in unpaired(first, later):
        changes[after.key] = {"other": True, "before": before.value}
    for before, after in pairs(first, later):
        paired = change(before, after)
        changes[after.key] = {"before": before.value, **(paired._asdict() if paired else {})}
    return changes
