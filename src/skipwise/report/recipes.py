"""Runs of one recipe with several seeds, as one: mean and spread over the seeds, so that luck is not taken for merit.

Two runs have one recipe if their configurations differ in nothing but `training.seed`, the folder and the cache. What
is shown of a recipe is the mean over its runs with the interval over them, on these very prompts.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from skipwise.errors import SkipwiseError
from skipwise.evals.intervals import over_seeds, ratio_of_sums
from skipwise.report.run_files import Run
from skipwise.utils.text import count_text


def recipes(runs: Sequence[Run]) -> list[list[int]]:
    """The places of the runs of each recipe that several runs have.

    Raises:
        SkipwiseError: No recipe has two runs with different seeds, or one has two with the same.
    """
    same: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        of_it = same.setdefault(_recipe(run), [])
        for other in of_it:
            if runs[other].config.training.seed == run.config.training.seed:
                raise SkipwiseError(
                    f"{runs[other].folder} and {run.folder} have the same settings and the same training.seed "
                    f"{run.config.training.seed}, so they are no two seeds of a recipe; leave one of them out"
                )
        of_it.append(place)
    groups = [places for places in same.values() if len({runs[i].config.training.seed for i in places}) > 1]
    if not groups:
        raise SkipwiseError(
            "--group needs runs of one recipe with different seeds: no two of these runs differ in training.seed alone"
        )
    return groups


def _recipe(run: Run) -> str:
    values = run.config.model_dump(mode="json", exclude={"out": True, "training": {"seed"}, "data": {"cache"}})
    return json.dumps(values, sort_keys=True)


def grouped(
    runs: Sequence[Run], series: list[dict[str, Any]], results: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Make one series of all runs of a recipe.

    Args:
        runs: The runs.
        series: As `series.series` returns them.
        results: The rows of all series, likewise.

    Returns:
        (series, rows) in which the extended models of a recipe are one. A row that one of its runs lacks is left out.

    Raises:
        SkipwiseError: As `recipes`.
    """
    for places in recipes(runs):
        extended = [one for one in series if one["run"] in places and one["name"] == runs[one["run"]].name]
        if len(extended) < 2:
            continue
        first, others = extended[0], {one["id"] for one in extended[1:]}
        members = [[row for row in results if row["series"] == one["id"]] for one in extended]
        shared = _shared_rows(members)
        base = first["base"] if first["base"] not in others else None
        name = f"{first['name']} ({count_text(len(extended), 'seed')})"
        series = [
            {**one, "name": name, "base": base, "members": [other["name"] for other in extended]}
            if one is first
            else one
            for one in series
            if one["id"] not in others
        ]
        dropped = others | {first["id"]}
        results = [*(row for row in results if row["series"] not in dropped), *shared]
    return _renumbered(series, results)


def _renumbered(
    series: list[dict[str, Any]], results: list[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same with ids that count from 0, as the page expects."""
    new = {one["id"]: place for place, one in enumerate(series)}
    kept = [{**one, "id": new[one["id"]], "base": new.get(one["base"])} for one in series]
    return kept, [{**row, "series": new[row["series"]]} for row in results]


def _shared_rows(members: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows that every run has, as means over the runs."""
    places = ("task", "task_version", "variant", "metric", "start", "length", "depth", "distance")
    tables = [{tuple(row[name] for name in places): row for row in rows} for rows in members]
    common = [key for key in tables[0] if all(key in table for table in tables[1:])]
    return [_mean_row([table[key] for table in tables]) for key in common]


def _mean_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One row of a recipe: the mean of its runs' values, and of their changes."""
    logarithmic, most = rows[0]["metric"] == "perplexity", 1.0 if all(row["value"] <= 1 for row in rows) else math.inf
    value, low, high = _over_seeds(rows, logarithmic, (0.0, most))
    over = f"t 95% over {len(rows)} seeds{'' if logarithmic else ', or wider by their prompts'}"
    merged = {**rows[0], "value": value, "low": low, "high": high, "interval": over, "change": None}
    changes = [row["change"] for row in rows]
    if all(change and "verdict" in change for change in changes):
        value, low, high = _over_seeds(changes, logarithmic, (-most, most))
        none = 1.0 if logarithmic else 0.0
        better, worse = (high < none, low > none) if logarithmic else (low > none, high < none)
        verdict = "better" if better else "worse" if worse else "undecided"
        merged["change"] = {"before": changes[0].get("before"), "value": value, "low": low, "high": high}
        merged["change"] |= {"interval": over, "verdict": verdict, "n": len(rows), "seeds": len(rows)}
        merged["change"] |= {"repeated": True} if changes[0].get("repeated") else {}
    elif all(changes):
        merged["change"] = changes[0] if all("other" in change for change in changes) else None
    return merged


def _over_seeds(
    figures: Sequence[dict[str, Any]], logarithmic: bool, limits: tuple[float, float]
) -> tuple[float, float, float]:
    """Mean, low and high over seeds of `value`s that have `low` and `high`; see `intervals.over_seeds`.

    Of perplexities and their ratios the seeds' own intervals are over texts, of which nothing is claimed here.
    """
    values = [one["value"] for one in figures]
    if logarithmic:
        return spread(values, logarithmic)
    ends = [(one["low"], one["high"]) for one in figures]
    known = all(end is not None for each in ends for end in each)
    return over_seeds(values, ends if known else [], limits)


def spread(values: Sequence[float], logarithmic: bool = False) -> tuple[float, float, float]:
    """Mean over seeds and its 95 % interval, Student's t; of logarithms where the values are ratios or perplexities.

    Args:
        values: One a seed, two or more.
        logarithmic: Whether they are positive and multiply.

    Returns:
        (mean, low, high).
    """
    numbers = np.asarray(values, dtype=np.float64)
    numbers = np.log(numbers) if logarithmic else numbers
    mean, half = ratio_of_sums(numbers, np.ones(len(numbers)))
    ends = (mean, mean - half, mean + half)
    return tuple(math.exp(min(end, 700)) for end in ends) if logarithmic else ends  # type: ignore[return-value]
