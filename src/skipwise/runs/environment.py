"""What the figures of a run depend on beside its configuration: versions, commit, device."""

import json
import os
import platform
import resource
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers

from skipwise import __version__
from skipwise.models.load import LoadedModel
from skipwise.rope import hf_config
from skipwise.utils.os_errors import path_error
from skipwise.utils.progress import say
from skipwise.utils.text import count_text

PACKAGE = Path(__file__).resolve().parent.parent


def environment(loaded: LoadedModel) -> dict[str, Any]:
    """Describe versions, commit, device and model of a run.

    Args:
        loaded: The model before its extension.

    Returns:
        The content of environment.json. `commit` is that of Skipwise, or None if it does not run from a checkout.
    """
    device = loaded.model.device
    on_cpu = f"CPU ({platform.machine()}), {count_text(torch.get_num_threads(), 'thread')}"
    text = loaded.model.config.get_text_config()
    return {
        "skipwise": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu,
        **checkout(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "parameters": loaded.model.num_parameters(),
        "original_length": loaded.original_length,
        "quantised_from": loaded.quantised_from,
        "rope": {"dim": hf_config.rotary_dim(text), "theta": hf_config.parameters(text)["rope_theta"]},
    }


def read_environment(path: Path) -> dict[str, Any] | None:
    """Read environment.json; None if the file is missing or, with a warning, damaged.

    Raises:
        PathError: The file cannot be read.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise path_error(error, path, "read") from error
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict) or "original_length" not in values or "device" not in values:
        say(f"warning: {path} is damaged and is written anew; peak memory of the training is lost")
        return None
    return values


def checkout() -> dict[str, Any]:
    """Return the `commit` of Skipwise's checkout, and whether its files differ from it (`dirty`)."""
    commit = checkout_commit(PACKAGE)
    return {"commit": commit, "dirty": bool(commit) and bool(_git(PACKAGE, "status", "--porcelain", "-uno"))}


def checkout_commit(package: Path) -> str | None:
    """Return the commit of the checkout of Skipwise that holds `package`, its folder of modules.

    None for an installed package: the repository in which a user's environment happens to lie is not ours.
    """
    top = _git(package, "rev-parse", "--show-toplevel")
    if not top or (Path(top).resolve() / "src" / "skipwise") != package.resolve():
        return None
    try:
        project = tomllib.loads((Path(top) / "pyproject.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if project.get("project", {}).get("name") != "skipwise" or not _git(package, "ls-files", "__init__.py"):
        return None
    return _git(package, "rev-parse", "HEAD") or None


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints about the repository around a folder; empty if there is no git or no repository."""
    # Within a hook, git's own variables name the repository that the hook runs for.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, env=variables, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def peak_memory() -> int:
    """Return the most bytes that this process has held: on the GPU where there is one, else in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
