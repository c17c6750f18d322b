"""`skipwise.evaluate`: models and runs from Python, and what is refused before the first model is loaded."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import skipwise
from skipwise.cli import main
from skipwise.config import EvaluationConfig, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import read
from support.tiny import tiny_llama

WORDS = " ".join(f"word{i}" for i in range(400))
SHORT: dict[str, Any] = {"tasks": ["passkey"], "lengths": [256], "trials": 1, "depths": [0.5]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", layers=1, window=256)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the models that are loaded."""
    from skipwise.jobs import evaluate as job
    from skipwise.models import load as module

    paths: list[str] = []

    def load(config: ModelConfig) -> Any:
        paths.append(config.path)
        return module.load(config)

    monkeypatch.setattr(job, "load", load)
    return paths


def a_run(folder: Path, model: Path) -> Path:
    """A run folder with a finished model."""
    folder.mkdir()
    (folder / "config.yaml").write_text("target_length: 512\n", encoding="utf-8")
    (folder / "model").symlink_to(model)
    return folder


def test_models_and_runs_from_python(model: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", layers=1, window=512, seed=1)
    run = a_run(tmp_path / "my-run", other)
    out = tmp_path / "new" / "rows.jsonl"
    (tmp_path / "text.txt").write_text(WORDS, encoding="utf-8")
    settings = SHORT | {"tasks": ["perplexity", "passkey"], "data": [str(tmp_path / "text.txt")]}
    rows = skipwise.evaluate([model, str(run)], settings, out)
    assert {row.model for row in rows} == {"tiny", "my-run"}
    assert {row.path for row in rows} == {str(model), str(run / "model")}
    assert {row.task for row in rows} == {"perplexity", "passkey"}
    assert {row.length for row in rows} == {256}
    written = out.read_bytes()
    assert sorted(read(out), key=lambda row: row.identity) == sorted(rows, key=lambda row: row.identity)
    again = skipwise.evaluate(
        [ModelConfig(path=str(model)), str(run)], EvaluationConfig.model_validate(settings), str(out)
    )
    assert again == rows
    assert out.read_bytes() == written


def test_lengths_are_the_same_for_all_models(model: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", layers=1, window=512, seed=1)
    rows = skipwise.evaluate([other, model], SHORT | {"lengths": None}, tmp_path / "rows.jsonl")
    lengths = {name: {row.length for row in rows if row.model == name} for name in ("tiny", "other")}
    assert lengths["tiny"] == lengths["other"] == {256, 512}  # 64 and 128 cannot hold a prompt


def test_two_models_of_one_name_are_told_apart(model: Path, tmp_path: Path) -> None:
    same = tiny_llama(tmp_path / "tiny", layers=1, window=256, seed=1)
    rows = skipwise.evaluate([model, same], SHORT, tmp_path / "rows.jsonl")
    assert {row.model for row in rows} == {str(model), str(same)}


def test_a_run_on_the_command_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = a_run(tmp_path / "my-run", model)
    options = ["--tasks", "passkey", "--lengths", "256", "--set", "evaluation.depths=[0.5]"]
    assert main.main(["eval", str(run), *options, "--out", str(tmp_path / "rows.jsonl")]) == 0
    assert "my-run" in capsys.readouterr().out


REFUSED: dict[str, tuple[Callable[[Path], Any], dict[str, Any], str, str]] = {
    "a second model that is not there": (lambda here: here / "none", {}, "rows.jsonl", "none"),
    "a second model that is no model": (lambda here: here, {}, "rows.jsonl", "no config.json"),
    "a run without a model": (lambda here: here / "unfinished", {}, "rows.jsonl", "has no model yet"),
    "a configuration that is no JSON": (lambda here: here / "broken", {}, "rows.jsonl", "broken"),
    "documents that are not there": (lambda here: None, {"tasks": ["perplexity"], "data": ["none.txt"]}, "", "none"),
    "documents that are too short": (
        lambda here: None,
        {"tasks": ["perplexity"], "data": ["HERE/short.txt"]},
        "",
        "short.txt",
    ),
    "no documents": (lambda here: None, {"tasks": ["perplexity"]}, "", "needs documents"),
    "no tasks": (lambda here: None, {"tasks": []}, "", "evaluation.tasks is empty"),
    "an unknown task": (lambda here: None, {"tasks": ["passkeys"]}, "", "did you mean 'passkey'"),
    "a length that holds no prompt": (lambda here: None, {"lengths": [32]}, "", "too short"),
    "prose that is not there": (
        lambda here: None,
        {"tasks": ["passkey", "needle"], "needle": {"haystack": ["none.txt"]}},
        "",
        "none.txt",
    ),
    "benchmarks that are not there": (
        lambda here: None,
        {"tasks": ["passkey", "harness"], "harness": {"tasks": ["none.jsonl"]}},
        "",
        "no such file",
    ),
    "summaries that are not named": (lambda here: None, {"tasks": ["passkey", "summarize"]}, "", "summarize.data"),
    "rows that go to a folder": (lambda here: None, {}, "unfinished", "is a folder"),
    "rows that go below a file": (lambda here: None, {}, "short.txt/rows.jsonl", "short.txt"),
    "rows that go into another file": (lambda here: None, {}, "short.txt", "short.txt line 1"),
}


@pytest.mark.parametrize(("second", "settings", "out", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_before_a_model_is_loaded(
    second: Callable[[Path], Any],
    settings: dict[str, Any],
    out: str,
    message: str,
    model: Path,
    tmp_path: Path,
    loads: list[str],
) -> None:
    (tmp_path / "short.txt").write_text("a few words\n", encoding="utf-8")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text("target_length: 512\n", encoding="utf-8")
    broken = tiny_llama(tmp_path / "broken", layers=1)
    (broken / "config.json").write_text("{", encoding="utf-8")
    before = sorted(tmp_path.rglob("*"))
    settings = json.loads(json.dumps(SHORT | settings).replace("HERE", str(tmp_path)))
    models = [model, *([second(tmp_path)] if second(tmp_path) else [])]
    with pytest.raises(SkipwiseError) as error:
        skipwise.evaluate(models, settings, tmp_path / (out or "rows.jsonl"))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not loads
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("task", "package", "extra"),
    [
        ("harness", "lm_eval.models.huggingface", "harness"),
        ("summarize", "rouge_score.rouge_scorer", "summarize"),
        ("ruler", "wonderwords", "ruler"),
    ],
)
def test_a_missing_package_is_named_before_a_model_is_loaded(
    task: str, package: str, extra: str, model: Path, tmp_path: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skipwise.evals.tasks import summarize
    from skipwise.evals.tasks.ruler import prompts

    summarize.scorer.cache_clear()
    prompts.words.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SkipwiseError, match=rf"pip install 'skipwise\[{extra}\]'"):
        skipwise.evaluate(model, SHORT | {"tasks": ["passkey", task]}, tmp_path / "rows.jsonl")
    assert not loads


def test_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SkipwiseError, match="no model to evaluate"):
        skipwise.evaluate([], SHORT, tmp_path / "rows.jsonl")
