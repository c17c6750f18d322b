"""Which models a report compares: one series a model, its rows, and the change of each row against its base."""

from collections.abc import Sequence
from typing import Any

from skipwise.evals.paired_change import Change, unpaired
from skipwise.evals.rows import Row
from skipwise.evals.served_change import partner
from skipwise.report.comparisons import comparisons, counted
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
        original model of its run or, for rows without a run, the first of all; for a served model, the same model in
        process. An original model that several runs measured alike is one series; so is a model in several files.
    """
    entries: dict[tuple[Any, ...], dict[str, Any]] = {}
    rows: dict[tuple[Any, ...], Row] = {}
    for owner, name, row in [*_of_runs(runs), *_of_files(files)]:
        key = (owner, row.model, row.fingerprint)
        entry: dict[str, Any] = {"name": name, "model": row.model, "run": owner, "window": row.window}
        entry |= {"original_length": row.original_length, "fingerprint": row.fingerprint, "scaling": row.scaling}
        entry |= {"served": row.served}
        entries.setdefault(key, {"id": len(entries), **entry})
        rows[(key, *row.key)] = row
    measured: dict[int, list[Row]] = {entry["id"]: [] for entry in entries.values()}
    for (key, *_), row in rows.items():
        measured[entries[key]["id"]].append(row)
    for one in entries.values():
        local = partner(measured[one["id"]], measured) if one["served"] else None
        one["base"] = _base(one, list(entries.values())) if local is None else local
    changes = {one["id"]: _changes(measured, one) for one in entries.values()}
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
    """("rows", name, row) of every row."""
    rows = [row for file in files for row in file.results]
    names = _distinct_names(list(dict.fromkeys((row.model, row.path, row.fingerprint) for row in rows)))
    return [("rows", names[row.model, row.path, row.fingerprint], row) for row in rows]


def _distinct_names(models: list[tuple[str, str, str]]) -> dict[tuple[str, str, str], str]:
    """A name for each (label, path, fingerprint).

    It is the label; the end of the path where labels are alike or say no more than `model`; and the fingerprint where
    that does not tell them apart either.
    """
    labels = [label for label, _, _ in {(label, "", fingerprint): 0 for label, _, fingerprint in models}]
    names = {}
    for model in models:
        label, path, _ = model
        parts = path.replace("\\", "/").rstrip("/").split("/")
        vague = label == "model" or (labels.count(label) > 1 and len(parts) > 1)
        names[model] = "/".join(parts[-2:]) if vague and len(parts) > 1 else label
    fingerprints = {(name, model[2]) for model, name in names.items()}
    alike = [name for name, _ in fingerprints]
    return {m: name if alike.count(name) == 1 else f"{name} {m[2][:6]}" for m, name in names.items()}


def _base(entry: dict[str, Any], entries: list[dict[str, Any]]) -> int | None:
    """The series that `entry` is compared with; None for what others are compared with."""
    if entry["model"] == "original" and entry["run"] != "rows":
        return None
    runs = [other for other in entries if other["model"] == "original" and other["run"] in (entry["run"], None)]
    same = [other for other in runs if other["run"] == entry["run"]]
    local = [other for other in entries if not other["served"]]
    base: int = next(iter([*same, *runs, *local, *entries]))["id"]
    return base if base != entry["id"] else None


def _changes(measured: dict[int, list[Row]], entry: dict[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """The paired change of each row by its key: fields of `Change`, or {"other": True} for other prompts.

    `repeated` says that another row counts the same measurement.
    """
    if entry["base"] is None:
        return {}
    first, later = measured[entry["base"]], measured[entry["id"]]
    changes: dict[tuple[Any, ...], dict[str, Any]] = {}
    for before, after in unpaired(first, later):
        changes[after.key] = {"other": True, "before": before.value}
    known = comparisons(first, later)
    once = {c.after.key for c in counted(known)}
    for before, after, paired in known:
        fields = _fields(paired) if paired else {}
        repeated = {} if after.key in once or after.depth is not None or not paired else {"repeated": True}
        changes[after.key] = {"before": before.value, **fields, **repeated}
    return changes


def _fields(paired: Change) -> dict[str, Any]:
    """The fields of a change that are not empty, as plain values."""
    same = {"same_texts": paired.same_texts._asdict()} if paired.same_texts else {}
    return {name: value for name, value in (paired._asdict() | same).items() if value is not None}
