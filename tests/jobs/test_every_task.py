"""One recipe that names every task ends with a card and a report, and so does its resumption; so does one with none."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from skipwise.cli import main
from skipwise.config.task_names import task_names
from skipwise.evals.rows import read
from support import published_files

LENGTH = 512


def text(number: int, sentences: int = 120) -> str:
    """A document with a title, an author and enough prose to fill the length."""
    body = " ".join(f"The {number} rivers of valley {i} run to the sea in spring." for i in range(sentences))
    return f"title: The book of rivers {number}\nauthor: Ada Number{number}\n\n{body}\n"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The smallest run of every task: one prompt each at one length, few tokens to answer with."""
    folder = tmp_path_factory.mktemp("data")
    for i in range(2):
        (folder / f"{i}.txt").write_text(text(i), encoding="utf-8")
    documents = [str(folder / f"{i}.txt") for i in range(2)]
    (folder / "summaries.jsonl").write_text(json.dumps({"text": text(3), "summary": "Rivers run to the sea."}) + "\n")
    questions = [{"question": f"{i} and 1?", "choices": [str(i + 1), "none"], "answer": 0} for i in range(2)]
    (folder / "sums.jsonl").write_text("".join(json.dumps(question) + "\n" for question in questions))
    asked = [{"question": f"Where is river {i}?", "answers": [{"text": f"valley {i}"}]} for i in range(2)]
    article = {"paragraphs": [{"context": f"River {i} is in valley {i}.", "qas": [asked[i]]} for i in range(2)]}
    (folder / "squad.json").write_text(json.dumps({"data": [article]}))
    evaluation: dict[str, Any] = {
        "tasks": list(task_names()),
        "lengths": [256, LENGTH],
        "retrieval_lengths": [LENGTH],
        "data": documents,
        "documents": 2,
        "depths": [0.5],
        "trials": 1,
        "k_max": {"distances": 3, "trials": 2},
        "key_value": {"protocols": ["lines"]},
        "needle": {"haystack": documents},
        "document_qa": {"data": documents, "documents": 1},
        "summarize": {"data": [str(folder / "summaries.jsonl")], "output_tokens": 8},
        "ruler": {"tasks": ["qa_1"], "samples": 2, "squad": str(folder / "squad.json")},
        "harness": {"tasks": [str(folder / "sums.jsonl")]},
        "babilong": {"kinds": [1, 4], "samples": 1, "examples": False, "filler": documents},
        "mrcr": {"needles": [2], "samples": 1, "sentences": 1},
        "non_literal": {"filler": documents},
        "placed": {"filler": documents, "limit": 2, "depths": [0.5]},
        "instructions": {"samples": 1},
        "longbench_v2": {"data": str(published_files.write_longbench_v2(folder / "longbench")), "limit": 2},
        "infinitebench": {"data": [str(published_files.write_infinitebench(folder) / "passkey.jsonl")], "limit": 1},
        "helmet": {"data": published_files.write_helmet(folder / "helmet")["data"][:1], "limit": 1},
    }
    return {
        "target_length": 1024,
        "model": {"path": "bundled", "precision": "float32"},
        "data": {"paths": documents, "validation": 0.1, "cache": str(folder / "cache")},
        "training": {"steps": 1, "train_length": 64, "batch_size": 1, "validation_examples": 1},
        "evaluation": evaluation,
    }


def extend(recipe: dict[str, Any], folder: Path, *options: str) -> Path:
    """Run `skipwise extend` on a recipe. Returns the run folder."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = ["extend", "--config", str(folder / "recipe.yaml"), "--out", str(folder / "run"), *options]
    assert main.main(command) == 0
    return folder / "run"


def page_data(page: Path) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    values: dict[str, Any] = json.loads(data)
    return values


def test_every_task_ends_with_card_and_report(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = extend(recipe, tmp_path)
    printed = capsys.readouterr().out
    rows = read(run / "results.jsonl")
    assert {row.task for row in rows} == {*task_names(), "perplexity_by_position"}
    kinds = {(row.task, row.variant, row.metric) for row in rows if row.depth is None}
    card, page = (run / "model" / "README.md").read_text(), page_data(run / "report.html")
    assert {(row["task"], row["variant"], row["metric"]) for row in page["results"] if row["depth"] is None} == kinds
    for task in task_names():
        assert f"\n{task}" in printed
        assert f"\n{task}".replace("_", r"\_") in card
    for metric in {metric for task, _, metric in kinds if task == "harness"}:
        assert f"| {metric} |".replace("_", r"\_") in card
    assert {row.length for row in rows if row.task == "harness" or row.metric == "effective_length"} == {None}

    written = (run / "results.jsonl").read_bytes()
    (run / "report.html").unlink()
    (run / "model" / "README.md").unlink()
    assert main.main(["extend", "--out", str(run), "--resume"]) == 0
    assert (run / "results.jsonl").read_bytes() == written
    assert (run / "model" / "README.md").read_text() == card
    assert page_data(run / "report.html")["results"] == page["results"]
    assert main.main(["export", str(run), "--out", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "README.md").read_text() == card


def test_no_task_ends_with_card_and_report(
    recipe: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = extend(recipe | {"evaluation": {"tasks": []}}, tmp_path)
    assert "None were measured." in (run / "model" / "README.md").read_text()
    page = page_data(run / "report.html")
    assert page["results"] == []
    assert page["headline"] == "Window extended from 256 to 1k tokens; not evaluated."
    assert "Nothing was evaluated, because evaluation.tasks is empty." in page["runs"][0]["missing"]
    assert main.main(["extend", "--out", str(run), "--resume"]) == 0
    assert "report" in capsys.readouterr().out
