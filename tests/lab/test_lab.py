"""The laboratory: figures worked out by hand, and reproductions that run whole."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from lab import tables
from lab.__main__ import main, names, reproduction
from lab.bench import Bench, full_length, pick, variant
from lab.costs import Cost
from lab.findings import Claim, Effect, Mean, alike, at_least, better, effect, holds, mean_over_seeds, sentence
from lab.reproductions import attention_factor, bound, figure3, steps
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import Row


def row(value: float, metric: str = "accuracy", **columns: object) -> Row:
    known = {"model": "m", "window": 256, "original_length": 256, "task": "t", "n": 4, "length": 256}
    return Row.model_validate({**known, "metric": metric, "value": value, **columns})


def test_every_reproduction_says_what_it_is() -> None:
    assert {"bound", "figure2", "figure5", "keyvalue", "samplers", "steps", "table1", "table2"} <= set(names())
    for name in names():
        assert reproduction(name).TITLE
        assert reproduction(name).SOURCE


def test_an_unknown_reproduction_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "bound", "table99"]) == 2
    message = capsys.readouterr()
    assert message.err.startswith("error: no reproduction is called 'table99'")
    assert message.out == ""


def test_the_ratio_of_the_bounds_is_the_papers() -> None:
    """Where B(s) = d the ratio is 2 · 32 · ln 10,000 = 2 · 294.73."""
    assert 32 * math.log(bound.BASE) == pytest.approx(294.73, abs=0.01)
    # At distance 0 every term is 1, so B(0) = 1 + 2 + … + d/2.
    half = bound.DIM // 2
    assert bound.extrapolation_bound(np.array([0.0]))[0] == pytest.approx(half * (half + 1) / 2 / bound.DIM)


def test_a_fitted_curve_goes_through_the_scores_that_it_can_reach() -> None:
    """Without a penalty least squares gives back the coefficients that made the scores."""
    coefficients = np.random.default_rng(1).standard_normal(bound.DIM)
    rows = bound.basis(np.arange(bound.WINDOW).astype(float))

    class Given:
        def standard_normal(self, size: int) -> np.ndarray:
            return rows @ coefficients

    assert rows @ bound.fitted(Given(), 0.0) == pytest.approx(rows @ coefficients, abs=1e-6)


def test_few_or_most_curves_by_the_exact_interval() -> None:
    assert bound.explodes("curves", 20, 20, expected=True).verdict == "yes"
    assert bound.explodes("curves", 0, 20, expected=True).verdict == "no"
    assert bound.explodes("curves", 0, 20, expected=False).verdict == "yes"
    assert bound.explodes("curves", 11, 20, expected=True).verdict == "undecided"


def test_the_best_factor_is_the_vertex_of_a_parabola() -> None:
    """(x - 1.2)² has its vertex at 1.2; documents with vertices at 1.1 and 1.3 leave it open."""
    factors = [1.0, 1.2, 1.4]
    assert attention_factor.vertex(factors, [(x - 1.25) ** 2 for x in factors]) == pytest.approx(1.25)
    assert attention_factor.vertex(factors, [3.0, 2.0, 1.5]) == 1.4  # beyond those tried: the best of them
    documents = [[10 * (x - at) ** 2 for x in factors] for at in (1.1, 1.3)]
    rows = [[row(10.0, "perplexity", sums=list(sums), counts=[1, 1])] for sums in zip(*documents, strict=True)]
    middle, half, over = attention_factor.optimum(factors, rows)
    assert (middle, over) == (pytest.approx(1.2), "2 documents")
    assert attention_factor.follows("rule", 1.2, "4×", (middle, half, over)).verdict == "undecided"
    assert attention_factor.follows("rule", 1.2, "4×", (1.21, 0.02, "3 seeds")).verdict == "yes"
    assert attention_factor.follows("rule", 1.5, "4×", (1.21, 0.02, "3 seeds")).verdict == "no"


def test_a_best_factor_at_the_end_of_those_tried_is_no_surer_than_their_distance() -> None:
    """Both documents are best at 1.0, the lowest: the interval is 0.3 wide to each side, not nothing."""
    factors = [1.0, 1.2, 1.5]
    rows = [[row(10.0, "perplexity", sums=[x, 2 * x], counts=[1, 1])] for x in factors]
    assert attention_factor.optimum(factors, rows)[:2] == (1.0, pytest.approx(0.3))


def test_a_rule_is_judged_by_the_values_of_keys_that_its_factor_finds() -> None:
    """Forty prompts a factor: half of them, all but two, all; and the same at every factor."""

    def of(right: int) -> list[Row]:
        return [row(right / 40, scores=[1.0] * right + [0.0] * (40 - right), n=40)]

    keys = {1.0: of(20), 1.2: of(38), 1.4: of(40)}
    verdicts = [attention_factor.retrieves("rule", value, "4×", keys).verdict for value in keys]
    assert verdicts == ["no", "undecided", "yes"]
    assert attention_factor.best_by_keys(keys) == "1.40"
    same = {1.0: of(40), 1.2: of(40)}
    assert attention_factor.best_by_keys(same) == "1.00, 1.20"
    nothing = attention_factor.retrieves("rule", 1.0, "4×", {1.0: of(0), 1.2: of(0)})
    assert (nothing.verdict, attention_factor.best_by_keys({1.0: of(0), 1.2: of(0)})) == ("undecided", "none")
    assert nothing.evidence == "no factor finds any, 0 % with 1.00, 0 % with 1.20"


def test_a_line_through_the_best_factors_is_tried_on_a_target_that_it_was_not_fitted_to() -> None:
    """0.1·ln(factor) + 1 at three targets misses none; one of 0.2 too much in the middle does."""
    targets = [2, 4, 8]
    line = [0.1 * math.log(factor) + 1 for factor in targets]
    assert attention_factor.fitted(targets, line) == (
        "By perplexity the best factors follow 0.100·ln(factor) + 1.00; fitted to all targets but one, the line misses "
        "that one's by 0.00 at most."
    )
    # without 4 the line through 2 and 8 is right, so 4 is missed by 0.2; without 2 or 8 it is off by 0.4
    assert "by 0.40 at most" in attention_factor.fitted(targets, [line[0], line[1] + 0.2, line[2]])
    assert attention_factor.fitted([4], [1.1]) == "One target fits no line."


def test_times_of_steps_are_compared_by_their_ratio() -> None:
    fast, slow = (Cost(np.array([1.0, 1.1, 0.9, 1.0]) * times, 1) for times in (1, 3))
    seen = figure3.slower(fast, slow)
    assert seen.value == pytest.approx(3)
    assert seen.is_worse == "yes"
    assert figure3.slower(fast, fast).is_worse == "undecided"


def test_a_reached_window_is_decided_by_the_interval_of_k_max() -> None:
    whole, part = row(1024, "k_max", low=1024, high=1024), row(512, "k_max", low=256, high=896)
    open_end = row(512, "k_max", low=256, high=1024)
    assert [steps.reaches("m", [each], 1024, True).verdict for each in (whole, part, open_end)] == [
        "yes", "no", "undecided",
    ]  # fmt: skip
    assert [steps.reaches("m", [each], 1024, False).verdict for each in (whole, part)] == ["no", "yes"]
    assert steps.reaches("m", [whole, part, whole], 1024, True).verdict == "undecided"  # not every seed


def test_means_over_seeds() -> None:
    """Perplexities 8 and 18: geometric mean 12; shares 0.4, 0.5, 0.6: mean 0.5, half 4.303 · 0.1 / √3."""
    mean = mean_over_seeds([row(8.0, "perplexity"), row(18.0, "perplexity")])
    assert mean.value == pytest.approx(12)
    mean = mean_over_seeds([row(0.4), row(0.5), row(0.6)])
    assert mean.value == pytest.approx(0.5)
    assert mean.half == pytest.approx(4.3027 * 0.1 / math.sqrt(3), rel=1e-3)
    assert mean.text() == "50 % (40, 50, 60)"
    assert Mean(0.5, None, 1).text() == "50 %"
    assert Mean(12345.0, None, 1, perplexity=True).text() == "> 1,000"


def test_three_seeds_decide_by_their_differences() -> None:
    first = [row(10.0, "perplexity"), row(12.0, "perplexity"), row(14.0, "perplexity")]
    later = [row(9.0, "perplexity"), row(10.8, "perplexity"), row(12.7, "perplexity")]
    seen = effect(first, later)
    assert seen is not None
    assert seen.value == pytest.approx((0.9 * 0.9 * 12.7 / 14) ** (1 / 3))
    assert better("new", later, "old", first, "code").verdict == "yes"
    assert better("old", first, "new", later, "code").verdict == "no"
    claim = better("new", [later[1], later[2], first[0]], "old", first, "code")
    assert claim.verdict == "undecided"
    # Logarithms of 1.08, 12.7 / 12 and 10 / 14: error 0.1346, and (4.303 + 1.061) · 0.1346 = ln 2.06.
    assert claim.evidence.endswith("over 3 seeds; ×2.06 or its inverse would show")
    # One model stands for itself at every seed.
    original, thrice = (effect([row(8.0, "perplexity")] * n, later) for n in (1, 3))
    assert original is not None
    assert thrice is not None
    assert original == dataclasses.replace(thrice, over="3 seeds against one model")
    shares = effect([row(0.0), row(0.0), row(0.0)], [row(0.0), row(0.9), row(1.0)])
    assert shares is not None
    assert (shares.value, shares.high) == (pytest.approx(1.9 / 3), 1.0)  # no share is above 1


def test_seeds_that_agree_do_not_make_their_prompts_certain() -> None:
    """Three seeds that all answer 40 of 40: the paired interval over forty prompts is 6.6 points wide to each side.

    Bonett and Price add one prompt won and one lost to forty that are alike: 1.96 · √(2 / 42) / √42.
    """
    all_right = [row(1.0, scores=[1.0] * 40, n=40)] * 3
    same = effect(all_right, all_right)
    assert same is not None
    assert (same.low, same.high) == pytest.approx((-0.0660, 0.0660), abs=1e-4)
    assert same.over == "3 seeds, 40 prompts"
    assert alike("a", all_right, "b", all_right, "keys", 0.05).verdict == "undecided"
    assert same.text() == "+0 points [-7, +7] over 3 seeds, 40 prompts; 16 points would show"
    # seeds that spread more than prompts: t over 0, 0.5 and 1
    spread = [
        row(share, scores=[1.0] * right + [0.0] * (40 - right), n=40) for share, right in ((0, 0), (0.5, 20), (1, 40))
    ]
    wide = effect([row(0.0, scores=[0.0] * 40, n=40)] * 3, spread)
    assert wide is not None
    assert (wide.low, wide.high) == (pytest.approx(0.5 - 4.3027 * 0.5 / math.sqrt(3), rel=1e-3), 1.0)


def test_one_seed_decides_by_its_texts_or_prompts() -> None:
    """Blocks of two texts that all lose 0.1 nats: a ratio of exp(-0.1) with a width of nothing."""
    blocks = {"n": 2, "counts": [200, 200], "block_counts": [[100, 100], [100, 100]]}
    losses = [[300.0, 280.0], [200.0, 250.0]]
    before = row(10.0, "perplexity", sums=[580.0, 450.0], block_sums=losses, **blocks)
    after = row(
        9.0, "perplexity", sums=[560.0, 430.0], block_sums=[[x - 10 for x in part] for part in losses], **blocks
    )
    seen = effect([before], [after])
    assert seen is not None
    assert (seen.value, seen.low, seen.high) == pytest.approx((math.exp(-0.1),) * 3)
    assert seen.is_better == "yes"
    prompts = effect([row(0.0, scores=[0.0] * 20, n=20)], [row(1.0, scores=[1.0] * 20, n=20)])
    assert prompts is not None
    assert prompts.is_better == "yes"
    assert prompts.low < 1 == prompts.value
    assert effect([row(0.0, scores=[0.0], n=1)], [row(1.0, scores=[1.0], n=1)]) is None


def test_an_effect_is_within_a_margin_only_with_its_whole_interval() -> None:
    assert Effect(1.0, 0.98, 1.02, True, "").within(0.03) == "yes"
    assert Effect(1.0, 0.98, 1.05, True, "").within(0.03) == "undecided"
    assert Effect(1.2, 1.1, 1.3, True, "").within(0.03) == "no"
    assert Effect(-0.2, -0.3, -0.1, False, "").within(0.05) == "no"
    assert Effect(-0.2, -0.3, -0.1, False, "").is_better == "no"
    assert Effect(2.0, 1.5, 2.5, True, "").is_worse == "yes"
    lost = 0.95 - 1.0  # -0.05000000000000004
    assert (
        Effect(lost, lost, lost, False, "").at_most(0.05) == Effect(lost, lost, lost, False, "").within(0.05) == "yes"
    )
    same = [row(10.0, "perplexity")] * 3
    assert alike("a", same, "b", same, "code", 0.01).verdict == "yes"


def test_at_least_asks_the_exact_interval() -> None:
    """All of 30 may be 88 % (Clopper-Pearson), all of 40 no less than 91 %."""
    assert at_least("m", [row(1.0, scores=[1.0] * 30)], 0.9, "keys").verdict == "undecided"
    assert at_least("m", [row(1.0, scores=[1.0] * 40)], 0.9, "keys").verdict == "yes"
    assert at_least("m", [row(0.5, scores=[1.0, 0.0] * 20)], 0.9, "keys").verdict == "no"
    everything = [row(1.0, scores=[1.0] * 40)]
    assert at_least("m", everything * 3, 0.9, "keys").verdict == "yes"
    unsure = at_least("m", [*everything * 2, row(0.0, scores=[0.0] * 40)], 0.9, "keys")  # whichever seed comes first
    assert (unsure.verdict, unsure.evidence) == (
        "undecided",
        "67 % (100, 100, 0), [0 %, 100 %] over 3 seeds, 40 prompts",
    )


def test_the_sentence_follows_from_the_claims() -> None:
    claims = [Claim("a", "yes", "1"), Claim("b", "no", "2"), Claim("c", "undecided", "3"), Claim("d", "yes", "4")]
    assert sentence(claims) == (
        "Holds here: in part; of 4 claims 2 are shown (a; d), 1 is contradicted (b), 1 is undecided (c)."
    )
    assert sentence(claims[:1]) == "Holds here: yes; of 1 claim 1 is shown (a)."
    assert sentence([claims[1]] * 3) == "Holds here: no; all 3 claims are contradicted."
    assert [holds(claims[:1]), holds(claims[1:2]), holds(claims[1:3])] == ["yes", "no", "not shown"]
    assert [holds(claims[2:3]), holds(claims[:3]), holds(claims[::2])] == ["undecided", "in part", "in part"]
    assert sentence(claims[1:3]) == ("Holds here: not shown; of 2 claims 1 is contradicted (b), 1 is undecided (c).")


def test_pick_refuses_rows_that_are_not_told_apart() -> None:
    with pytest.raises(SkipwiseError, match="2 rows have"):
        pick([[row(1.0), row(1.0, variant="other")]], task="t", length=256)


def test_full_length_training_reads_whole_targets() -> None:
    bench = Bench(Path("unused"), quick=True, seeds=3)
    config = bench.config(full_length(8), 0)
    assert (config.training.train_length, config.target_length) == (2048, 2048)
    assert config.training.batch_size * config.training.gradient_accumulation == 8
    skipped = bench.config(variant("pose", 8), 0)
    assert skipped.out != config.out
    assert bench.config(variant("pose", 8), 1).out != skipped.out
    assert bench.config(variant("pose", 8), 0).out == skipped.out
    assert bench.config(variant("pose", 8, positions__text="skip"), 0).out == skipped.out  # the default
    assert (bench.steps, bench.step_counts(), bench.factor(16), bench.factor(2)) == (40, [6, 20], 4, 2)


def test_a_reproduction_without_training_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "bound", "--quick", "--out", str(tmp_path / "out"), "--runs", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "out" / "bound.json").read_text())
    assert result["holds"] == "in part"
    assert result["facts"]["seeds"] == [0]
    assert "294.73" in (tmp_path / "out" / "index.html").read_text()
    assert "Holds here: in part" in capsys.readouterr().out


def test_a_model_is_trained_once_and_measured_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, quick=True, seeds=1)
    settings = variant("pose", 4, training__steps=2, training__warmup_steps=1, training__batch_size=1)
    first = bench.perplexity(settings, "python-reference", [256])
    model = Path(bench.models(settings)[0])
    written = (model / "model.safetensors").stat().st_mtime_ns
    again = bench.perplexity(settings, "python-reference", [256])
    assert (model / "model.safetensors").stat().st_mtime_ns == written
    assert [r.value for r in first[0]] == [r.value for r in again[0]]
    assert len((tmp_path / "rows" / f"{model.parent.name}.jsonl").read_text().splitlines()) == len(first[0])


def test_a_quick_result_does_not_replace_a_full_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = {**dict.fromkeys(tables.PARTS, ""), "claims": [], "tables": [], "charts": [], "facts": {"quick": False}}
    (tmp_path / "bound.json").write_text(json.dumps(full))
    arguments = ["reproduce", "bound", "--quick", "--out", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 0
    assert "holds a full result" in capsys.readouterr().out
    assert json.loads((tmp_path / "bound.json").read_text()) == full
    unlike = ["{}", "[" * 100_000, '{"facts": {"quick": true}}', json.dumps({**full, "claims": [{"statement": "a"}]})]
    for text in unlike:
        (tmp_path / "package.json").write_text(text)
        assert main(arguments) == 2
        assert "package.json is no result of the laboratory" in capsys.readouterr().err
    arguments[4] = str(tmp_path / "package.json")
    assert main(arguments) == 2
    assert "is a file, not a folder" in capsys.readouterr().err


def test_one_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(bench: Bench) -> None:
        raise SkipwiseError("no text")

    monkeypatch.setattr("lab.reproductions.figure5.run", fail)
    arguments = ["reproduce", "figure5", "bound", "--quick", "--out", str(tmp_path), "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 2
    assert "figure5: no text" in capsys.readouterr().err
    assert [path.stem for path in tmp_path.glob("*.json")] == ["bound"]


def test_a_page_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["page", "--out", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err


CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no browser: install chromium or google-chrome")
def test_the_page_shows_verdicts_tables_and_that_results_are_quick(tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    claims = [Claim("PoSE beats RandPos", "yes", "×0.5"), Claim("NTK beats YaRN", "no", "×2")]
    numbers = tables.Table("Perplexity <of> code", ["method", "256"], [["PoSE", "12.3"]])
    chart = tables.Chart("A chart", "tokens", "perplexity", [tables.Line("PoSE", [(256.0, 12.3), (512.0, 11.0)])])
    result = tables.Result(claims, [numbers], [chart], remark="A remark.", facts={"quick": True, "seeds": [0]})
    tables.write(tmp_path, "table9", "a title", "a paper", result)
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page, problems = browser.new_page(), []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"file://{tmp_path / 'index.html'}")
        text = page.locator("body").inner_text()
        headings = page.locator("#table9 h3").all_inner_texts()
        charts = page.locator("#table9 .chart").count()
        browser.close()
    assert problems == []
    assert "of 2 claims 1 is shown (PoSE beats RandPos), 1 is contradicted (NTK beats YaRN)." in text
    assert "Quick results: table9." in text
    assert headings == ["A chart", "Claims", "Perplexity <of> code"]
    assert charts == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in names() if name not in ("bound", "figure5")])
def test_every_reproduction_runs_whole(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two steps of training each: what it shows means nothing, but every table is filled."""
    monkeypatch.setattr("lab.bench.QUICK", {"training.steps": 2, "training.warmup_steps": 1})
    assert main(["reproduce", name, "--quick", "--out", str(tmp_path / "out"), "--runs", str(tmp_path)]) == 0
    result = json.loads((tmp_path / "out" / f"{name}.json").read_text())
    assert result["claims"]
    for table in result["tables"]:
        assert table["rows"]
        assert all(len(row) == len(table["columns"]) for row in table["rows"])
