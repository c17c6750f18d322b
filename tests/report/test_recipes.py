"""Several seeds of one recipe as one row: which runs are one recipe, their mean and its interval, the page."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats

from skipwise.cli import main
from skipwise.evals.intervals import over_seeds
from skipwise.report.recipes import _mean_row, spread
from skipwise.utils.text import short_value_text
from support.sample_run import write_sample_run


def seeded(folder: Path, seed: int, shift: float, **settings: Any) -> Path:
    values = {"training": {"seed": seed, **settings}}
    return write_sample_run(folder, settings=values, shift=shift, seed=seed, paired=True)


def embedded(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    data: dict[str, Any] = json.loads(text)
    return data


def test_the_spread_is_students_t_over_seeds() -> None:
    values = [0.5, 0.6, 0.55]
    half = scipy.stats.t.ppf(0.975, 2) * np.std(values, ddof=1) / np.sqrt(3)
    assert spread(values) == pytest.approx((0.55, 0.55 - half, 0.55 + half), rel=1e-3)
    mean, low, high = spread([20.0, 24.0, 22.0], logarithmic=True)
    assert mean == pytest.approx((20 * 24 * 22) ** (1 / 3))
    assert mean**2 == pytest.approx(low * high)
    assert spread([0.5, 0.5]) == (0.5, 0.5, 0.5)


def test_seeds_of_one_recipe_are_one_row(tmp_path: Path) -> None:
    runs = [seeded(tmp_path / f"seed-{seed}", seed, 0.02 * seed) for seed in range(3)]
    other = seeded(tmp_path / "other", 0, 0.1, learning_rate=1e-3)
    page = tmp_path / "page.html"
    command = ["report", *map(str, [*runs, other]), "--out", str(page)]
    assert main.main(command) == 0
    apart = embedded(page)
    assert main.main([*command, "--group"]) == 0
    data = embedded(page)
    assert [one["name"] for one in data["series"]] == ["original", "seed-0 (3 seeds)", "other"]
    assert [one["id"] for one in data["series"]] == [0, 1, 2]
    assert [one["base"] for one in data["series"]] == [None, 0, 0]

    def at(values: dict[str, Any], name: str) -> dict[str, Any]:
        (place,) = [one["id"] for one in values["series"] if one["name"] == name]
        rows = [row for row in values["results"] if row["series"] == place and row["task"] == "perplexity"]
        return max(rows, key=lambda row: row["length"])

    merged, single = at(data, "seed-0 (3 seeds)"), [at(apart, f"seed-{seed}") for seed in range(3)]
    expected = spread([row["value"] for row in single], logarithmic=True)
    assert (merged["value"], merged["low"], merged["high"]) == pytest.approx(expected)
    assert merged["interval"] == "t 95% over 3 seeds"
    change = spread([row["change"]["value"] for row in single], logarithmic=True)
    assert [merged["change"][name] for name in ("value", "low", "high")] == pytest.approx(change)
    assert (merged["change"]["n"], merged["change"]["seeds"], merged["change"]["verdict"]) == (3, 3, "better")
    assert apart["headline"].startswith("Of 4 runs, seed-0 has the lowest perplexity at 32k tokens")
    mean = short_value_text("perplexity", expected[0])
    assert data["headline"] == f"Of 2 recipes, seed-0 (3 seeds) has the lowest perplexity at 32k tokens: {mean}."
    assert at(data, "other") == {**at(apart, "other"), "series": 2}


def test_seeds_that_agree_do_not_make_their_prompts_certain() -> None:
    """Three seeds that each answer 4 of 5: their prompts allow 28 to 99 %, and no share is above 1."""
    assert over_seeds([0.8] * 3, [(0.28, 0.99)] * 3, (0.0, 1.0)) == pytest.approx((0.8, 0.28, 0.99))
    mean, low, high = over_seeds([0.6, 1.0, 0.8], [(0.6, 0.6), (1.0, 1.0), (0.8, 0.8)], (0.0, 1.0))
    assert (mean, high) == (pytest.approx(0.8), 1.0)
    assert low == pytest.approx(0.8 - 4.3027 * 0.2 / np.sqrt(3), rel=1e-3)
    assert over_seeds([0.6, 1.0, 0.8], [], (0.0, 1.0))[:2] == pytest.approx((mean, low))
    figures = [{"value": 0.8, "low": 0.28, "high": 0.99, "metric": "accuracy", "change": None}] * 3
    assert [_mean_row(figures)[name] for name in ("value", "low", "high")] == pytest.approx([0.8, 0.28, 0.99])
    alike = [{**figure, "metric": "perplexity"} for figure in figures]  # the texts are these very ones
    assert [_mean_row(alike)[name] for name in ("low", "high")] == pytest.approx([0.8, 0.8])


def test_a_copy_of_a_run_is_no_further_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [seeded(tmp_path / f"seed-{seed}", seed, 0.0) for seed in range(2)]
    copy = shutil.copytree(runs[0], tmp_path / "copy")
    assert main.main(["report", *map(str, [*runs, copy]), "--group", "--out", str(tmp_path / "page.html")]) == 2
    assert "the same training.seed 0, so they are no two seeds of a recipe" in capsys.readouterr().err


def test_runs_of_different_recipes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = seeded(tmp_path / "a", 0, 0.0)
    other = seeded(tmp_path / "b", 1, 0.0, learning_rate=1e-3)
    out = tmp_path / "page.html"
    assert main.main(["report", str(first), str(other), "--group", "--out", str(out)]) == 2
    assert "differ in training.seed alone" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()
