"""`skipwise extend` says which layers a longer window does not reach, and refuses where it reaches none."""

import json
from pathlib import Path
from typing import Any

from skipwise.cli import main
from support import family_configs
from support.tiny import tiny_model, tiny_tokenizer


def saved(family: str, folder: Path, **more: Any) -> Path:
    tiny_model(family_configs.config(family, vocab_size=512, **more), folder)
    tiny_tokenizer(folder)
    return folder


def extend(model: Path, out: Path, *settings: str) -> list[str]:
    text = out.parent / "text.txt"
    text.write_text("\n".join(f"line {i} of a text about nothing at all" for i in range(2000)))
    given = [f"--set={setting}" for setting in ("training.steps=0", "evaluation.tasks=[perplexity]", *settings)]
    return ["extend", "--model", str(model), "--target", "256", "--data", str(text), "--out", str(out), *given]


def test_a_model_whose_layers_all_slide_is_refused_and_nothing_is_written(tmp_path: Path, capsys: Any) -> None:
    model = saved("mistral", tmp_path / "model")
    assert main.main(extend(model, tmp_path / "run")) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "every layer of this model attends within 6 tokens" in error
    assert "--set model.original_length=6" in error
    assert not (tmp_path / "run").exists()


def test_layers_out_of_reach_are_named_in_terminal_card_and_report(tmp_path: Path, capsys: Any) -> None:
    model = saved("qwen2", tmp_path / "model")
    lengths = ["evaluation.lengths=[64]", "evaluation.documents=1", "model.attention=eager", "model.device=cpu"]
    assert main.main(extend(model, tmp_path / "run", *lengths)) == 0
    note = "2 of 4 layers attend within 6 tokens"
    assert note in capsys.readouterr().err
    assert note in (tmp_path / "run/model/README.md").read_text()
    assert note in (tmp_path / "run/report.html").read_text()
    assert note in json.loads((tmp_path / "run/environment.json").read_text())["layers"][0]


def test_no_factors_are_searched_for_a_model_whose_layers_all_slide(tmp_path: Path, capsys: Any) -> None:
    model = saved("mistral", tmp_path / "model")
    (tmp_path / "text.txt").write_text("text " * 4000)
    given = ["--target", "256", "--data", str(tmp_path / "text.txt"), "--out", str(tmp_path / "factors.json")]
    assert main.main(["search", str(model), *given]) == 2
    assert "every layer of this model attends within 6 tokens" in capsys.readouterr().err
    assert not (tmp_path / "factors.json").exists()
