"""Rows of all tasks flow in, tables of text flow out: values by length, and the change from model to model."""

from collections.abc import Callable, Sequence
from typing import Any

from skipwise.evals.paired_change import Change, change, pairs, unpaired
from skipwise.evals.rows import Row
from skipwise.utils.text import length_text, value_text


def change_text(found: Change, metric: str) -> str:
    """`x0.93 [0.91, 0.95] better` for a perplexity, else `+12.5 [+3.1, +21.0] points better`."""
    if metric == "perplexity":
        return f"x{found.value:.3f} [{found.low:.3f}, {found.high:.3f}] {found.verdict}"
    value, low, high = (f"{100 * share:+.1f}" for share in (found.value, found.low, found.high))
    return f"{value} [{low}, {high}] points {found.verdict}"


def summary_table(rows: Sequence[Row]) -> str:
    """Values over all depths by length as text, models side by side, one part a task.

    Each value with its interval and n; one beyond the window that its model is configured for has a `*`. Where a model
    has several rows for one place, the last one counts.
    """
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        if row.depth is None:
            tasks.setdefault(row.task, []).append(row)
    note = "* beyond the window that the model is configured for"
    return "\n\n".join([*map(_task_table, tasks.values()), *([note] if any(row.beyond_window for row in rows) else [])])


def change_table(rows: Sequence[Row]) -> str:
    """The change of every later model against the first one over all depths, with paired intervals; "" for one model.

    Only what was measured on the same prompts or texts is compared; what was not is named as such.
    """
    models = _models(rows)
    if len(models) < 2:
        return ""
    whole = [row for row in rows if row.depth is None]
    first = [row for row in whole if _model(row) == models[0]]
    places: dict[tuple[Any, ...], Row] = {}
    cells: dict[tuple[Any, ...], str] = {}
    apart = False
    for model in models[1:]:
        later = [row for row in whole if _model(row) == model]
        for before, after in pairs(first, later):
            places.setdefault(after.place, after)
            found = change(before, after)
            cells[(model, *after.place)] = change_text(found, after.metric) if found else _plain(before, after)
        for _, after in unpaired(first, later):
            places.setdefault(after.place, after)
            cells.setdefault((model, *after.place), "other prompts")
            apart = True
    if not places:
        return "nothing was measured alike for two models, so no change is told"
    lines = _grid(list(places.values()), models[1:], lambda model, row: cells.get((model, *row.place), "-"))
    told = "; other prompts: the tokens differ (another tokenizer or text), so nothing is paired" if apart else ""
    return "\n".join([f"change against {models[0][0]} [95%], paired over the same prompts or texts{told}", *lines])


def _plain(before: Row, after: Row) -> str:
    """Both values, for rows that hold nothing to pair."""
    shown = (value_text(row.metric, row.value) for row in (before, after))
    return " -> ".join(shown)


def _task_table(rows: list[Row]) -> str:
    cells = {(_model(row), *row.place): _cell(row) for row in rows}
    places = {row.place: row for row in rows}
    lines = _grid(
        list(places.values()), _models(rows), lambda model, row: cells.get((model, *row.place), "-"), named=False
    )
    intervals = " or ".join(dict.fromkeys(row.interval for row in rows if row.interval))
    kinds = dict.fromkeys(row.variant or row.metric for row in rows)
    kind = f" ({next(iter(kinds))})" if len(kinds) == 1 else ""
    unit = "documents" if rows[0].metric == "perplexity" else "prompts"
    return "\n".join([f"{rows[0].task}{kind}, value [{intervals}], n {unit}", *lines])


def _cell(row: Row) -> str:
    value, low, high = (value_text(row.metric, end) for end in (row.value, row.low, row.high))
    ends = "" if row.low is None else f" [{low}, {high}]"
    return f"{value}{ends} n={row.n}{'*' if row.beyond_window else ' '}"


def _model(row: Row) -> tuple[str, str]:
    return row.model, row.fingerprint


def _models(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(map(_model, rows)))


def _grid(
    rows: list[Row], models: Sequence[tuple[str, str]], cell: Callable[[tuple[str, str], Row], str], named: bool = True
) -> list[str]:
    """Lines of a table: a line a place, in the order of tasks and variants and then by length; a column a model.

    Columns that tell nothing (one variant, no lengths) are left out; the task's only stands where it is `named`.
    """
    order = {kind: i for i, kind in enumerate(dict.fromkeys(row.place[:3] for row in rows))}
    rows = sorted(rows, key=lambda row: (order[row.place[:3]], row.place[3:]))
    labels: list[tuple[str, Callable[[Row], str]]] = [
        ("task", lambda row: row.task),
        ("variant", lambda row: row.variant or ""),
        ("metric", lambda row: row.metric),
    ]
    several = [
        (title, text) for title, text in labels if len({text(row) for row in rows}) > 1 or (named and title == "task")
    ]
    several.append(("length", _length))
    names = [label for label, _ in models]
    titles = [label if names.count(label) == 1 else f"{label} {fingerprint[:6]}" for label, fingerprint in models]
    lines = [[title for title, _ in several] + titles]
    lines += [[text(row) for _, text in several] + [cell(model, row) for model in models] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    left = len(several) - 1
    return [
        "  ".join(
            text.ljust(w) if i < left else text.rjust(w) for i, (text, w) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]


def _length(row: Row) -> str:
    """`8k`, or `4k-8k` for the tokens between two lengths."""
    if row.length is None:
        return "-"
    return f"{length_text(row.start)}-{length_text(row.length)}" if row.start else length_text(row.length)
