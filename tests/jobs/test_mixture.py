"""A run whose sources are mixed by weight: it trains, resumes to the same weights, and says what it learned from."""

import argparse
import difflib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from skipwise.cli import main
from skipwise.utils.atomic_files import read_jsonl
from support.tiny import tiny_llama


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def words(model: Path, out: Path, *settings: str) -> list[str]:
    values = [
        *("training.steps=6", "training.batch_size=2", "training.save_every=3", "training.log_every=1"),
        *("training.validation_examples=4", "training.learning_rate=1e-3", "evaluation.tasks=[perplexity]"),
        *("evaluation.lengths=[64]", "evaluation.documents=1", "data.mix=[3, 1, 0]", "data.plain=0.3", *settings),
    ]
    paths = [argparse.__file__, difflib.__file__, shutil.__file__]
    command = ["extend", "--model", str(model), "--target", "256", "--out", str(out), "--data", *paths]
    return [*command, *(part for value in values for part in ("--set", value))]


def test_a_mixture_trains_and_resumes_to_the_same_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_llama(tmp_path / "tiny", window=64)
    assert main.main(words(model, tmp_path / "whole")) == 0
    shown = capsys.readouterr().err
    assert "argparse.py: 1 documents" in shown
    assert "difflib.py: 1 documents" in shown
    assert "shutil.py" not in shown, "a source without weight is not read"
    card, report = ((tmp_path / "whole" / name).read_text() for name in ("model/README.md", "report.html"))
    assert "argparse.py (75%)" in card
    assert "difflib.py (25%)" in report
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again/model")
    shutil.rmtree(tmp_path / "again/checkpoints/step-000006")
    assert main.main(["extend", "--out", str(tmp_path / "again"), "--resume"]) == 0
    assert [row["step"] for row in read_jsonl(tmp_path / "again/log.jsonl") if row["kind"] == "train"] == [*range(1, 7)]
    first, second = (load_file(tmp_path / run / "model/model.safetensors") for run in ("whole", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "data.mix=[1, 1]",
            "data.mix = [1, 1]: expected one weight for each source, and there are 2 for 3 sources",
        ),
        ("data.mix=[0, 0, 0]", "data.mix = [0, 0, 0]: the weights sum to nothing"),
        ("positions.sampler=full", "data.plain 0.3: examples of positions.sampler=full"),
    ],
)
def test_a_mixture_of_nothing_is_refused(
    setting: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "tiny", window=64)
    assert main.main(words(model, tmp_path / "run", setting)) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_document_of_two_sources_is_learned_from_in_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "tiny", window=64)
    for folder, files in (("a", [argparse.__file__]), ("b", [argparse.__file__, difflib.__file__]), ("c", [])):
        (tmp_path / folder).mkdir()
        for file in [*files, *([difflib.__file__] if folder == "c" else [])]:
            shutil.copy(file, tmp_path / folder)
    command = words(model, tmp_path / "out", "training.steps=1", "evaluation.tasks=[]", "data.mix=[1, 1]")
    start = command.index("--data") + 1
    settings = command[start + 3 :]
    paths = [str(tmp_path / name) for name in "abc"]
    assert main.main([*command[:start], *paths[:2], *settings]) == 0
    shown = capsys.readouterr().err
    assert ", 1 exact duplicate of earlier sources" in shown
    assert "b: 1 documents" in shown
    command[command.index("--out") + 1] = str(tmp_path / "other")
    assert main.main([*command[:start], *paths, *settings, "--set", "data.mix=[1, 1, 1]"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith(f"skipwise: {paths[2]}: every document that could be used is in an earlier source")
