"""Runs by what their text is: streamed and resumed, with what evaluation reads too, and refused settings."""

import argparse
import difflib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skipwise.cli import main
from skipwise.config import EvaluationConfig, Stage
from skipwise.evals import rows
from skipwise.jobs.overlaps import TEXTS
from skipwise.utils.atomic_files import read_jsonl
from support.tiny import tiny_llama

SHORT = [
    *("training.steps=6", "training.batch_size=2", "training.save_every=3", "training.log_every=1"),
    *("training.validation_examples=2", "training.learning_rate=1e-3", "evaluation.lengths=[64]"),
]


def extend(tmp_path: Path, out: str, data: list[str], *settings: str) -> int:
    """Run `skipwise extend` on the tiny model, with a cache of its own."""
    model = tmp_path / "tiny"
    if not model.exists():
        tiny_llama(model, window=64)
    values = [*SHORT, f"data.cache={tmp_path / 'cache'}", *settings]
    command = ["extend", "--model", str(model), "--target", "256", "--out", str(tmp_path / out), "--data", *data]
    return main.main([*command, *(part for value in values for part in ("--set", value))])


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model/model.safetensors")


@pytest.mark.parametrize("finished", [False, True], ids=["unfinished store", "finished store"])
def test_a_streamed_run_resumes_to_the_same_weights(
    tmp_path: Path, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skipwise.data.streaming.WINDOW", 4)
    monkeypatch.setattr("skipwise.jobs.run_inputs.AHEAD", 1)
    monkeypatch.setattr("skipwise.data.store_building.BATCH", 4000)
    data = tmp_path / "data"
    data.mkdir()
    for number, start in enumerate(range(0, 80_000, 4000)):
        (data / f"{number:02}.txt").write_text(Path(argparse.__file__).read_text()[start : start + 4000])
    settings = ("data.streaming=true", "evaluation.tasks=[perplexity]", "evaluation.documents=1")
    assert extend(tmp_path, "whole", [str(data)], *settings) == 0
    (unfinished,) = (tmp_path / "cache").glob("*.unfinished")
    assert len((unfinished / "names.txt").read_text().splitlines()) < 18, "only what is trained on is tokenised"
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again/model")
    shutil.rmtree(tmp_path / "again/checkpoints/step-000006")
    shutil.rmtree(tmp_path / "cache")
    if finished:  # what was tokenised meanwhile makes no difference
        assert extend(tmp_path, "other", [str(data)], "training.steps=1", "evaluation.tasks=[]") == 0
    assert main.main(["extend", "--out", str(tmp_path / "again"), "--resume"]) == 0
    assert [row["step"] for row in read_jsonl(tmp_path / "again/log.jsonl") if row["kind"] == "train"] == [*range(1, 7)]
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "again")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_evaluation_reads_too_is_printed_and_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    shutil.copy(argparse.__file__, data / "one.txt")
    (data / "two.txt").write_text(Path(difflib.__file__).read_text()[:20_000])
    tasks = ("evaluation.tasks=[perplexity, needle]", "evaluation.retrieval_lengths=[256]", "evaluation.trials=1")
    settings = (*tasks, f"evaluation.data=[{difflib.__file__}]", f"evaluation.needle.haystack=[{shutil.__file__}]")
    assert extend(tmp_path, "run", [str(data)], *settings, "evaluation.depths=[0.5]") == 0
    shown = capsys.readouterr().err
    assert "that perplexity reads, of 1 of 1 document, e.g. difflib.py; leave such files out with data.exclude" in shown
    assert "overlap: the training text holds no passage of the texts of needle" in shown
    assert shown.index("overlap:") < shown.index("training: 6 steps")
    shares = {row.task: row.overlap for row in rows.read(tmp_path / "run/results.jsonl")}
    assert shares["needle"] == 0.0
    assert 0.1 < (shares["perplexity"] or 0) < 0.5
    page = (tmp_path / "run/report.html").read_text()
    assert f"{100 * (shares['perplexity'] or 0):.2g}% of the passages of perplexity" in page


def test_every_task_with_texts_is_looked_up() -> None:
    settings = EvaluationConfig()
    named = {"data", "haystack", "essays", "filler"}
    sections = {name: section for name, section in settings if isinstance(section, Stage)}
    reading = {name: named & set(type(section).model_fields) for name, section in sections.items()}
    # Files of published benchmarks hold questions in forms of their own; docs/data.md says that they are not looked up.
    published = {"helmet", "infinitebench", "longbench_v2"}
    assert {name: fields.pop() for name, fields in reading.items() if fields and name not in published} == TEXTS


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["data.duplicates=near", "data.streaming=true"], "data.duplicates=near compares every document with all"),
        (["data.duplicates=some"], "data.duplicates = 'some'"),
        (["data.similarity=0", "data.duplicates=near"], "data.similarity = 0"),
        (["data.minimum_tokens=-1"], "data.minimum_tokens = -1"),
        (["data.minimum_tokens=1m"], "no document has the 1,048,576 tokens that data.minimum_tokens asks for"),
        (["data.minimum_tokens=1m", "data.streaming=true"], "documents need 1,048,576 tokens (data.minimum_tokens)"),
        (["data.streaming=perhaps"], "data.streaming = 'perhaps'"),
    ],
)
def test_settings_of_the_text_that_cannot_work(
    settings: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert extend(tmp_path, "run", [argparse.__file__], *settings) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
