"""The report from run folders alone: its numbers, what it says of partial runs, and what it refuses."""

import base64
import hashlib
import html
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from skipwise.config import RunConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.paired_change import change
from skipwise.evals.rows import Row
from skipwise.report.build import _chunks, page_data, write_report
from skipwise.report.headline import headline
from skipwise.report.run_files import read_run
from skipwise.report.wording import commands
from skipwise.utils.atomic_files import append_jsonl, read_jsonl
from skipwise.utils.text import TOKEN_METRICS
from support.sample_run import LENGTHS, TARGET, write_sample_rows, write_sample_run


def embedded(page: Path) -> dict[str, Any]:
    """The page's data, read as strictly as a browser reads JSON."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = page.read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    return json.loads(data, parse_constant=refuse)


def change_row(folder: Path, number: int, **values: Any) -> None:
    rows = read_jsonl(folder / "results.jsonl")
    rows[number] |= values
    (folder / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def add_steps(folder: Path, steps: range) -> None:
    with (folder / "log.jsonl").open("a") as file:
        for step in steps:
            row = {"kind": "train", "step": step, "loss": step, "tokens": step * 2048, "seconds": step}
            file.write(json.dumps(row) + "\n")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "run")


def test_every_result_is_embedded_as_it_was_measured(run: Path, tmp_path: Path) -> None:
    out = write_report([run], tmp_path / "site" / "report.html")
    data = embedded(out)
    measured = read_jsonl(run / "results.jsonl")
    assert len(data["results"]) == len(measured) > 80
    for shown, row in zip(data["results"], measured, strict=True):
        for key in ("model", "task", "variant", "length", "depth", "metric", "value", "low", "high", "n", "tokens"):
            assert shown[key] == row[key], key
        assert data["series"][shown["series"]]["model"] == row["model"]
    (now,) = data["runs"]
    assert [row["loss"] for row in now["train"]] == [
        r["loss"] for r in read_jsonl(run / "log.jsonl") if r["kind"] == "train"
    ]
    assert now["cost"] == {
        "steps": 60,
        "planned_steps": 60,
        "tokens": 122_880,
        "seconds": 354.0,
        "peak_memory_bytes": 3_980_000_000,
    }
    before, after = now["at_target"]["perplexity"]
    assert (before["value"], after["value"], after["length"], after["n"]) == (612.0, 31.0, TARGET, 4)


def test_the_headline_says_the_numbers(run: Path) -> None:
    text = headline([read_run(run, "run")])
    assert text.startswith("Window extended from 8k to 32k tokens: perplexity at 32k fell from 612 to 31.0 and passkey")


@pytest.mark.parametrize(
    ("after", "low", "high", "said"),
    [
        (31.0, 28.0, 34.0, "fell from 612 to 31.0"),
        (900.0, 800.0, 990.0, "rose from 612 to 900"),
        (600.0, 560.0, 660.0, "went from 612 to 600"),  # the intervals overlap
        (612.2, 560.0, 660.0, "stayed at 612"),
        (math.inf, math.inf, math.inf, "rose from 612 to ∞"),
    ],
)
def test_the_verb_depends_on_the_intervals(run: Path, after: float, low: float, high: float, said: str) -> None:
    rows = read_jsonl(run / "results.jsonl")
    wanted = ("extended", "perplexity", TARGET)
    number = next(i for i, row in enumerate(rows) if (row["model"], row["task"], row["length"]) == wanted)
    change_row(run, number, value=after, low=low, high=high)
    assert f"perplexity at 32k {said}" in headline([read_run(run, "run")])


def test_the_target_is_the_longest_length_measured_up_to_it(run: Path) -> None:
    rows = [row for row in read_jsonl(run / "results.jsonl") if row["length"] < 24576]
    beyond = next(row for row in rows if row["model"] == "extended") | {"length": 2 * TARGET, "value": 99.0}
    (run / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, beyond]))
    pair = read_run(run, "run").at_target("perplexity")
    assert pair is not None
    assert pair[0] is not None
    assert (pair[0].value, pair[1].value, pair[1].length) == (58.2, 30.9, 16384)


def test_other_variants_are_not_compared(run: Path) -> None:
    rows = read_jsonl(run / "results.jsonl")
    for i, row in enumerate(rows):
        if (row["model"], row["task"]) == ("extended", "perplexity"):
            change_row(run, i, variant="sliding")
    pair = read_run(run, "run").at_target("perplexity")
    assert pair is not None
    assert pair[0] is None


def test_infinite_and_undefined_values_stay_valid_json(run: Path, tmp_path: Path) -> None:
    change_row(run, 0, value=math.inf, high=math.inf)
    change_row(run, 1, value=math.nan)
    rows = embedded(write_report([run], tmp_path / "report.html"))["results"]
    assert (rows[0]["value"], rows[1]["value"]) == ("Infinity", "NaN")


@pytest.mark.parametrize(
    ("removed", "note"),
    [
        (["results.jsonl"], "Not evaluated yet"),
        (["environment.json"], "no environment.json"),
        (["log.jsonl"], "step 0 of 60"),
        (["results.jsonl", "environment.json", "log.jsonl"], "step 0 of 60"),
    ],
)
def test_a_partial_run_says_what_is_missing(run: Path, tmp_path: Path, removed: list[str], note: str) -> None:
    for name in removed:
        (run / name).unlink()
    data = embedded(write_report([run], tmp_path / "report.html"))
    assert note in " ".join(data["runs"][0]["missing"])


def test_training_that_goes_on_is_reported(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", done=23, results=False)
    data = embedded(write_report([run], tmp_path / "report.html"))
    assert data["headline"] == "Extending the window from 8k to 32k tokens: step 23 of 60."
    assert data["runs"][0]["cost"]["tokens"] == 23 * 2048
    assert data["runs"][0]["positions"]["examples"] == 46
    (run / "model").mkdir()  # the model is written last
    assert "not evaluated yet" in embedded(write_report([run], tmp_path / "report.html"))["headline"]


def test_scaling_without_training_has_no_curve_and_no_distances(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", done=0, settings={"training": {"steps": 0}})
    (now,) = embedded(write_report([run], tmp_path / "report.html"))["runs"]
    assert now["train"] == []
    assert now["positions"] is None
    assert now["missing"] == []


def test_weights_that_were_quantised_are_told(run: Path, tmp_path: Path) -> None:
    told = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps({**told, "quantised_from": "Q4_1"}))
    (now,) = embedded(write_report([run], tmp_path / "report.html"))["runs"]
    assert now["settings"][0]["rows"][0][1].endswith(", dequantised from Q4_1 GGUF")


def test_one_side_of_the_comparison_alone_is_said(run: Path, tmp_path: Path) -> None:
    rows = read_jsonl(run / "results.jsonl")
    for kept, word in (("extended", "before"), ("original", "after")):
        (run / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows if r["model"] == kept))
        data = embedded(write_report([run], tmp_path / "report.html"))
        assert f"no “{word}”" in " ".join(data["runs"][0]["missing"])


def test_a_later_row_replaces_an_earlier_one_and_a_killed_write_is_passed_over(run: Path) -> None:
    first = read_jsonl(run / "results.jsonl")[0]
    append_jsonl(run / "results.jsonl", first | {"value": 30.5})
    append_jsonl(run / "log.jsonl", {"kind": "train", "step": 60, "loss": 9.0, "tokens": 122_880, "seconds": 400.0})
    for name in ("results.jsonl", "log.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"model": "orig')
    read = read_run(run, "run")
    assert [row.value for row in read.results if row.key == read.results[0].key] == [30.5]
    assert [row.step for row in read.train] == list(range(1, 61))
    assert read.train[-1].loss == 9.0


def test_results_of_other_texts_are_not_compared(run: Path, tmp_path: Path) -> None:
    rows = read_jsonl(run / "results.jsonl")
    extended = [row for row in rows if (row["model"], row["task"]) == ("extended", "perplexity")]
    for row in extended[:3]:
        append_jsonl(
            run / "results.jsonl", row | {"documents": ["other.txt"], "value": 12.0, "low": 11.0, "high": 13.0}
        )
    data = embedded(write_report([run], tmp_path / "report.html"))
    assert "perplexity at 8k is 12.0 and passkey" in data["headline"]
    assert "14 earlier results" in " ".join(data["runs"][0]["missing"])
    assert [row["length"] for row in data["results"] if row["task"] == "perplexity"] == LENGTHS[:3]


def test_results_of_an_earlier_model_are_kept_apart(run: Path, tmp_path: Path) -> None:
    for row in read_jsonl(run / "results.jsonl"):
        if row["model"] == "extended" and row["task"] == "perplexity":
            append_jsonl(run / "results.jsonl", row | {"fingerprint": "newer1", "value": row["value"] - 1})
    data = embedded(write_report([run], tmp_path / "report.html"))
    assert [series["name"] for series in data["series"]] == ["original", "extended (earlier extend)", "extended"]
    assert data["runs"][0]["at_target"]["perplexity"][1]["value"] == 30.0


def test_several_runs_share_an_original_measured_alike(tmp_path: Path) -> None:
    runs = [write_sample_run(tmp_path / "a"), write_sample_run(tmp_path / "b", shift=0.1, seed=1)]
    data = embedded(write_report(runs, tmp_path / "report.html"))
    assert [(s["name"], s["run"]) for s in data["series"]] == [("original", None), ("a", 0), ("b", 1)]
    assert len(data["results"]) == 3 * (len(read_jsonl(runs[0] / "results.jsonl")) // 2)
    assert data["headline"] == "Of 2 runs, a has the lowest perplexity at 32k tokens: 31.0."
    other = shutil.copytree(runs[1], tmp_path / "other-texts")
    rows = [row | {"data": "other"} for row in read_jsonl(other / "results.jsonl")]
    (other / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = embedded(write_report([runs[0], other], tmp_path / "report.html"))
    assert data["headline"] == "2 runs, whose perplexities are of different texts and do not compare."
    change_row(runs[1], 3, n=2)
    data = embedded(write_report(runs, tmp_path / "report.html"))
    named = [(series["name"], series["run"]) for series in data["series"]]
    assert named == [("original", None), ("a", 0), ("b · original", 1), ("b", 1)]
    assert [series["base"] for series in data["series"]] == [None, 0, None, 2]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    runs = [write_sample_run(tmp_path / name / "run", results=False) for name in ("a", "b")]
    data = embedded(write_report(runs, tmp_path / "report.html"))
    assert [run["name"] for run in data["runs"]] == ["a/run", "b/run"]
    assert "no length at which" in data["headline"]


def test_text_cannot_become_markup(tmp_path: Path) -> None:
    bad = "</script><script>window.hacked = 1</script><img src=x onerror=hacked()>"
    runs = [
        write_sample_run(tmp_path / '<b>x & "y"', settings={"model": {"path": bad}, "data": {"paths": [bad]}}),
        write_sample_run(tmp_path / "other", shift=0.1),
    ]
    out = write_report(runs, tmp_path / "report.html")
    text = out.read_text(encoding="utf-8")
    assert text.count("<script") == text.count("</script>") == 2
    assert "<img src=x" not in text
    assert "<b>x" not in text
    assert html.escape('<b>x & "y" has') in text
    assert embedded(out)["runs"][0]["settings"][0]["rows"][0][1] == bad


def test_the_page_is_one_small_file_that_may_run_its_own_script_only(run: Path, tmp_path: Path) -> None:
    add_steps(run, range(61, 20_000))
    out = write_report([run], tmp_path / "report.html")
    text = out.read_text(encoding="utf-8")
    assert out.stat().st_size < 300_000
    assert not re.search(r"""(src|href)=["'](?!#|data:)|@import|url\((?!#)""", text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.S)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in text


def test_a_long_log_is_thinned_by_means(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", done=0, results=False)
    add_steps(run, range(1, 1002))
    (now,) = page_data([read_run(run, "run")])["runs"]
    assert len(now["train"]) == 334
    assert [(row["step"], row["loss"]) for row in now["train"][:2]] == [(3, 2.0), (6, 5.0)]
    assert now["train"][-1]["step"] == 1001


def test_validation_shares_the_axes_of_the_training_curve(run: Path) -> None:
    (now,) = page_data([read_run(run, "run")])["runs"]
    assert [(row["step"], row["tokens"]) for row in now["validation"]][:2] == [(10, 20480.0), (20, 40960.0)]
    assert now["validation"][0]["seconds"] == pytest.approx(59.0)


def test_distances_are_those_of_the_runs_own_sampler(run: Path) -> None:
    (now,) = page_data([read_run(run, "run")])["runs"]
    positions = now["positions"]
    edges, widths = positions["edges"], np.diff(positions["edges"])
    assert edges[0] == 0
    assert edges[-1] == TARGET
    assert len(widths) == len(positions["pairs"]) == len(positions["plain_pairs"]) == len(positions["seen"]) == 200
    pairs = 1024 * 1025 / 2  # of every example, whatever its positions
    assert np.dot(positions["plain_pairs"], widths) == pytest.approx(pairs, rel=1e-4)
    assert np.dot(positions["pairs"], widths) == pytest.approx(pairs, rel=1e-4)
    assert positions["share"] == pytest.approx(np.dot(positions["seen"], widths) / TARGET, abs=1e-4)
    assert positions["plain_share"] == 1024 / TARGET
    assert positions["examples"] == positions["counted"] == 120
    for chunks in positions["chunks"]:
        assert len(chunks) <= 2
        assert sum(stop - start for start, stop, _ in chunks) == 1024


def test_scattered_positions_are_drawn_as_shares_of_cells() -> None:
    assert _chunks(np.array([0, 1, 2, 7, 8]), 16) == [(0, 3, 1.0), (7, 9, 1.0)]
    cells = _chunks(np.arange(0, 1280, 2), 1280)
    assert len(cells) == 128
    assert {cell[2] for cell in cells} == {0.5}


def test_what_to_type_can_be_typed(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / 'a run\'s "folder"')
    transformers, vllm, llama, skipwise = commands(read_run(run, "run"))
    compile(transformers["text"], "snippet", "exec")
    assert "max_length=32768 - 200" in transformers["text"]
    assert vllm["text"].endswith("--max-model-len 32768")
    assert "a run'\"'\"'s" in vllm["text"]
    assert "--format gguf" in llama["text"]
    assert "llama-server -m" in llama["text"]
    assert llama["text"].endswith("-c 32768")
    assert "--target 64k" in skipwise["text"]


BROKEN = {
    "a results line that is no JSON": (
        "results.jsonl",
        'oops\n{"a": 1}\n',
        "line 1 is not JSON ('oops')",
    ),
    "a results line that is no object": ("results.jsonl", "\n[1, 2]\n", "results.jsonl line 2 is '[1, 2]', expected"),
    "a results line without its value": (
        "results.jsonl",
        '{"model": "m", "window": 1, "original_length": 1, "task": "t", "length": 1}\n',
        "results.jsonl line 1: 'metric' is missing",
    ),
    "a negative perplexity": (
        "results.jsonl",
        '{"model": "m", "window": 1, "original_length": 1, "task": "perplexity", "length": 8, "metric": "perplexity", '
        '"value": -3.0, "n": 1}\n',
        "results.jsonl line 1: value = -3",
    ),
    "a negative length": (
        "results.jsonl",
        '{"model": "m", "window": 1, "original_length": 1, "task": "perplexity", "length": -8, "metric": "perplexity", '
        '"value": 3.0, "n": 1}\n',
        "results.jsonl line 1: length = -8",
    ),
    "a log line with a text for a number": (
        "log.jsonl",
        '{"kind": "train", "step": 1, "loss": "low", "tokens": 1, "seconds": 1}\n',
        "log.jsonl line 1: loss = 'low'",
    ),
    "an environment that is no JSON": ("environment.json", "{", "environment.json is not JSON"),
    "a configuration with an unknown key": ("config.yaml", "target_length: 32k\nstep: 3\n", "unknown key 'step'"),
    "a configuration that is no YAML": ("config.yaml", "a: [", "config.yaml is not valid YAML"),
}


@pytest.mark.parametrize(("name", "text", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_named_and_an_earlier_report_kept(run: Path, name: str, text: str, message: str) -> None:
    out = run / "report.html"
    out.write_text("earlier")
    (run / name).write_text(text)
    with pytest.raises(SkipwiseError) as error:
        write_report([run], out)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert out.read_text() == "earlier"
    assert not list(run.glob(".report*"))


def test_what_is_no_run_is_refused(run: Path, tmp_path: Path) -> None:
    cases = {
        "no run to report on": [],
        "has no config.yaml": [tmp_path],
        "is no folder": [tmp_path / "nowhere"],
        "given twice": [run, run / "." / ".." / "run"],
    }
    for message, folders in cases.items():
        with pytest.raises(SkipwiseError, match=message) as error:
            write_report(folders, tmp_path / "report.html")
        assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_the_sample_is_a_run_of_this_version(run: Path) -> None:
    config = RunConfig.model_validate(yaml.safe_load((run / "config.yaml").read_text()))
    assert config.target_length == TARGET
    assert {row["length"] for row in read_jsonl(run / "results.jsonl")} == set(LENGTHS)


def test_rows_without_a_run_are_compared_with_the_first_model(tmp_path: Path) -> None:
    path = write_sample_rows(tmp_path / "rows.jsonl")
    out = write_report([path], tmp_path / "report.html")
    data = embedded(out)
    assert data["headline"] == "3 models compared on 10 tasks."
    assert [(s["name"], s["base"]) for s in data["series"]] == [("before", None), ("after", 0), ("other-7b", 0)]
    measured = read_jsonl(path)
    assert [row["value"] for row in data["results"]] == [row["value"] for row in measured]
    assert {len(row["scores"]) for row in measured if "scores" in row} == {4, 10, 20, 200}
    third = len(measured) // 3
    for before, after, shown in zip(2 * measured[:third], measured[third:], data["results"][third:], strict=True):
        if after["model"] != "after":
            assert shown["change"] == {"other": True, "before": before["value"]}
        elif after["metric"] in TOKEN_METRICS:
            assert shown["change"] == {"before": before["value"]}
        else:
            expected = change(Row(**before), Row(**after))
            assert expected is not None
            repeated = before["task"] == "perplexity_by_position" or before["variant"] == "average"
            known = {name: value for name, value in expected._asdict().items() if value is not None}
            fields = {"before": before["value"], **known, **({"repeated": True} if repeated else {})}
            same = fields.pop("same_texts", None)
            assert shown["change"].pop("same_texts", None) == (same and same._asdict())
            assert shown["change"] == pytest.approx(fields)
        assert "scores" not in shown
    assert out.stat().st_size < 400_000


def test_two_models_are_counted_in_the_headline(tmp_path: Path) -> None:
    data = embedded(write_report([write_sample_rows(tmp_path / "rows.jsonl", ("a", "b"))], tmp_path / "report.html"))
    parts = []
    for where, inside in (("at and below 8k tokens", True), ("beyond", False)):
        verdicts = [
            row["change"]["verdict"]
            for row in data["results"]
            if row["depth"] is None
            and "verdict" in (row["change"] or {})
            # Perplexity between lengths is in that of the longer length, RULER's average in its tasks.
            and row["task"] != "perplexity_by_position"
            and (row["task"], row["variant"]) != ("ruler", "average")
            and ((row["length"] or 0) <= 8192) == inside
        ]
        counts = ", ".join(f"{verdict} in {verdicts.count(verdict)}" for verdict in ("better", "worse", "undecided"))
        parts.append(f"{where} {counts}")
    assert data["headline"] == f"b against a on 10 tasks: {'; '.join(parts)}."
    assert [row["task"] for row in data["results"] if (row["change"] or {}).get("repeated")].count("ruler") == 4


def test_rows_of_another_seed_or_model_are_never_mixed(tmp_path: Path) -> None:
    path = write_sample_rows(tmp_path / "rows.jsonl", ("a", "b"))
    rows = read_jsonl(path)
    (one,) = [
        row for row in rows if (row["model"], row["task"], row["depth"], row["length"]) == ("b", "passkey", None, 4096)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, one | {"seed": 1, "value": 0.5}]))
    data = embedded(write_report([path], tmp_path / "report.html"))
    passkey = [row for row in data["results"] if row["task"] == "passkey"]
    assert [(row["value"], row["change"]) for row in passkey] == [(0.5, None)]
    assert [file["outdated"] for file in data["files"]] == [48]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, one | {"fingerprint": "retrained"}]))
    series = embedded(write_report([path], tmp_path / "report.html"))["series"]
    assert [entry["name"] for entry in series] == ["a", "b print-", "b retrai"]


def test_runs_and_rows_share_a_page(run: Path, tmp_path: Path) -> None:
    data = embedded(write_report([run, write_sample_rows(tmp_path / "rows.jsonl")], tmp_path / "report.html"))
    assert [entry["name"] for entry in data["series"]] == ["original", "extended", "before", "after", "other-7b"]
    assert [entry["base"] for entry in data["series"]] == [None, 0, 0, 0, 0]
    assert data["headline"].startswith("Window extended from 8k")


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("")
    with pytest.raises(SkipwiseError, match="holds no rows"):
        write_report([tmp_path / "rows.jsonl"], tmp_path / "report.html")
