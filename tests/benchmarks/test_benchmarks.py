"""Every benchmark runs, in its smallest case: a script that nobody starts falls behind the code that it measures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
SMALLEST = {
    "evaluation.py": "--window 1024 --prompts 20 --script 1",
    "full_length.py": "--model bundled --targets 512 --out FOLDER",
    "gpu.py": "--device cpu --small --only reading --out FOLDER",
    "keeping.py": "--model bundled --steps 2 --pairs 1 --length 64",
    "layouts.py": "--repeats 1 --batches 2",
    "loss.py": "--rows 1 --length 64 --layers 1 --repeats 1",
    "plan.py": "--model bundled --rounds 1 --steps 2",
    "start_up.py": "--model bundled --rounds 1",
    "tokenising.py": "--model bundled --megabytes 1 --rounds 1",
    "training.py": "--model bundled --steps 2 --pairs 1",
}
PRINTS = {
    "evaluation.py": "same verdicts",
    "full_length.py": "full length",
    "gpu.py": "1B reads 512: skipwise / generate",
    "keeping.py": "distill",
    "layouts.py": "ratio",
    "loss.py": '"loss": "sliced"',
    "plan.py": "lora_memory, predicted / measured",
    "start_up.py": '"ratio"',
    "tokenising.py": "ratio:",
    "training.py": "memory, skipwise / plain",
}


def test_every_benchmark_is_named() -> None:
    assert {path.name for path in FOLDER.glob("*.py")} == set(SMALLEST) == set(PRINTS)


@pytest.mark.parametrize("name", sorted(SMALLEST))
def test_smallest_case(name: str, tmp_path: Path) -> None:
    words = [sys.executable, str(FOLDER / name), *SMALLEST[name].replace("FOLDER", str(tmp_path)).split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert PRINTS[name] in done.stdout
