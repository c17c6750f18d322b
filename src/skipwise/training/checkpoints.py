"""The checkpoints of a run: where they are and which is the last."""

import re
from pathlib import Path

WEIGHTS = "model.safetensors"
STATE = "trainer_state.json"  # written last by transformers' convention, read first on resume


def checkpoints_in(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    found = folder.glob("step-*") if folder.is_dir() else []
    return sorted((path for path in found if (path / STATE).is_file()), key=step_of)


def step_of(checkpoint: Path) -> int:
    match = re.fullmatch(r"step-(\d+)", checkpoint.name)
    return int(match[1]) if match else -1


def last_checkpoint(folder: Path) -> Path | None:
    found = checkpoints_in(folder)
    return found[-1] if found else None
