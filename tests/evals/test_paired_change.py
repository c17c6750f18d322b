"""Paired comparisons: numbers worked out by hand, coverage by simulation, and nothing paired that differs."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipwise.cli import main
from skipwise.evals import power
from skipwise.evals.paired_change import change, pairs, perplexity_ratio, score_difference, unpaired
from skipwise.evals.rows import Row, read
from skipwise.evals.tables import change_table, change_text, summary_table
from skipwise.report.comparisons import compare
from skipwise.report.wording import change_clause
from skipwise.utils.text import value_text
from support.tiny import tiny_llama

TEXT = Path(argparse.__file__)
DRAWS = 2000


def row(model: str, answers: list[float], **more: Any) -> Row:
    known: dict[str, Any] = {"model": model, "fingerprint": model, "task": "passkey", "task_version": 2}
    known |= {"variant": None, "length": 64, "depth": None, "metric": "accuracy", "n": len(answers), "seed": 0}
    known |= {"chat": False, "data": "abc", "value": sum(answers) / len(answers), "low": 0.0, "high": 1.0}
    return Row(**known | {"interval": "wilson 95%", "scores": answers} | more)


def losses(model: str, sums: list[float], **more: Any) -> Row:
    known = {"task": "perplexity", "variant": "prefix", "metric": "perplexity", "interval": "bootstrap 95%"}
    return row(model, [2.0], **known | {"n": len(sums), "sums": sums, "counts": [100] * len(sums)} | more)


def test_binary_scores_by_hand() -> None:
    # 3 gained, 1 lost, 6 the same: p+ = 4/12, p- = 2/12, middle 1/6, variance (1/2 - 1/36) / 12
    before = [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
    after = [1, 1, 1, 0, 1, 1, 1, 0, 0, 0]
    found = score_difference(before, after)
    half = 1.959964 * math.sqrt((1 / 2 - 1 / 36) / 12)
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((1 / 6 - half, 1 / 6 + half), abs=1e-6)
    assert (found.verdict, found.n) == ("undecided", 10)
    assert found.interval == "paired Bonett-Price 95%"


def test_verdicts_of_binary_scores() -> None:
    assert score_difference([0] * 20, [1] * 20).verdict == "better"
    assert score_difference([1] * 20, [0] * 20).verdict == "worse"
    same = score_difference([1, 0] * 10, [1, 0] * 10)
    assert (same.value, same.verdict) == (0.0, "undecided")
    assert same.low == -same.high < 0  # agreement on 20 prompts is no proof of agreement on all
    assert score_difference([0, 0], [1, 1]).verdict == "undecided"  # two prompts cannot tell


def test_graded_scores_by_hand() -> None:
    found = score_difference([0.5, 0.25, 0.5, 0.75], [0.75, 0.5, 0.5, 0.75])  # differences 1/4, 1/4, 0, 0
    half = 3.182446 * math.sqrt(4 * (1 / 8) ** 2 / 3) / 2
    assert found[:3] == pytest.approx((1 / 8, 1 / 8 - half, 1 / 8 + half), abs=1e-6)
    assert found.interval == "paired t 95%"


def test_a_ratio_of_perplexities_by_hand() -> None:
    # 0.1 and 0.3 nats a token less on texts of equal length: exp(-0.2), spread 0.2 / sqrt(2) over sqrt(2) texts
    found = perplexity_ratio([300.0, 400.0], [290.0, 370.0], [100, 100])
    assert found.value == pytest.approx(math.exp(-0.2))
    assert (found.low, found.high) == pytest.approx((math.exp(-0.2 - 1.27062), math.exp(-0.2 + 1.27062)))
    assert found.verdict == "undecided"
    even = perplexity_ratio(
        [300.0, 40.0], [270.0, 36.0], [300, 40]
    )  # 0.1 nats a token everywhere, whatever the lengths
    assert even[:3] == pytest.approx((math.exp(-0.1),) * 3)
    assert even.verdict == "better"
    one = perplexity_ratio([300.0], [200.0], [100])
    assert (one.low, one.high, one.verdict) == (0.0, math.inf, "undecided")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30))
def test_the_other_way_round_is_the_mirror_image(scores: list[tuple[float, float]]) -> None:
    before, after = ([pair[i] for pair in scores] for i in (0, 1))
    there, back = score_difference(before, after), score_difference(after, before)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert -1 <= there.low <= there.high <= 1
    ratio, inverse = (
        perplexity_ratio(before, after, [9] * len(scores)),
        perplexity_ratio(after, before, [9] * len(scores)),
    )
    assert ratio.value == pytest.approx(1 / inverse.value)
    assert ratio.low == pytest.approx(1 / inverse.high)


@pytest.mark.parametrize(("first", "second", "alike"), [(0.5, 0.5, 0.0), (0.4, 0.7, 0.5), (0.9, 0.95, 0.3)])
@pytest.mark.parametrize("n", [8, 40])
def test_coverage_of_binary_scores(n: int, first: float, second: float, alike: float) -> None:
    rng = np.random.default_rng(n)
    hard = rng.random((2, DRAWS, n))
    hard[1] = np.where(rng.random((DRAWS, n)) < alike, hard[0], hard[1])  # prompts hard for one are hard for the other
    scores = hard < np.array([first, second]).reshape(2, 1, 1)
    found = [score_difference(a, b) for a, b in zip(*scores.astype(float), strict=True)]
    assert np.mean([c.low <= second - first <= c.high for c in found]) > 0.94


@pytest.mark.parametrize(("n", "least"), [(4, 0.94), (30, 0.94)])
def test_coverage_of_perplexities_and_of_graded_scores(n: int, least: float) -> None:
    rng = np.random.default_rng(n)
    hard = rng.normal(300, 50, (DRAWS, n))  # what both models find hard does not widen the interval
    after = hard - rng.normal(5, 10, (DRAWS, n))
    ratios = [perplexity_ratio(a, b, [100] * n) for a, b in zip(hard, after, strict=True)]
    assert np.mean([c.low <= math.exp(-0.05) <= c.high for c in ratios]) > least
    assert np.median([c.high / c.low for c in ratios]) < 1.5
    mean = [score_difference(a, b) for a, b in zip(hard / 1000, after / 1000, strict=True)]
    assert np.mean([c.low <= -0.005 <= c.high for c in mean]) > least


CHANGES = np.arange(-4, 5) / 4


@pytest.mark.parametrize("n", [3, 5, 10, 20, 50, 100])
@pytest.mark.parametrize(
    "chances",
    [
        [0, 0, 0, 0, 0.9, 0.1, 0, 0, 0],  # most prompts agree, the others gain a quarter
        [0, 0, 0, 0.05, 0.9, 0.05, 0, 0, 0],
        [0, 0, 0, 0, 0.9, 0, 0, 0, 0.1],
        [0.02, 0.02, 0.02, 0.1, 0.6, 0.1, 0.05, 0.05, 0.04],
        [0, 0, 0, 0, 0.04, 0.1, 0.2, 0.3, 0.36],
    ],
)
def test_coverage_of_scores_with_several_references(n: int, chances: list[float]) -> None:
    differences = np.random.default_rng(n).choice(CHANGES, p=chances, size=(DRAWS, n))
    changes = [score_difference(np.maximum(-d, 0).tolist(), np.maximum(d, 0).tolist()) for d in differences]
    assert np.mean([c.low - 1e-9 <= CHANGES @ chances <= c.high + 1e-9 for c in changes]) >= 0.92


def test_prompts_that_share_a_list_are_paired_list_by_list() -> None:
    units = ["list 0", "list 1", "list 2", "list 3"] * 5
    before, after = (row(model, [score] * 20, units=units) for model, score in (("a", 0.0), ("b", 1.0)))
    whole = change(before, after)
    assert whole == score_difference([0.0] * 4, [1.0] * 4)
    assert (whole.n, whole.verdict) == (4, "better")
    one = [r.replace(units=["list 0"] * 20) for r in (before, after)]
    assert change(*one).verdict == "undecided"  # type: ignore[union-attr]


def test_one_list_gives_no_verdict_however_many_its_prompts() -> None:
    units = ["list 0"] * 20
    before, after = (row(model, [score] * 20, units=units) for model, score in (("a", 0.0), ("b", 1.0)))
    paired = change(before, after)
    assert paired is not None
    assert (paired.few, paired.verdict) == ("one list", "undecided")
    assert change_text(paired, after).endswith("one list decides nothing")
    compared = compare(before, after)
    assert compared.change == paired  # the page judges as the terminal does
    assert "one list, which decides nothing" in change_clause(compared)
    single = change(row("a", [0.0]), row("b", [1.0]))
    assert single is not None
    assert single.few == "one prompt"
    two = [r.replace(units=["list 0"] * 10 + ["list 1"] * 10) for r in (before, after)]
    clause = change_clause(compare(*two))
    assert "20 prompts about 2 lists, undecided" in clause


def blocks(model: str, levels: list[float], noise: float = 0.0) -> Row:
    """Four blocks of 100 tokens in each of some documents; the losses differ by document and a little by block."""
    parts = [[100 * (level + noise * wave) for wave in (1.0, -1.0, 0.5, -0.5)] for level in levels]
    return losses(
        model,
        [sum(part) for part in parts],
        counts=[400] * len(levels),
        block_sums=parts,
        block_counts=[[100] * 4] * len(levels),
    )


def test_few_documents_that_all_lose_differently_decide_about_themselves_alone() -> None:
    """Losses of 0.05 to 0.4 nats: too far apart for a claim about other texts, clear on each of these."""
    before, after = blocks("a", [3.0, 3.2, 3.1]), blocks("b", [3.05, 3.6, 3.2], noise=0.01)
    paired = change(before, after)
    assert paired is not None
    assert paired.verdict == "undecided"
    assert paired.same_texts is not None
    assert (paired.same_texts.verdict, paired.same_texts.n) == ("worse", 12)
    assert paired.low < paired.same_texts.low < paired.value < paired.same_texts.high < paired.high
    text = change_text(paired, after)
    assert "undecided, x" in text
    assert f"; these texts [{paired.same_texts.low:.3f}, {paired.same_texts.high:.3f}] worse" in text
    assert "undecided; on these very texts [+" in change_clause(compare(before, after))
    assert "these texts: the interval for the documents read" in change_table([before, after])
    older = [r.replace(block_sums=[], block_counts=[]) for r in (before, after)]
    without = change(*older)
    assert without is not None
    assert without.same_texts is None
    assert without[:3] == paired[:3]


def test_an_undecided_change_names_what_would_have_shown() -> None:
    few = change(row("a", [0.0] * 10), row("b", [1.0] + [0.0] * 9))
    assert few is not None
    assert few.detectable == power.detectable_share(10)
    assert change_text(few, row("b", [1.0])).endswith(f"undecided, {100 * few.detectable:.3g} points would show")
    none = change(row("a", [0.0] * 2), row("b", [1.0, 0.0]))
    assert none is not None
    assert change_text(none, row("b", [1.0])).endswith("undecided, too few to show any change")


def test_a_ratio_over_blocks_of_one_document_joins_short_ones() -> None:
    generator = np.random.default_rng(0)
    sums = np.repeat(generator.normal(96, 10, 16), 16)  # 16 stretches of 16 blocks that are alike
    after = [losses("b", (sums * 0.99).tolist()), losses("a", sums.tolist())]
    before, later = (r.replace(n=1, counts=[32] * 256) for r in reversed(after))
    joined = change(before, later)
    assert joined is not None
    assert (joined.n, joined.interval) == (16, "paired t 95%, blocks of one document")
    expected = perplexity_ratio((sums[::16] * 16).tolist(), (sums[::16] * 16 * 0.99).tolist(), [512] * 16)
    assert joined[:3] == pytest.approx(expected[:3])


def test_only_what_measures_the_same_is_paired() -> None:
    first = row("a", [0.0, 1.0])
    assert [(b.model, a.model) for b, a in pairs([first], [row("b", [1.0, 1.0])])] == [("a", "b")]
    for column, value in {
        "seed": 1,
        "task_version": 3,
        "variant": "x",
        "length": 65,
        "depth": 0.5,
        "chat": True,
    }.items():
        assert not list(pairs([first], [row("b", [1.0, 1.0], **{column: value})])), column
        assert not list(unpaired([first], [row("b", [1.0, 1.0], data="x", **{column: value})])), column
    other = row("b", [1.0, 1.0], data="of another tokenizer")
    assert not list(pairs([first], [other]))
    assert list(unpaired([first], [other])) == [(first, other)]
    again = row("b", [0.0, 0.0])
    assert [a.scores for _, a in pairs([first], [row("b", [1.0, 1.0]), again])] == [[0.0, 0.0]]


def test_rows_with_nothing_to_pair_have_no_change() -> None:
    assert change(row("a", [1.0], scores=[]), row("b", [1.0], scores=[])) is None
    assert change(losses("a", [200.0, 210.0]), losses("b", [200.0, 210.0], counts=[100, 99])) is None
    assert change(row("a", [1.0, 0.0]), row("b", [1.0])) is None


def test_the_table_of_changes() -> None:
    rows = [
        losses("a", [300.0, 400.0, 350.0]),
        row("a", [0.0] * 20),
        row("a", [0.0] * 20, task="k_max", metric="k_max", value=64, scores=[], length=None),
        losses("b", [290.0, 391.0, 339.0]),
        row("b", [1.0] * 10 + [0.0] * 10),
        row("b", [0.0] * 20, task="k_max", metric="k_max", value=2048, scores=[], length=None),
        losses("c", [1.0], data="other"),
    ]
    lines = change_table(rows).split("\n")
    assert lines[0].startswith("change against a [95%], paired")
    assert "another tokenizer" in lines[0]
    assert [line.split() for line in lines[1:]] == [
        ["task", "variant", "metric", "length", "b", "c"],
        *([["perplexity", "prefix", "perplexity", "64", "x0.905", "[0.883,", "0.928]", "better", "other", "prompts"]]),
        ["passkey", "accuracy", "64", "+50.0", "[+21.1,", "+69.8]", "points", "better", "-"],
        ["k_max", "k_max", "-", "64", "->", "2k", "-"],
    ]
    assert change_table(rows[:3]) == ""
    assert "nothing was measured alike" in change_table([rows[0], rows[4].replace(seed=7)])


def test_the_summary_shows_variants_and_values_of_every_kind() -> None:
    rows = [
        row("a", [0.5, 0.25], task="ruler", variant=name, metric="recall", length=length, interval="bootstrap 95%")
        for length in (128, 64)
        for name in ("niah", "vt")
    ]
    rows.append(row("a", [0.5], task="ruler", variant="niah", metric="recall", length=64, depth=0.5, value=0.9))
    text = summary_table([*rows, row("a", [1.0], task="boolq", length=None)])
    assert [line.split()[:3] for line in text.split("\n")[2:6]] == [
        *(["niah", "64", "37.5%"], ["niah", "128", "37.5%"], ["vt", "64", "37.5%"], ["vt", "128", "37.5%"])
    ]
    assert text.endswith("-  100% [0%, 100%] n=1")
    assert [value_text("k_max", 8192), value_text("recall", None)] == ["8k", "-"]
    assert [value_text("bits_per_byte", 0.913), value_text("acc_norm", 0.913)] == ["0.913", "91.3%"]


def test_two_models_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [str(tiny_llama(tmp_path / name, window=512, seed=i)) for i, name in enumerate(("first", "second"))]
    models.append(str(tiny_llama(tmp_path / "third", window=512, vocab=300)))
    command = ["eval", *models, "--lengths", "256,400", "--data", str(TEXT), "--out", str(tmp_path / "rows.jsonl")]
    command += ["--set", "evaluation.trials=2", "--set", "evaluation.depths=[0.5]"]
    assert main.main(command) == 0
    table = capsys.readouterr().out.split("change against first")[1]
    (line,) = [line for line in table.split("\n") if line.startswith("perplexity ") and " 256 " in line]
    rows = [r for r in read(tmp_path / "rows.jsonl") if r.task == "perplexity" and r.length == 256]
    found = change(rows[0], rows[1])
    assert found is not None
    assert f"x{found.value:.3f} [{found.low:.3f}, {found.high:.3f}] one document decides nothing" in line
    assert found.value == pytest.approx(rows[1].value / rows[0].value, rel=1e-4)
    assert line.endswith("other prompts")
    assert "passkey" in table
