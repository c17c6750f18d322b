"""The checkpoints of a run: their names, their checksums and the last one that can be used."""

import hashlib
import json
import re
import shutil
from pathlib import Path

from skipwise.utils.atomic_files import write_text
from skipwise.utils.progress import say

WEIGHTS = "model.safetensors"
ADAPTER = "adapter.safetensors"
"""In place of WEIGHTS and SHARDS where only a part of the weights is trained: that part."""
SHARDS = "pytorch_model_fsdp_0"
"""In place of WEIGHTS under FSDP: a folder with the shards of all processes."""
OPTIMIZER = "optimizer.pt"
OPTIMIZER_SHARDS = "optimizer_0"
"""In place of OPTIMIZER under FSDP."""
ZERO = "latest"
"""In place of WEIGHTS and OPTIMIZER under DeepSpeed: names the folder with the parts of all processes."""
SCHEDULER = "scheduler.pt"
STATE = "trainer_state.json"
"""The last file that transformers writes into a checkpoint."""
CHECKSUMS = "checksums.json"
"""SHA-256 of every other file of a checkpoint, by name."""


def checkpoints_in(folder: Path) -> list[Path]:
    """List the whole checkpoints of a run, oldest first, without reading them."""
    folders = folder.glob("step-*") if folder.is_dir() else []
    return sorted((path for path in folders if (path / STATE).is_file()), key=step_of)


def clear_partial_checkpoints(folder: Path) -> None:
    """Remove the checkpoints that a killed process was writing."""
    for partial in folder.glob(".step-*") if folder.is_dir() else []:
        shutil.rmtree(partial)


def step_of(checkpoint: Path) -> int:
    """Return the step after which a checkpoint was written; -1 for a folder that is none."""
    match = re.fullmatch(r"step-(\d+)", checkpoint.name)
    return int(match[1]) if match else -1


def write_checksums(checkpoint: Path) -> None:
    """Write the checksums of all files that a checkpoint holds."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    sums = {path.relative_to(checkpoint).as_posix(): _sha256(path) for path in files}
    write_text(checkpoint / CHECKSUMS, json.dumps(sums, indent=1) + "\n")


def damage(checkpoint: Path) -> str | None:
    """Say which file of a checkpoint is missing or not as it was written; None when all are well."""
    try:
        sums = json.loads((checkpoint / CHECKSUMS).read_bytes())
        expected = {str(name): str(value) for name, value in sums.items()}
    except (OSError, ValueError, AttributeError):
        return f"{CHECKSUMS} is missing or unreadable"
    for name in sorted({*_required(set(expected)), *expected}):
        if name not in expected:
            return f"{name} has no checksum"
        try:
            if _sha256(checkpoint / name) != expected[name]:
                return f"{name} is not as it was written"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def _required(names: set[str]) -> set[str]:
    """Files without which a resumed training would end with other weights; transformers passes over a missing one.

    Args:
        names: Of all files in the checkpoint, which tell how the training held its weights.
    """
    if ZERO in names:
        return {ZERO, SCHEDULER, STATE}
    folders = {name.partition("/")[0] for name in names if "/" in name}
    weights = f"{SHARDS}/.metadata" if SHARDS in folders else WEIGHTS
    optimizer = f"{OPTIMIZER_SHARDS}/.metadata" if OPTIMIZER_SHARDS in folders else OPTIMIZER
    return {ADAPTER if ADAPTER in names else weights, optimizer, SCHEDULER, STATE}


def usable_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint whose files are as they were written, with a warning for each newer one that is not.

    Returns:
        None when there is no such checkpoint; training then starts at its first step.
    """
    for checkpoint in reversed(checkpoints_in(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        say(f"warning: checkpoint {checkpoint} is damaged and is not used: {problem}")
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
