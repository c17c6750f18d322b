"""The packaged model behind real servers: the verdicts are those in process, and a lost scaling shows."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import skipwise
from skipwise.cli import main
from skipwise.config import ModelConfig, ServerConfig
from skipwise.evals.rows import Row
from skipwise.evals.tables import served_table
from skipwise.export import hugging_face
from support.real_servers import ORIGINAL, extended_packaged_model, llama_cpp_server, transformers_serve

pytest.importorskip("openai", reason="the OpenAI client is not installed (extra `served`)")

LENGTHS = [ORIGINAL, 512, 1024]
PASSKEY: dict[str, Any] = {"tasks": ["passkey"], "lengths": LENGTHS, "depths": [0.0, 0.25, 0.5, 1.0], "trials": 5}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return extended_packaged_model(tmp_path_factory.mktemp("served") / "extended")


@pytest.fixture(scope="module")
def local(extended: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of the extended model in this process: 60 prompts over three lengths."""
    out = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows = skipwise.evaluate(ModelConfig(path=str(extended), precision="float32"), PASSKEY, out)
    scores = prompts(rows)
    assert len(scores) == 60
    assert 30 < sum(scores) < 60, "both verdicts occur"
    return out


def prompts(rows: list[Row]) -> list[float]:
    return [score for row in rows if row.depth is not None for score in row.scores]


def by_length(rows: list[Row]) -> dict[int | None, float]:
    return {row.length: row.value for row in rows if row.depth is None}


def test_transformers_serve_gives_the_verdicts_in_process(extended: Path, local: Path, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="transformers serve is not installed (extra `serving`)")
    out = Path(shutil.copy(local, tmp_path / "rows.jsonl"))
    with transformers_serve(extended) as address:
        server = ServerConfig(url=address, model=str(extended), concurrency=2)
        rows = skipwise.evaluate(server, PASSKEY, out)
    there = skipwise.evaluate(ModelConfig(path=str(extended), precision="float32"), PASSKEY, out)
    assert [(row.data, row.scores) for row in rows] == [(row.data, row.scores) for row in there]
    assert len(prompts(rows)) == 60
    assert not any(row.cut for row in rows)


def test_a_scaling_that_was_not_read_shows_as_a_map_that_goes_dark(extended: Path, local: Path, tmp_path: Path) -> None:
    """The server has the weights with the original configuration, as an old loader or a flag would give it."""
    pytest.importorskip("fastapi", reason="transformers serve is not installed (extra `serving`)")
    broken = Path(shutil.copytree(extended, tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text(encoding="utf-8"))
    plain = {"rope_type": "default", "rope_theta": config["rope_parameters"]["rope_theta"]}
    config |= {"rope_parameters": plain, "rope_scaling": None, "max_position_embeddings": ORIGINAL}
    config.pop("original_max_position_embeddings", None)
    (broken / "config.json").write_text(json.dumps(config), encoding="utf-8")
    out = Path(shutil.copy(local, tmp_path / "rows.jsonl"))
    with transformers_serve(broken) as address:
        server = ServerConfig(url=address, model=str(broken), tokenizer=str(extended), concurrency=2)
        rows = skipwise.evaluate(server, PASSKEY, out)
    there = skipwise.evaluate(ModelConfig(path=str(extended), precision="float32"), PASSKEY, out)
    dark, light = by_length(rows), by_length(there)
    assert dark[ORIGINAL] >= 0.8
    assert dark[1024] == 0
    assert light[1024] >= 0.3
    table = served_table([*there, *rows])
    assert "served against in process" in table
    assert "worse at 512, 1k tokens, all lengths beyond the original window of 256" in table
    (line,) = [line for line in table.splitlines() if line.startswith("passkey") and " 1k " in line]
    assert line.endswith("points worse")
    page = tmp_path / "page.html"
    assert main.main(["report", str(out), "--out", str(page)]) == 0
    assert "broken (served)" in page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_llama_cpp_gives_the_verdicts_in_process(
    extended: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llama_cpp.server", reason="llama-cpp-python[server] is not installed (extra `llama-cpp`)")
    path = hugging_face.to_gguf(str(extended), tmp_path / "packaged.gguf", dtype="f32")
    out = tmp_path / "rows.jsonl"
    local = skipwise.evaluate(ModelConfig(path=str(path), precision="float32"), PASSKEY, out)
    with llama_cpp_server(path, 1024) as address:
        rows = skipwise.evaluate(ServerConfig(url=address, tokenizer=str(extended), concurrency=1), PASSKEY, out)
        assert main.main(["verify", "--server", address, "--tokenizer", str(extended)]) == 0
    with capsys.disabled():
        right, n = sum(prompts(rows)), len(prompts(rows))
        print(f"\n{right:.0f} of {n} right in llama.cpp, {sum(prompts(local)):.0f} in process")
    assert [(row.data, row.scores) for row in rows] == [(row.data, row.scores) for row in local]
    assert len(prompts(rows)) == 60
    assert not any(row.cut for row in rows)
