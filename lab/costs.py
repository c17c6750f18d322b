"""What a training costs: seconds of its steps and memory at peak, in a process of its own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lab.bench import Bench, Settings
from skipwise.config import dump_yaml
from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import read_jsonl


@dataclass(frozen=True)
class Cost:
    """What a short training took."""

    seconds: npt.NDArray[np.float64]
    """Of each step but the first two, (S,)."""
    memory: int
    """Bytes at peak of the process."""

    @property
    def middle(self) -> float:
        """Median seconds of a step."""
        return float(np.median(self.seconds))


def cost(bench: Bench, settings: Settings) -> Cost:
    """Measure a short training. It is measured once and kept, as models are.

    Raises:
        SkipwiseError: The training failed.
    """
    short: dict[str, Any] = {"training.steps": 5 if bench.quick else 20, "training.log_every": 1}
    config = bench.config({**settings, **short, "training.warmup_steps": 1}, 0)
    folder = Path(config.out)
    if not (folder / "model").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        dump_yaml(config, folder.with_suffix(".yaml"))
        command = [sys.executable, "-m", "skipwise", "extend", "--config", str(folder.with_suffix(".yaml")), "--resume"]
        if subprocess.run(command, check=False).returncode:
            raise SkipwiseError(f"the training of {folder} failed; its messages are above")
    stamps = [row["seconds"] for row in read_jsonl(folder / "log.jsonl") if row["kind"] == "train"]
    memory = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["peak_memory_bytes"]
    return Cost(np.diff(np.array(stamps, dtype=np.float64))[1:], memory)
