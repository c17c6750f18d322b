"""Tasks are found in their folder: their names in a configuration, and a task that is one new file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skipwise.config import EvaluationConfig, validate
from skipwise.config.task_names import task_names
from skipwise.errors import SkipwiseError
from skipwise.evals.tasks import task
from support import ROOT
from support.tiny import tiny_llama

NEW = """
from skipwise.evals.task import Cell, Question, Task

TASK = Task(
    name="echo",
    version=1,
    metric="accuracy",
    cells=lambda inputs, length: [Cell(length, 2, 1)],
    question=lambda inputs, cell, trial: Question(inputs.encode("one two three"), [], [str(trial)]),
    score=lambda answer, question: 1.0,
)
"""


def run(code: str, *arguments: str, path: Path = ROOT / "src") -> str:
    environment = {**os.environ, "PYTHONPATH": str(path)}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_task_is_found() -> None:
    assert set(task_names()) == {
        *("perplexity", "passkey", "k_max", "key_value", "needle", "document_qa", "summarize", "ruler", "harness"),
        *("babilong", "instructions", "longppl", "mrcr", "non_literal", "placed"),
        *("helmet", "infinitebench", "longbench_v2"),
    }
    assert [task(name).name for name in task_names()] == list(task_names())


def test_an_unknown_task_is_named_with_the_nearest_one() -> None:
    with pytest.raises(SkipwiseError, match=r"evaluation\.tasks = 'passkeys': expected .*; did you mean 'passkey'\?"):
        validate(EvaluationConfig, {"tasks": ["needle", "passkeys"]}, "evaluation")


def test_names_are_checked_without_torch() -> None:
    code = (
        "import sys; from skipwise.config import EvaluationConfig; EvaluationConfig(tasks=['ruler', 'harness']);"
        "print([name for name in ('torch', 'numpy', 'transformers', 'skipwise.evals') if name in sys.modules])"
    )
    assert run(code).strip() == "[]"


def test_a_new_task_is_one_file(tmp_path: Path) -> None:
    package = tmp_path / "src" / "skipwise"
    shutil.copytree(ROOT / "src" / "skipwise", package, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
    (package / "evals" / "tasks" / "echo.py").write_text(NEW, encoding="utf-8")
    model = tiny_llama(tmp_path / "model", window=64)
    code = "import sys; from skipwise.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = ["eval", str(model), "--tasks", "echo", "--lengths", "32,64", "--out", str(tmp_path / "rows.jsonl")]
    printed = run(code, *command, path=package.parent)
    assert "echo (accuracy)" in printed
    assert "100%" in printed
