"""What the figures of a run depend on beside its configuration: versions, commit, device."""

import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from skipwise import __version__
from skipwise.models.load import LoadedModel
from skipwise.rope import hf_config


def environment(loaded: LoadedModel) -> dict[str, Any]:
    """What the figures of a run depend on beside its configuration."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    device = loaded.model.device
    on_cpu = f"CPU ({platform.machine()}), {torch.get_num_threads()} threads"
    text = loaded.model.config.get_text_config()
    return {
        "skipwise": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu,
        "commit": commit or None,
        "dirty": bool(changed),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": loaded.model.num_parameters(),
        "original_length": loaded.original_length,
        "quantised_from": loaded.quantised_from,
        "rope": {"dim": hf_config.rotary_dim(text), "theta": hf_config.parameters(text)["rope_theta"]},
    }


def peak_memory() -> int:
    """Most bytes that this process has held: on the GPU where there is one, else in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
