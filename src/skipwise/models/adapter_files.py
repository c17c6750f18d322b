"""Folders that hold a LoRA adapter in PEFT's form: what they say of their base, read without torch.

An adapter is a change to a base model. Such a folder counts as a model where that base can be read; the two are merged
while they are loaded (`models.merging`). A config.json beside the adapter counts before the base's own: a run's
`adapter/` has the scaled RoPE there.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.errors import SkipwiseError
from skipwise.models.weight_files import read_header

SETTINGS = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
REFUSED = {
    "alora_invocation_tokens": "is switched on by certain tokens",
    "layer_replication": "repeats layers of its base",
}
"""Settings of PEFT under which an adapter cannot be merged into its base, and what such an adapter does."""


class Base(NamedTuple):
    """The base model that an adapter names."""

    path: str
    """A folder, a hub id or a packaged name."""
    revision: str | None


def is_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter."""
    return (folder / SETTINGS).is_file()


def base_of(folder: Path) -> Base:
    """Read which model an adapter belongs to.

    Raises:
        SkipwiseError: The settings of the adapter are not readable, of another kind than LoRA, of a kind that cannot be
            merged, or name no base.
    """
    file = folder / SETTINGS
    try:
        settings: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SkipwiseError(f"{file} cannot be read ({error}); copy the adapter again") from error
    if not isinstance(settings, dict):
        raise SkipwiseError(f"{file} holds no JSON mapping; copy the adapter again")
    merge = "merge it with the tool that made it, and give the merged model"
    if settings.get("peft_type") != "LORA":
        raise SkipwiseError(f"{folder} holds an adapter of type {settings.get('peft_type')}: expected LORA; {merge}")
    if settings.get("task_type") not in (None, "CAUSAL_LM"):
        task = settings["task_type"]
        raise SkipwiseError(f"{folder} holds an adapter for {task}: expected one of a causal language model, CAUSAL_LM")
    for key, does in REFUSED.items():
        if settings.get(key):
            raise SkipwiseError(f"{folder} holds an adapter that {does} ({key}), which cannot be merged; use PEFT")
    path, revision = settings.get("base_model_name_or_path"), settings.get("revision")
    if not isinstance(path, str) or not path:
        raise SkipwiseError(f"{file} names no base model; write its folder or hub id as base_model_name_or_path")
    return Base(path, revision if isinstance(revision, str) else None)


def leads_back(folder: Path) -> bool:
    """Tell whether the base of an adapter, or the base of that one, is an adapter that was met before."""
    met, place = set[Path](), folder.resolve()
    while is_adapter(place) and place not in met:
        met.add(place)
        try:
            place = Path(base_of(place).path).expanduser().resolve()
        except SkipwiseError:  # reported where that folder is read
            return False
    return place in met


def check_weights(folder: Path) -> None:
    """Check that the weights of an adapter are there and whole.

    Raises:
        SkipwiseError: They are missing, pickled, or cut short.
    """
    if not (folder / WEIGHTS).is_file():
        old = any(folder.glob("*.bin"))
        hint = "; only pickled ones, which can run code: convert them to safetensors first" if old else ""
        raise SkipwiseError(f"{folder} holds an adapter without {WEIGHTS}{hint}")
    try:
        read_header(folder / WEIGHTS)
    except SkipwiseError as error:
        raise SkipwiseError(f"cannot read the adapter of {folder}: {error}") from error
