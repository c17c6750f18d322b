"""A run that learns from conversations: alone, mixed with text, resumed, in two processes, and what is refused."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from skipwise.cli import main
from skipwise.utils.atomic_files import read_jsonl
from support.chat import FORGETFUL, assistant, chat_llama, user
from support.tiny import tiny_llama


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_llama(tmp_path_factory.mktemp("models") / "tiny", window=128)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "chats.jsonl"
    turns = [[user("Say this: " + "parser " * (i % 9)), assistant(f"Option {i} of {i % 5}.")] for i in range(60)]
    path.write_text("".join(json.dumps({"messages": each}) + "\n" for each in turns))
    return path


SETTINGS = [
    *("training.steps=6", "training.batch_size=2", "training.train_length=128", "training.save_every=3"),
    *("training.log_every=1", "training.validation_examples=2", "training.learning_rate=1e-2"),
    *("model.precision=float32", "evaluation.tasks=[]"),
]


def words(model: Path, out: Path, paths: list[str], *more: str) -> list[str]:
    where = ["--model", str(model), "--target", "512", "--out", str(out), "--data", *paths]
    return ["extend", *where, *(part for each in (*SETTINGS, *more) for part in ("--set", each))]


def losses(run: Path, kind: str = "train", name: str = "loss") -> list[float]:
    return [row[name] for row in read_jsonl(run / "log.jsonl") if row["kind"] == kind]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model/model.safetensors")


def test_conversations_are_learned_and_a_resumed_run_ends_alike(
    model: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    assert main.main(words(model, whole, [str(chats)], "positions.sampler=skipalign", "training.steps=12")) == 0
    shown = capsys.readouterr().err
    assert "chats.jsonl: its rows are read as conversations (field 'messages')" in shown
    assert "conversations: 60, " in shown
    assert losses(whole)[-1] < 0.8 * losses(whole)[0]
    card, report = ((whole / name).read_text() for name in ("model/README.md", "report.html"))
    for page in (card, report):
        assert "chats.jsonl" in page
        assert "Conversations: 60 with " in page
    shutil.copytree(whole, again)
    shutil.rmtree(again / "model")
    for step in ("step-000012",):
        shutil.rmtree(again / "checkpoints" / step)
    assert main.main(["extend", "--out", str(again), "--resume"]) == 0
    first, second = weights(whole), weights(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_train_as_one(model: Path, chats: Path, tmp_path: Path) -> None:
    alone, two = tmp_path / "alone", tmp_path / "two"
    assert main.main(words(model, alone, [str(chats)])) == 0
    command = [sys.executable, "-m", "skipwise", *words(model, two, [str(chats)]), "--processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("rows are read as conversations") == 1, "one voice"
    assert losses(two) == pytest.approx(losses(alone), rel=1e-5)


@pytest.mark.parametrize("more", [[], ["data.mix=[1, 3]"]])
def test_text_and_conversations_train_together(model: Path, chats: Path, tmp_path: Path, more: list[str]) -> None:
    settings = ["evaluation.tasks=[perplexity]", "evaluation.lengths=[64]", "evaluation.documents=1", *more]
    assert main.main(words(model, tmp_path / "run", [argparse.__file__, f"{chats}::messages"], *settings)) == 0
    assert len(losses(tmp_path / "run")) == 6


def pairs(path: Path) -> Path:
    rows = [{"prompt": f"{i} + {i} = ", "completion": str(2 * i)} for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_base_model_learns_from_pairs(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", window=128)
    assert main.main(words(base, tmp_path / "run", [str(pairs(tmp_path / "sums.jsonl"))])) == 0


def rows(path: Path, *values: Any) -> str:
    path.write_text("".join(json.dumps({"messages": value}) + "\n" for value in values))
    return str(path)


GOOD = [user("Hi"), assistant("Hello.")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[user("Hi")], GOOD], "chat.jsonl:1 has no assistant turn"),
        ([GOOD, GOOD, [user("Hi")]], "chat.jsonl:3 has no assistant turn"),
        ([GOOD, [user("Hi"), {"role": "bot", "content": "x"}]], "chat.jsonl:2: turn 2 has the role 'bot'"),
        ([GOOD, [user("Hi"), assistant("    x")]], "chat.jsonl:2: answer 1 cannot be told from its question"),
        ([[user("Hi " * 300), assistant("x")]] * 3, "no conversation has its first answer within 128 tokens"),
        ([GOOD], "one conversation is too little to hold some out"),
    ],
)
def test_rows_that_cannot_be_learned_from_are_one_line(
    model: Path, values: list[Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = words(model, tmp_path / "run", [rows(tmp_path / "chat.jsonl", *values)])
    assert main.main(command) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("skipwise: "))
    assert message in line
    assert not (tmp_path / "run").exists()


def test_models_that_cannot_take_conversations_are_one_line(
    model: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_llama(tmp_path / "base", window=128)
    forgetful = chat_llama(tmp_path / "forgetful", window=128, template=FORGETFUL)
    thoughts = [user("Hi"), assistant("<think>x</think>Hello."), user("Bye"), assistant("Bye.")]
    thinking = rows(tmp_path / "think.jsonl", *[thoughts] * 3)
    for name, path, more, message in (
        (base, str(chats), [], "chats.jsonl:1 holds turns, and the tokenizer has no chat template"),
        (forgetful, thinking, [], "think.jsonl:1: answer 1 cannot be told from its question exactly"),
        (model, str(chats), ["evaluation.tasks=[perplexity]"], "perplexity needs documents"),
    ):
        assert main.main(words(name, tmp_path / "run", [path], *more)) == 2
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("skipwise: "))
        assert message in line
        assert not (tmp_path / "run").exists()
