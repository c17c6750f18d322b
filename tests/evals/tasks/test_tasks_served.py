"""The tasks of scattered facts, conversations, needles and key tokens, asked through a server as in process."""

from pathlib import Path
from typing import Any

import pytest

import skipwise
from skipwise.config import ModelConfig, ServerConfig
from skipwise.evals.paired_change import pairs
from support.openai_server import serving
from support.tiny import tiny_llama


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny", window=1024)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    book = tmp_path_factory.mktemp("text") / "book.txt"
    book.write_text(" ".join(f"The {i} rivers of valley {i % 7} run to the sea." for i in range(90)), encoding="utf-8")
    return {
        "lengths": [800],
        "depths": [0.5],
        "trials": 1,
        "data": [str(book)],
        "babilong": {"kinds": [1, 4], "samples": 2, "examples": False, "filler": [str(book)]},
        "mrcr": {"needles": [2], "samples": 2, "conversations": 1, "sentences": 1},
        "non_literal": {"filler": [str(book)]},
        "longppl": {"gain": 0.1, "log_probability": -20.0, "short_context": 64, "step": 16},
    }


def test_served_and_in_process_agree(model: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    settings = {**settings, "tasks": ["babilong", "mrcr", "non_literal"]}
    local = skipwise.evaluate(ModelConfig(path=str(model), precision="float32"), settings, tmp_path / "rows.jsonl")
    with serving(model, generate=True, window=1024) as address:
        server = ServerConfig(url=address, tokenizer=str(model))
        served = skipwise.evaluate(server, settings, tmp_path / "rows.jsonl")
    assert [row.variant for row in local] == [row.variant for row in served]
    assert [(row.data, row.scores, row.answers) for row in local] == [
        (row.data, row.scores, row.answers) for row in served
    ]
    assert len(list(pairs(local, served))) == len(local)


def test_key_tokens_of_a_served_model_are_those_in_process(
    model: Path, settings: dict[str, Any], tmp_path: Path
) -> None:
    settings = {**settings, "tasks": ["longppl"], "lengths": [200, 400]}
    exact = ModelConfig(path=str(model), precision="float32")
    local = skipwise.evaluate(exact, settings, tmp_path / "rows.jsonl")
    with serving(model, generate=True, window=1024) as address:
        server = ServerConfig(url=address, tokenizer=str(model))
        served = skipwise.evaluate(server, settings, tmp_path / "rows.jsonl")
        named = {**settings, "longppl": {**settings["longppl"], "evaluator": str(model)}}
        by_file = skipwise.evaluate(server, named, tmp_path / "rows.jsonl")
    assert [(row.variant, row.counts) for row in served] == [(row.variant, row.counts) for row in local]
    assert [row.value for row in served] == [pytest.approx(row.value, rel=1e-4) for row in local]
    assert not list(pairs(local, served))
    by_itself = skipwise.evaluate(str(model), settings, tmp_path / "rows.jsonl")
    assert len(list(pairs(by_itself, by_file))) == len(local) == 4
