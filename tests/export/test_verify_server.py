"""`skipwise verify --server`: a good deployment passes, and each thing that can be wrong with one is named."""

from pathlib import Path
from typing import Any

import pytest

from skipwise.cli import main
from skipwise.config import ServerConfig
from skipwise.export.verify_server import verify_server
from support.openai_server import serving
from support.tiny import tiny_llama, tiny_tokenizer

pytest.importorskip("openai", reason="the OpenAI client is not installed (extra `served`)")

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}answer:"
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 256}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 1,024 tokens by YaRN from 256, with a chat template and a tokenizer that puts `<s>` before a text."""
    folder = tiny_llama(tmp_path_factory.mktemp("models") / "tiny", layers=1, window=1024, rope_parameters=YARN)
    tokenizer = tiny_tokenizer(folder, adds_bos=True)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def states(model: Path, **server: Any) -> dict[str, str]:
    with serving(model, **{"window": 1024, **server}) as address:
        checks = verify_server(ServerConfig(url=address, tokenizer=str(model)))
    return {check.name: check.state for check in checks}


def test_a_good_deployment_passes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(model, window=1024) as address:
        assert main.main(["verify", "--server", address, "--tokenizer", str(model)]) == 0
    printed = capsys.readouterr().out
    assert "1k tokens by vLLM 0.11.0, as in the checkpoint" in printed
    assert printed.count("3 of 3 found") == 4
    assert "needle beyond the original window  ok" in printed


def test_each_thing_that_is_wrong_is_named(model: Path) -> None:
    good = {
        "window admitted": "ok",
        "special tokens": "ok",
        "chat template": "ok",
        "needle at 0.25 of the window": "ok",
        "needle at 0.5 of the window": "ok",
        "needle at 1 of the window": "ok",
        "needle beyond the original window": "ok",
    }
    assert states(model) == good
    assert states(model, special_twice=True) == good | {"special tokens": "failed"}
    assert states(model, template="{{ messages[0].content }}") == good | {"chat template": "failed"}
    assert states(model, cut_at=400) == good | {
        "needle at 0.5 of the window": "failed",
        "needle at 1 of the window": "failed",
    }
    short = states(model, window=256)
    assert short["window admitted"] == "failed"
    assert "needle beyond the original window" not in short


def test_the_command_line_takes_a_folder_or_a_server(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], [str(model), "--server", "http://localhost:1/v1"], [str(model), "--tokenizer", "x"]):
        assert main.main(["verify", *words]) == 2
        assert "--server URL" in capsys.readouterr().err
