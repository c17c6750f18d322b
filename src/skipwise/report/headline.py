"""The headline of a page: the result in one sentence, or what was measured."""

import statistics
from collections.abc import Sequence
from typing import Any

from skipwise.evals.rows import Row
from skipwise.evals.served_change import finding
from skipwise.report.comparisons import Comparison, compare, comparisons, counted, inside, verdict_counts
from skipwise.report.run_files import Rows, Run
from skipwise.report.three_questions import cost_clause
from skipwise.report.wording import change_clause, measure_name
from skipwise.utils.text import length_text, short_value_text


def headline(runs: list[Run], recipes: Sequence[Sequence[int]] = ()) -> str:
    """The result in one sentence: the change at the target, and the perplexity inside the old window beside it.

    Args:
        runs: One or more.
        recipes: Places of runs that differ in their seed alone and are shown as one.
    """
    if len(runs) > 1:
        return _comparison(runs, recipes)
    run = runs[0]
    window = f"{length_text(run.original_length)} to {length_text(run.config.target_length)} tokens"
    if run.original_length is None:
        window = f"an unknown length to {length_text(run.config.target_length)} tokens"
    parts = [_at_target(run, task) for task in ("perplexity", "passkey") if run.at_target(task)]
    if parts:
        inside_clause = cost_clause(run)
        cost = f"; inside the old window, {inside_clause}" if inside_clause else ""
        return f"Window extended from {window}: {' and '.join(parts)}{cost}."
    tasks = list(dict.fromkeys(row.task for row in run.latest("extended")))
    if tasks:
        return f"Window extended from {window}; measured: {', '.join(task.replace('_', ' ') for task in tasks)}."
    if not run.finished:
        return f"Extending the window from {window}: step {run.steps_done:,} of {run.config.training.steps:,}."
    return f"Window extended from {window}; not evaluated{' yet' if run.config.evaluation.tasks else ''}."


def _at_target(run: Run, task: str) -> str:
    """`perplexity at 32k fell from 612 to 31.0`."""
    pair = run.at_target(task)
    assert pair
    before, after = pair
    if before is None:
        return f"{measure_name(after)} at {length_text(after.length)} is {short_value_text(after.metric, after.value)}"
    return change_clause(compare(before, after), interval=False)


def _comparison(runs: list[Run], recipes: Sequence[Sequence[int]]) -> str:
    """The run of lowest perplexity at the longest length at which all runs were measured on the same texts.

    The seeds of a recipe count as one, by their geometric mean: the luckiest seed of many is no better recipe.
    """
    together = {place for places in recipes for place in places}
    groups = [[place] for place in range(len(runs)) if place not in together] + [list(places) for places in recipes]
    tables = [run.totals("perplexity", "extended") for run in runs]
    shared = set.intersection(*(set(table) for table in tables))
    if not shared:
        return f"{len(runs)} runs, with no length at which the perplexity of all was measured."
    comparable = [length for length in shared if len({table[length].data for table in tables}) == 1]
    if not comparable:
        return f"{len(runs)} runs, whose perplexities are of different texts and do not compare."
    length = max(comparable)
    names = [runs[of[0]].name + (f" ({len(of)} seeds)" if len(of) > 1 else "") for of in groups]
    values = [statistics.geometric_mean(tables[place][length].value for place in of) for of in groups]
    tokens, best = length_text(length), min(range(len(groups)), key=values.__getitem__)
    value = short_value_text("perplexity", values[best])
    if len(groups) == 1:
        return f"{names[0]}: perplexity at {tokens} tokens is {value}, the mean over seeds."
    of = f"{len(runs)} runs" if not recipes else f"{len(groups)} recipes"
    return f"Of {of}, {names[best]} has the lowest perplexity at {tokens} tokens: {value}."


def rows_headline(series: list[dict[str, Any]], results: list[dict[str, Any]], files: Sequence[Rows]) -> str:
    """The result of comparing models without runs, or what was measured."""
    tasks = list(dict.fromkeys(row["task"] for row in results))
    over = f"{len(tasks)} tasks" if len(tasks) > 1 else tasks[0]
    if len(series) == 1:
        return f"{series[0]['name']} on {over}."
    rows = [row for file in files for row in file.results]
    if deployments := _deployments(series, rows):
        return f"{'; '.join(deployments)}."
    first, later = ([row for row in rows if (row.model, row.fingerprint) == _model(s)] for s in series[:2])
    known = counted(comparisons(first, later))
    if len(series) > 2 or not any(verdict_counts(known).values()):
        return f"{len(series)} models compared on {over}."
    window = first[0].window
    parts = {
        f"at and below {length_text(window)} tokens": [c for c in known if inside(c.after, window)],
        "beyond": [c for c in known if not inside(c.after, window)],
    }
    shown = [f"{where} {_counts(part)}" for where, part in parts.items() if any(verdict_counts(part).values())]
    return f"{series[1]['name']} against {series[0]['name']} on {over}: {'; '.join(shown)}."


def _deployments(series: list[dict[str, Any]], rows: Sequence[Row]) -> list[str]:
    """What each served model shows against itself in process."""
    models = {one["id"]: [row for row in rows if (row.model, row.fingerprint) == _model(one)] for one in series}
    return [
        finding(models[one["base"]], models[one["id"]])
        for one in series
        if one["served"] and one["base"] is not None and not models[one["base"]][0].served
    ]


def _model(series: dict[str, Any]) -> tuple[str, str]:
    return series["model"], series["fingerprint"]


def _counts(known: Sequence[Comparison]) -> str:
    counts = verdict_counts(known)
    return f"better in {counts['better']}, worse in {counts['worse']}, undecided in {counts['undecided']}"
