"""Real servers in processes of their own: `transformers serve`, and llama.cpp behind `llama_cpp.server`."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from skipwise.config import ModelConfig, RunConfig, validate
from skipwise.export import hugging_face
from skipwise.jobs.extend import extend
from skipwise.models.load import load

ORIGINAL = 256
"""Window of the packaged model, tokens."""


def extended_packaged_model(folder: Path, window: int = 1024) -> Path:
    """The packaged model after 40 steps towards a longer window, in fp32: it finds most pass keys there, not all."""
    run = folder.with_name("run")
    settings = {
        "target_length": window,
        "out": str(run),
        "model": {"path": "bundled"},
        "positions": {"chunks": 3},
        "data": {"paths": ["stdlib-held-out"], "recall": 0.5},
        "training": {"steps": 40, "batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 5, "validate_every": 1000},
        "evaluation": {"tasks": []},
    }
    extend(validate(RunConfig, settings))
    trained = load(ModelConfig(path=str(run / "model"), precision="float32"), dtype=torch.float32)
    hugging_face.save(trained.model, trained.tokenizer, folder, window=window, dtype=torch.float32)
    return folder


@contextlib.contextmanager
def transformers_serve(folder: Path) -> Iterator[str]:
    """Address of the API of `transformers serve` with one model; its name there is the folder."""
    program = shutil.which("transformers", path=str(Path(sys.executable).parent)) or shutil.which("transformers")
    assert program, "the transformers command is not installed"
    command = [program, "serve", str(folder), "--host", "127.0.0.1", "--device", "cpu"]
    with _running(command, folder.parent / f"{folder.name}.log", "health") as address:
        yield address


@contextlib.contextmanager
def llama_cpp_server(path: Path, window: int) -> Iterator[str]:
    """Address of the API of `python -m llama_cpp.server` with one .gguf file, called `packaged` there."""
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(path), "--n_ctx", str(window)]
    command += ["--n_threads", "2", "--model_alias", "packaged", "--host", "127.0.0.1"]
    with _running(command, path.with_suffix(".log"), "v1/models") as address:
        yield address


@contextlib.contextmanager
def _running(command: Sequence[str], log: Path, path: str) -> Iterator[str]:
    """Start a server on a free port, wait until it answers, and end it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with log.open("w") as file:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=file, stderr=file, env={**os.environ, "HF_HUB_OFFLINE": "1"}
        )
    try:
        deadline = time.monotonic() + 300
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", timeout=5):
                    break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)
