"""Suites: what they set, what replaces it, what is left out with its reason, and what they are said to cost."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import yaml

from skipwise.cli import main
from skipwise.config import EvaluationConfig, ModelConfig, validate
from skipwise.config.presets import SUITES
from skipwise.errors import SkipwiseError
from skipwise.evals import prompted, suites, tasks
from skipwise.evals.rows import read
from skipwise.evals.speculative_decoding import Prompt, tokens_to_read
from skipwise.evals.task import Inputs, Task
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import load
from skipwise.planning import suite_times
from support.tiny import tiny_llama, tiny_tokenizer

TEXT = str(Path(argparse.__file__))
CHEAP = {"documents": 2, "trials": 1, "depths": [0.5]}


def settings(**values: Any) -> EvaluationConfig:
    return validate(EvaluationConfig, values, "evaluation")


@pytest.mark.parametrize("name", list(SUITES))
def test_a_suite_gives_defaults_that_everything_else_replaces(name: str) -> None:
    whole = settings(suite=name)
    assert whole.tasks == SUITES[name]["tasks"]
    assert whole.trials == SUITES[name]["trials"]
    assert settings(**whole.model_dump()) == whole, "a configuration that was written out means the same"
    mine = settings(suite=name, tasks=["passkey"], key_value={"pairs": 7})
    assert (mine.tasks, mine.key_value.pairs) == (["passkey"], 7)
    assert mine.key_value.lists == SUITES[name]["key_value"]["lists"], "merged key by key"
    for task in whole.tasks:
        assert suite_times.readings(whole, task) > 0


def test_each_suite_asks_what_the_one_before_it_asks_and_more() -> None:
    quick, standard, thorough = (settings(suite=name) for name in ("quick", "standard", "thorough"))
    for less, more in ((quick, standard), (standard, thorough)):
        assert set(less.tasks) < set(more.tasks)
        assert less.trials < more.trials
        assert less.documents < more.documents
        assert less.key_value.lists < more.key_value.lists


def test_unknown_suites_are_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SkipwiseError, match=r"evaluation\.suite"):
        settings(suite="everything")
    assert main.main(["eval", "bundled", "--suite", "everything"]) == 2
    assert "quick" in capsys.readouterr().err.strip().splitlines()[-1]


def test_tasks_that_do_not_fit_are_left_out_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = Inputs(tiny_tokenizer(tmp_path), settings(suite="thorough", data=[TEXT]))
    fitted = suites.fitted(inputs.settings, [128], [(inputs, None)])
    told = capsys.readouterr().err
    assert "perplexity" in fitted.tasks
    assert "ruler" not in fitted.tasks
    assert "thorough: ruler is left out: " in told
    assert [task for task in inputs.settings.tasks if f"{task} is left out" in told] == [
        task for task in inputs.settings.tasks if task not in fitted.tasks
    ]
    mine = settings(suite="quick", tasks=["ruler"])
    assert suites.fitted(mine, [128], [(inputs, None)]).tasks == ["ruler"], "what is not of the suite is not judged"
    with pytest.raises(SkipwiseError, match="no task of the suite quick"):
        suites.fitted(settings(suite="quick", tasks=["passkey"]), [16], [(inputs, None)])


def test_perplexity_has_text_where_the_user_gives_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = Inputs(tiny_tokenizer(tmp_path), settings(suite="quick"))
    assert suites.fitted(inputs.settings, [256], [(inputs, None)]).data == [suites.TEXT]
    assert f"perplexity is measured on {suites.TEXT}" in capsys.readouterr().err
    assert suites.fitted(inputs.settings, [256], [(inputs, None)], own_text=True).data == []
    long = suites.fitted(inputs.settings, [2**22], [(inputs, None)])
    assert "perplexity" not in long.tasks


def test_the_command_line_measures_a_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tiny_llama(tmp_path / "tiny", layers=1, window=256), tmp_path / "rows.jsonl"
    command = ["eval", str(model), "--suite", "standard", "--lengths", "256", "--data", TEXT, "--out", str(out)]
    assert main.main([*command, "--set", "evaluation.trials=1", "--set", "evaluation.depths=[0.5]"]) == 0
    measured = {row.task for row in read(out)}
    assert {"perplexity", "passkey", "key_value"} <= measured <= set(SUITES["standard"]["tasks"])


def test_a_run_measures_a_suite(tmp_path: Path) -> None:
    recipe = {
        "target_length": 512,
        "model": {"path": "bundled", "precision": "float32"},
        "data": {"paths": [TEXT], "validation": 0.2, "cache": str(tmp_path / "cache")},
        "training": {"steps": 0},
        "evaluation": {"suite": "standard", "lengths": [64, 128], "data": [TEXT], **CHEAP},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run = tmp_path / "run"
    assert main.main(["extend", "--config", str(tmp_path / "recipe.yaml"), "--out", str(run)]) == 0
    measured = {row.task for row in read(run / "results.jsonl")}
    assert {"perplexity", "passkey"} <= measured
    assert measured < {*SUITES["standard"]["tasks"], "perplexity_by_position"}, "what does not fit is left out"
    assert main.main(["extend", "--out", str(run), "--resume"]) == 0


@pytest.mark.parametrize(
    "task", ["passkey", "key_value", "needle", "k_max", "ruler", "non_literal", "mrcr", "babilong"]
)
def test_the_stated_readings_are_those_of_the_prompts(task: str) -> None:
    """Within a fifth at 1,024 tokens; within a half for tasks whose prompts do not fill so short a length."""
    loaded = load(ModelConfig(path="bundled"))
    asked = settings(
        suite="standard", ruler={"samples": 2}, babilong={"samples": 2}, k_max={"distances": 4, "trials": 5}, seed=1
    )
    inputs, declared = Inputs(loaded.tokenizer, asked), tasks.task(task)
    assert isinstance(declared, Task)
    (cells,) = prompted.grid(declared, inputs, [1024]).values()
    asked_prompts: dict[str | None, list[Prompt]] = {}
    for cell in cells:
        made = [declared.question(inputs, cell, trial) for trial in range(cell.n)]
        asked_prompts.setdefault(cell.variant, []).extend(Prompt(q.ids, q.draft) for q in made)
    reader = Reader(loaded.model)
    real = sum(tokens_to_read(reader, prompts) for prompts in asked_prompts.values()) / 1024
    assert real == pytest.approx(
        suite_times.readings(asked, task), rel=0.5 if task in ("ruler", "babilong", "mrcr") else 0.2
    )
