"""Rows of all tasks as tables: values by length, models side by side, and the change from model to model."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from skipwise.evals.paired_change import Change, change, pairs, unpaired
from skipwise.evals.rows import Row
from skipwise.evals.served_change import finding, partner
from skipwise.utils.text import escape, length_text, value_text

BEYOND = "beyond the window that the model is configured for"


def change_text(paired: Change, row: Row) -> str:
    """`x0.93 [0.91, 0.95] better` for a perplexity, else `+12.5 [+3.1, +21.0] points better`.

    An undecided change names the smallest one that would have shown. A perplexity over several documents adds the
    change for these texts alone.
    """
    verdict = f"{paired.few} decides nothing" if paired.few else paired.verdict
    if paired.verdict == "undecided" and not paired.few:
        verdict += f", {detectable_text(paired, row.metric)}"
    if row.metric == "perplexity":
        same = paired.same_texts
        here = f"; these texts [{same.low:.3f}, {same.high:.3f}] {same.verdict}" if same else ""
        return f"x{paired.value:.3f} [{paired.low:.3f}, {paired.high:.3f}] {verdict}{here}"
    value, low, high = (f"{100 * share:+.1f}" for share in (paired.value, paired.low, paired.high))
    return f"{value} [{low}, {high}] points {verdict}"


def detectable_text(paired: Change, metric: str) -> str:
    """`x0.62 or x1.62 would show` or `25 points would show`: the smallest change that shows four times in five."""
    if paired.detectable is None or math.isinf(paired.detectable):
        return "too few to show any change"
    if metric == "perplexity":
        return f"x{1 / paired.detectable:.3g} or x{paired.detectable:.3g} would show"
    return f"{100 * paired.detectable:.3g} points would show"


def summary_table(rows: Sequence[Row]) -> str:
    """Values over all depths by length as text, models side by side, one table a task.

    Args:
        rows: Rows of any models and tasks. Of several rows of one model for one place the last one counts.

    Returns:
        The tables. Each value has its interval and n; one beyond the window of its model has a `*`.
    """
    parts = [f"{part.title}\n{_text(part)}" for part in _by_task(rows)]
    notes = [f"* {BEYOND}"] if any(row.beyond_window for row in rows) else []
    return "\n\n".join([*parts, *notes, *_cut(rows)])


def _cut(rows: Sequence[Row]) -> list[str]:
    """The note on prompts that a server did not read whole, if there are any."""
    places = [
        f"{row.cut:,} of {row.n:,} of {row.task} at {_length(row)} by {row.model}"
        for row in rows
        if row.cut and row.depth is None
    ]
    return [f"cut by the server, and counted as wrong: {'; '.join(places)}"] if places else []


def markdown_tables(rows: Sequence[Row]) -> str:
    """`summary_table` as Markdown. Names are escaped, so that no model's or benchmark's name becomes markup."""
    parts = []
    for part in _by_task(rows, "{value}{ends}, n = {n}"):
        head, *lines = part.lines
        rules = ["---"] * (part.left + 1) + ["---:"] * (len(head) - part.left - 1)
        shown = [[*map(escape, line[: part.left]), *map(str.strip, line[part.left :])] for line in lines]
        grid = [[escape(name) for name in head], rules, *shown]
        parts.append("\n".join([f"{escape(part.title)}:", "", *(f"| {' | '.join(line)} |" for line in grid)]))
    return "\n\n".join([*parts, *([f"\\* {BEYOND}"] if any(row.beyond_window for row in rows) else [])])


def change_table(rows: Sequence[Row]) -> str:
    """The change of every later model against the first one over all depths, with paired intervals.

    Only what was measured on the same prompts or texts is compared; what was not is marked. A served model that
    `served_table` compares with itself in process is left out.

    Args:
        rows: Rows of any models and tasks.

    Returns:
        The table, empty for rows of one model.
    """
    partners = served_partners(rows)
    models = [model for model in _models(rows) if model not in partners]
    if len(models) < 2:
        return ""
    whole = [row for row in rows if row.depth is None]
    changes = _changes(whole, models[0], models[1:])
    if not changes:
        return "nothing was measured alike for two models, so there is no change to show"
    apart = any(text == "other prompts" for _, cells in changes.values() for text in cells.values())
    note = "; other prompts: the tokens differ (another tokenizer or text), so nothing is paired" if apart else ""
    rows_shown = [row for row, _ in changes.values()]
    texts = any(row.metric == "perplexity" and row.n > 1 for row in rows_shown)
    note += "; these texts: the interval for the documents read, the other one is for texts like them" if texts else ""
    return _change_text(f"change against {models[0][0]} [95%], paired over the same prompts or texts{note}", changes)


def served_partners(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[str, str]]:
    """For each served model that has one, the model in process that read the same prompts."""
    models = {model: [row for row in rows if _model(row) == model] for model in _models(rows)}
    partners = {}
    for model, measured in models.items():
        if measured[0].served and (other := partner(measured, models)) is not None:
            partners[model] = other
    return partners


def served_table(rows: Sequence[Row]) -> str:
    """Every served model against the same model in process: what the deployment changes.

    Args:
        rows: Rows of any models and tasks.

    Returns:
        For each a sentence and a table; empty without a served model that has a partner in process.
    """
    parts = []
    for model, other in served_partners(rows).items():
        local, served = ([row for row in rows if _model(row) == one] for one in (other, model))
        whole = [row for row in rows if row.depth is None]
        changes = _changes(whole, other, [model])
        title = f"{finding(local, served)}\nserved against in process [95%], paired over the same prompts or texts"
        parts.append(_change_text(title, changes))
    return "\n\n".join(parts)


_Changes = dict[tuple[Any, ...], tuple[Row, dict[tuple[str, str], str]]]
"""By place: a row there, and the text of each model's change."""


def _changes(rows: Sequence[Row], base: tuple[str, str], models: Sequence[tuple[str, str]]) -> _Changes:
    """The changes of `models` against `base`, as far as rows measure the same."""
    first = [row for row in rows if _model(row) == base]
    changes: _Changes = {}
    for model in models:
        later = [row for row in rows if _model(row) == model]
        for before, after in pairs(first, later):
            paired = change(before, after)
            text = change_text(paired, after) if paired else _plain(before, after)
            changes.setdefault(after.place, (after, {}))[1][model] = text
        for _, after in unpaired(first, later):
            changes.setdefault(after.place, (after, {}))[1].setdefault(model, "other prompts")
    return changes


def _change_text(title: str, changes: _Changes) -> str:
    models = list(dict.fromkeys(model for _, cells in changes.values() for model in cells))
    rows = [row for row, _ in changes.values()]
    part = _table(title, rows, models, lambda model, row: changes[row.place][1].get(model, "-"))
    return f"{part.title}\n{_text(part)}"


def _plain(before: Row, after: Row) -> str:
    """Both values, for rows that hold nothing to pair."""
    shown = (value_text(row.metric, row.value) for row in (before, after))
    return " -> ".join(shown)


class _Table(NamedTuple):
    title: str
    left: int
    """Columns of text, on the left; the others are numbers."""
    lines: list[list[str]]
    """The first one holds the columns' titles."""


def _by_task(rows: Sequence[Row], shown: str = "{value}{ends} n={n}") -> list[_Table]:
    """One table for each task, of its rows over all depths."""
    tasks: dict[str, list[Row]] = {}
    for row in rows:
        if row.depth is None:
            tasks.setdefault(row.task, []).append(row)
    return [_task_table(part, shown) for part in tasks.values()]


def _task_table(rows: list[Row], shown: str) -> _Table:
    cells = {(_model(row), *row.place): _cell(row, shown) for row in rows}
    places = {row.place: row for row in rows}
    intervals = " or ".join(dict.fromkeys(row.interval for row in rows if row.interval))
    kinds = dict.fromkeys(row.variant or row.metric for row in rows)
    kind = f" ({next(iter(kinds))})" if len(kinds) == 1 else ""
    unit = {"perplexity": "documents", "longppl": "documents", "harness": "questions"}.get(
        rows[0].task.removesuffix("_by_position"), "prompts"
    )
    levels = {_chance(row) for row in rows} - {"-"}
    guessing = f", guessing {levels.pop()}" if len(levels) == 1 else ""
    title = f"{rows[0].task}{kind}{guessing}, value{f' [{intervals}]' if intervals else ''}, n {unit}"
    return _table(title, list(places.values()), _models(rows), lambda m, row: cells.get((m, *row.place), "-"), False)


def _cell(row: Row, shown: str) -> str:
    value, low, high = (value_text(row.metric, end) for end in (row.value, row.low, row.high))
    ends = "" if row.low is None else f" [{low}, {high}]"
    return shown.format(value=value, ends=ends, n=f"{row.n:,}") + ("*" if row.beyond_window else " ")


def _chance(row: Row) -> str:
    """What guessing would score; `-` where there is no such level."""
    return "-" if row.chance is None else value_text(row.metric, row.chance)


def _model(row: Row) -> tuple[str, str]:
    return row.model, row.fingerprint


def _models(rows: Sequence[Row]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(map(_model, rows)))


def _table(
    title: str,
    rows: list[Row],
    models: Sequence[tuple[str, str]],
    cell: Callable[[tuple[str, str], Row], str],
    named: bool = True,
) -> _Table:
    """A line a place, in the order of tasks and variants and then by length; a column a model.

    Columns in which all lines are alike are left out; the task's stays where it is `named`.
    """
    order = {kind: i for i, kind in enumerate(dict.fromkeys(row.place[:3] for row in rows))}
    rows = sorted(rows, key=lambda row: (order[row.place[:3]], row.place[3:]))
    labels: list[tuple[str, Callable[[Row], str]]] = [
        ("task", lambda row: row.task),
        ("variant", lambda row: row.variant or ""),
        ("metric", lambda row: row.metric),
    ]
    if not named and len({_chance(row) for row in rows} - {"-"}) > 1:
        labels.append(("guessing", _chance))
    several = [label for label in labels if len({label[1](row) for row in rows}) > 1 or (named and label[0] == "task")]
    several.append(("length", _length))
    names = [label for label, _ in models]
    titles = [label if names.count(label) == 1 else f"{label} {fingerprint[:6]}" for label, fingerprint in models]
    lines = [[name for name, _ in several] + titles]
    lines += [[text(row) for _, text in several] + [cell(model, row) for model in models] for row in rows]
    return _Table(title, len(several) - 1, lines)


def _text(table: _Table) -> str:
    """Columns two blanks apart, text flush left and numbers flush right."""
    widths = [max(len(line[column]) for line in table.lines) for column in range(len(table.lines[0]))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < table.left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table.lines
    )


def _length(row: Row) -> str:
    """`8k`, or `4k-8k` for the tokens between two lengths."""
    if row.length is None:
        return "-"
    return f"{length_text(row.start)}-{length_text(row.length)}" if row.start else length_text(row.length)
