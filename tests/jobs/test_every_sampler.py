"""Every sampler trains a tiny model for two steps; its report draws its positions, and its card names it."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from skipwise.cli import main
from skipwise.config.sampler_names import sampler_names
from support.tiny import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", window=64)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


LENGTHS = {**dict.fromkeys(sampler_names(), 64), "full": 256}


@pytest.mark.parametrize(("name", "length"), [*LENGTHS.items(), ("pose", 128)])
def test_extend_and_report(name: str, length: int, model: Path, cache: Path, tmp_path: Path) -> None:
    """The model's window is 64 tokens, so the last example is longer than it."""
    settings = {
        "positions.sampler": name,
        "data.cache": cache,
        "training.steps": 2,
        "training.batch_size": 1,
        "training.train_length": length,
        "training.validation_examples": 1,
        "evaluation.tasks": "[perplexity]",
        "evaluation.lengths": "[64]",
        "evaluation.documents": 1,
    }
    out = tmp_path / "run"
    command = ["extend", "--model", str(model), "--target", "256", "--data", argparse.__file__, "--out", str(out)]
    assert (
        main.main([*command, *(part for pair in settings.items() for part in ("--set", "=".join(map(str, pair))))]) == 0
    )
    (text,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', (out / "report.html").read_text(), re.S
    )
    (run,) = (run for run in json.loads(text)["runs"])
    positions: dict[str, Any] = run["positions"]
    assert positions["example_length"] == length
    assert positions["counted"] == 2
    assert len(positions["chunks"]) == 7
    assert positions["pairs"][0] > 0
    assert name in json.dumps(run)
