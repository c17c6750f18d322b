"""`skipwise extend`: what is refused before anything slow, memory that cannot suffice, SIGTERM, and damaged runs."""

import argparse
import json
import math
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from cli.test_cli import extend, one_line, process
from skipwise.cli import main
from skipwise.utils.atomic_files import read_jsonl
from support.tiny import tiny_llama

PERPLEXITY = ["--set", "evaluation.tasks=[perplexity]"]
TEXT = Path(argparse.__file__)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", window=64, adds_bos=True)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "finished"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main.main(extend(model, folder, *PERPLEXITY)) == 0
    return folder


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "missing.txt"], "missing.txt"),
        (["--data", "no/such-file.txt"], "no/such-file.txt"),
        (["--set", "evaluation.data=[missing.md]"], "missing.md"),
        (["--set", "evaluation.tasks=[summarize]"], "summarize"),
        (["--set", "training.report_to=[wand]"], "no tracker 'wand'; known are"),
        (["--set", "training.report_to=[mlflow]"], "tracker 'mlflow' is not installed"),
        (["--set", "training.parallel=fsdp"], "training.parallel=fsdp needs several processes"),
    ],
)
def test_refused_before_a_model_is_loaded(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model's weights are no weights, so loading it would be another error."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{}")
    (broken / "model.safetensors").write_text("nothing")
    assert message in one_line(capsys, extend(broken, tmp_path / "new/run", *more))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken"]


def test_adapter_targets_that_match_nothing_are_refused_before_anything_is_measured(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--set", "adapter.method=lora", "--set", "adapter.targets=[q_prj]"]
    assert "did you mean 'q_proj'" in one_line(capsys, extend(model, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_refused_at_once(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the model, which is missing, is looked for, and in a process before torch is imported."""
    assert "already holds a run" in one_line(capsys, extend("./nowhere", finished))
    started = time.monotonic()
    running = process(extend("./nowhere", finished), python=("-X", "importtime"))
    _, text = running.communicate(timeout=120)
    assert running.returncode == 2, text
    assert "already holds a run" in text
    assert " torch" not in text, f"torch was imported; {time.monotonic() - started:.1f} s"


def test_a_model_folder_as_out_gets_no_lock(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(model, tmp_path / "mine")
    before = sorted(path.name for path in (tmp_path / "mine").iterdir())
    assert "holds no run" in one_line(capsys, extend(model, tmp_path / "mine"))
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == before


def test_several_processes_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "WORLD_SIZE=2" in one_line(capsys, extend(model, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_fit(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """4,096 full-length examples: refused by an estimate, where torch would fill the memory for minutes first."""
    settings = ["--set", "positions.sampler=full", "--set", "training.batch_size=4096"]
    line = one_line(capsys, extend(model, tmp_path / "run", *PERPLEXITY, *settings, target="16k"))
    assert "GB are free" in line
    assert "training.batch_size 4,096" in line
    assert not (tmp_path / "run").exists()


def test_a_moved_run_is_resumed(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    shutil.rmtree(moved / "model")
    assert main.main(["extend", "--out", str(moved), "--resume"]) == 0
    weights = [load_file(run / "model/model.safetensors") for run in (moved, finished)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "trainer_state.json"])
def test_a_damaged_checkpoint_does_not_change_the_model(
    name: str, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(finished, damaged)
    shutil.rmtree(damaged / "model")
    path = damaged / "checkpoints/step-000004" / name
    path.write_bytes(path.read_bytes()[:-1])
    (damaged / "environment.json").write_text("{")
    assert main.main(["extend", "--out", str(damaged), "--resume"]) == 0
    said = capsys.readouterr().err
    assert "step-000004 is damaged" in said
    assert "environment.json is damaged" in said
    assert "learning_rate" not in said
    assert json.loads((damaged / "environment.json").read_text())["train_seconds"] > 0
    weights = [load_file(run / "model/model.safetensors") for run in (damaged, finished)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[1])


def test_sigterm_saves_and_says_how_to_go_on(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = process(extend(model, out, *PERPLEXITY, "--set", "training.steps=100000"))
    deadline = time.monotonic() + 240
    while not (out / "log.jsonl").exists() or not read_jsonl(out / "log.jsonl"):
        assert running.poll() is None, running.stderr.read() if running.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    running.send_signal(signal.SIGTERM)
    _, text = running.communicate(timeout=120)
    assert running.returncode == 75, text
    last = text.splitlines()[-1]
    assert last.startswith("skipwise: ended by SIGTERM after step ")
    assert "--resume" in last
    assert "Traceback" not in text
    step = int(last.split("after step ")[1].split(",")[0])
    assert (out / f"checkpoints/step-{step:06d}").is_dir()


def test_scaling_alone_needs_no_text(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without training and perplexity there is nothing to read. With perplexity, documents of its own will do."""
    scale = ["extend", "--model", str(model), "--target", "256", "--set", "training.steps=0"]
    passkey = ["--set", "evaluation.tasks=[passkey]", "--set", "evaluation.lengths=[256]", "--out"]
    assert main.main([*scale, "--set", "evaluation.trials=1", *passkey, str(tmp_path / "a")]) == 0
    assert (tmp_path / "a/model/model.safetensors").exists()
    assert "evaluation.data" in one_line(capsys, [*scale, *PERPLEXITY, "--out", str(tmp_path / "b")])
    assert "--data" in one_line(capsys, [*scale, "--set", "training.steps=1", "--out", str(tmp_path / "b")])
    assert not (tmp_path / "b").exists()


def test_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a command nor a recipe that names no model trains the packaged one."""
    given = ["extend", "--target", "1k", "--data", str(TEXT), "--out", str(tmp_path / "run")]
    assert "no model: give one with --model" in one_line(capsys, given)
    (tmp_path / "recipe.yaml").write_text("target_length: 1k\n")
    assert "no model" in one_line(capsys, [*given, "--config", str(tmp_path / "recipe.yaml")])
    assert not (tmp_path / "run").exists()


def test_a_sharpened_model_has_the_same_weights(model: Path, finished: Path, tmp_path: Path) -> None:
    """The attention factor grows after the training, in what is saved and measured."""
    assert main.main(extend(model, tmp_path / "sharp", *PERPLEXITY, "--set", "training.sharpen=1.3")) == 0
    one, other = (load_file(folder / "model/model.safetensors") for folder in (finished, tmp_path / "sharp"))
    assert all((one[name] == other[name]).all() for name in one)
    config, before = (json.loads((f / "model/config.json").read_text()) for f in (tmp_path / "sharp", finished))
    scaling = config["rope_parameters"]
    assert scaling["attention_factor"] == pytest.approx(1.3 * (0.1 * math.log(scaling["factor"]) + 1))
    assert config["rope_scaling"]["attn_factor"] == pytest.approx(1.3)  # for older loaders
    assert "attention factor multiplied by 1.3 after the training" in (tmp_path / "sharp/model/README.md").read_text()
    assert "attention factor × 1.3 after training" in (tmp_path / "sharp/report.html").read_text()
    assert "attention_factor" not in before["rope_parameters"]
    value, plain = (
        next(r["value"] for r in read_jsonl(f / "results.jsonl") if r["model"] == "extended")
        for f in (tmp_path / "sharp", finished)
    )
    assert value != plain


def test_what_cannot_be_sharpened_is_refused_at_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = extend(model, tmp_path / "out", "--set", "scaling.method=linear", "--set", "training.sharpen=1.2")
    assert "'linear' has no attention factor that loaders read" in one_line(capsys, words)
    assert not (tmp_path / "out").exists()
