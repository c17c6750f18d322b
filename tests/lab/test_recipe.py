"""The search for a recipe: its candidates, its ranks, and a log that an interrupted search goes on from."""

import json
import math
from pathlib import Path

import pytest

from lab import recipe
from lab.__main__ import main
from lab.bench import Bench, Settings
from lab.findings import Mean
from lab.recipe import loss_change, ranks, rungs
from lab.recipe_space import (
    ATTENTION,
    BASELINES,
    SHARPEN,
    SPACE,
    Candidate,
    applicable,
    baselines,
    budgeted,
    candidates,
)
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import Row


def test_candidates_are_distinct_and_their_tokens_equal(tmp_path: Path) -> None:
    drawn = candidates(12, seed=0)
    assert len({c.name for c in drawn}) == len({c.described for c in drawn}) == 12 + len(baselines())
    bench = Bench(tmp_path, quick=False, seeds=1)
    for candidate in drawn:
        settings = budgeted(candidate.settings, 60, 16)
        length = settings.get("training.train_length", 256)
        assert settings["training.batch_size"] * length == 8 * 256
        assert set(candidate.settings) <= {*SPACE, "positions.text"}
        assert settings["target_length"] == 4096
        assert bench.config(settings, 0).training.steps == 60  # every setting exists
    assert candidates(12, seed=0) == drawn


def test_every_value_of_a_setting_is_drawn_as_often() -> None:
    """15 draws: each of five samplers three times, each of three learning rates five times."""
    drawn = [c.settings for c in candidates(15, seed=1) if not c.baseline]
    for key, times in (("positions.sampler", 3), ("training.learning_rate", 5), ("training.distill", 5)):
        assert [[s[key] for s in drawn].count(value) for value in SPACE[key]] == [times] * len(SPACE[key])


def test_a_draw_has_no_setting_that_its_sampler_or_scaling_does_not_use() -> None:
    values = {key: of[-1] for key, of in SPACE.items()}
    linear = applicable({**values, "positions.sampler": "cream", "scaling.method": "linear"}, 16)
    assert not {"positions.chunks", ATTENTION, SHARPEN} & set(linear)
    assert linear["positions.text"] == "contiguous"
    # YaRN's own factor at 16 windows is 0.1 · ln 16 + 1 = 1.277, 1.1 times that 1.40
    yarn = applicable({**values, "positions.sampler": "pose", "scaling.method": "yarn"}, 16)
    assert (yarn["positions.chunks"], yarn[ATTENTION]) == (SPACE["positions.chunks"][-1], 1.4)
    assert ATTENTION not in applicable({**values, ATTENTION: 1.0, "scaling.method": "yarn"}, 16)


def test_the_packaged_recipe_is_a_baseline_at_its_own_factor() -> None:
    names = [candidate.name for candidate in baselines()]
    assert names == [*BASELINES, "the packaged recipe"]
    packaged = baselines()[-1].settings
    assert (packaged["positions.sampler"], packaged["scaling.method"]) == ("pose", "critical")
    assert [candidate.name for candidate in baselines(4)] == list(BASELINES)


def test_ranks_count_every_measure_alike() -> None:
    """The first is best in perplexity and last in share, the second the other way round; the third is between twice."""
    figures = [
        [Mean(10.0, None, 1, perplexity=True), Mean(0.1, None, 1)],
        [Mean(30.0, None, 1, perplexity=True), Mean(0.9, None, 1)],
        [Mean(20.0, None, 1, perplexity=True), Mean(0.9, None, 1)],
    ]
    assert ranks(figures) == [2.0, 2.25, 1.75]
    assert ranks([[Mean(0.02, None, 1, change=True)], [Mean(-0.01, None, 1, change=True)]]) == [2.0, 1.0]


def test_a_change_of_loss_is_relative_to_the_originals() -> None:
    """Perplexities e² before, e^2.02 and e^2.06 after: losses 1 % and 3 % higher."""
    known = {"model": "m", "window": 256, "original_length": 256, "task": "perplexity", "n": 4, "length": 256}
    before, *after = (
        Row.model_validate({**known, "metric": "perplexity", "value": math.exp(loss)}) for loss in (2.0, 2.02, 2.06)
    )
    change = loss_change(before, after)
    assert change.value == pytest.approx(0.02)
    assert change.lower_is_better
    assert loss_change(before, after[:1]).text() == "+1.0 %"


def test_rungs_ask_more_as_they_go_on() -> None:
    plan = rungs([60, 180, 540], [1, 1, 3], 16)
    assert [(rung.steps, rung.seeds, rung.effort) for rung in plan] == [(60, 1, 1), (180, 1, 3), (540, 3, 4)]
    assert [rung.seeds for rung in rungs([60, 180], [2], 16)] == [2, 2]
    assert {rung.effort for rung in rungs([60, 180], [1], 4, quick=True)} == {1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rungs", "180,60"], "--rungs 180,60: expected ascending numbers"),
        (["--rungs", "60,x"], "--rungs 60,x: expected whole numbers"),
        (
            ["--rungs", "60,180", "--seeds", "1,1,3"],
            "--seeds 1,1,3: expected a number from 1, or one for each of the 2",
        ),
        (["--seeds", "0"], "--seeds 0: expected a number from 1"),
        (["--factor", "2"], "--factor 2: expected 4 or more"),
        (["--factor", "0"], "--factor 0: expected 4 or more"),
        (["--candidates", "0"], "--candidates 0: expected 1 to 1,000"),
        (["--candidates", "12000"], "--candidates 12000: expected 1 to 1,000"),
        (["--rungs", "60,2000000"], "expected ascending numbers of steps up to 100,000"),
        (["--rungs", ""], "--rungs : expected whole numbers"),
    ],
)
def test_a_plan_that_is_none_is_refused_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["recipe", *options, "--out", str(out), "--runs", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_an_interrupted_rung_goes_on_after_the_last_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each trial is in the log before the next one begins, and is not measured again."""
    asked: list[Settings] = []

    def interrupted(bench: Bench, rung: recipe.Rung, settings: Settings) -> tuple[list[Mean], dict[str, float]]:
        if len(asked) == 3:
            raise KeyboardInterrupt
        asked.append(settings)
        share = len(asked) / 10
        means = [Mean(share, None, rung.seeds)] * len(recipe.MEASURES)
        return means, {"training": 2.0, "evaluation": 1.0}

    bench, plan = Bench(tmp_path / "runs", quick=False, seeds=1), rungs([3, 6], [1], 16)
    monkeypatch.setattr(recipe, "measured", interrupted)
    with pytest.raises(KeyboardInterrupt):
        recipe.search(bench, tmp_path, plan, count=4)
    lines = [json.loads(line) for line in (tmp_path / "recipe.jsonl").read_text().splitlines()]
    assert [line["settings"] for line in lines] == asked
    assert {line["steps"] for line in lines} == {3}
    asked[:] = [{}] * 10  # from here on no interruption
    text = recipe.search(bench, tmp_path, plan, count=4)
    of_first_rung = [settings for settings in asked[10:] if settings["training.steps"] == 3]
    assert len(of_first_rung) == 4 + len(baselines()) - 3
    assert (tmp_path / "recipe.txt").read_text() == text + "\n"
    assert "PoSE, YaRN (baseline)" in text
    assert "Rung of 6 steps, 16×, 1 seed: 5 candidates" in text  # two of four drawn ones, and the baselines
    before = len(asked)
    assert recipe.search(bench, tmp_path, plan, count=4) == text
    assert len(asked) == before


def test_other_seeds_or_prompts_are_another_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "measured", lambda *_: ([Mean(0.5, None, 1)] * len(recipe.MEASURES), {}))
    candidate = Candidate("plain PoSE", {"positions.sampler": "pose"})
    plans = (rungs([60], [1], 16), rungs([60], [2], 16), rungs([60], [1], 8), rungs([60, 180], [1], 16))
    for plan in plans:  # the last one's first rung is that of the first
        seeds = plan[0].seeds
        bench = Bench(tmp_path, quick=False, seeds=seeds)
        recipe.Log(tmp_path / "recipe.jsonl").trial(bench, plan[0], candidate)
        recipe.Log(tmp_path / "recipe.jsonl").trial(bench, plan[0], candidate)
    assert len((tmp_path / "recipe.jsonl").read_text().splitlines()) == 3


def test_numbers_with_commas() -> None:
    assert recipe.numbers("60,180", "--rungs") == [60, 180]
    with pytest.raises(SkipwiseError, match="--rungs 60,,: expected whole numbers"):
        recipe.numbers("60,,", "--rungs")


@pytest.mark.slow
def test_the_search_for_a_recipe_halves(tmp_path: Path) -> None:
    arguments = ["recipe", "--quick", "--candidates", "2", "--rungs", "3,6"]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--runs", str(tmp_path)]) == 0
    trials = [json.loads(line) for line in (tmp_path / "out" / "recipe_quick.jsonl").read_text().splitlines()]
    assert [trial["steps"] for trial in trials].count(3) == 2 + len(BASELINES)
    assert {trial["name"] for trial in trials if trial["steps"] == 6} >= set(BASELINES)
    for trial in trials:
        assert set(trial["figures"]) == set(recipe.MEASURES)
        assert trial["seconds"]["training"] > 0
