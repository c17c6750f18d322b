"""Find where numbers stop being finite: one replay of a batch, example by example, with hooks on every module."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn

from skipwise.utils.atomic_files import write_text
from skipwise.utils.processes import place

DUMP = "nonfinite.json"


@dataclass(frozen=True)
class FaultyExample:
    """An example whose forward pass is not finite.

    Attributes:
        example: Its index in the training.
        module: The first module whose output holds NaN or infinity.
    """

    example: int
    module: str


@torch.no_grad()
def locate(loss: nn.Module, inputs: Mapping[str, Tensor], first: int) -> list[FaultyExample]:
    """Replay a batch and name the examples that are not finite, with the module where each begins to be so.

    Args:
        loss: The module that was trained. Under FSDP every process calls this with a batch of the same size.
        inputs: Tensors [B, T] on the device of the model.
        first: Index of the batch's first example.
    """
    names: list[str] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple | list) and output else output
            value = getattr(value, "last_hidden_state", value)
            if isinstance(value, Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
                names.append(name)

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in loss.named_modules() if name]
    places = []
    try:
        for i in range(len(inputs["input_ids"])):
            names.clear()
            value = loss(**{name: tensor[i : i + 1] for name, tensor in inputs.items()})["loss"]
            if names or not torch.isfinite(value):
                places.append(FaultyExample(first + i, names[0].removeprefix("model.") if names else "the loss"))
    finally:
        for hook in hooks:
            hook.remove()
    return places


def of_all_processes(places: list[FaultyExample]) -> list[FaultyExample]:
    """Collect the places of all processes, in the order of the examples; the same on each."""
    if not distributed.is_initialized():
        return places
    parts: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(parts, places)
    return sorted((each for part in parts for each in part), key=lambda each: each.example)


def write(folder: Path, step: int, places: list[FaultyExample]) -> str:
    """Write the places to a file of the run, and describe them in a few words.

    Args:
        folder: The run folder.
        step: The step, from 1.
        places: At least one.
    """
    if place().rank == 0:
        values = {"step": step, "places": [asdict(each) for each in places]}
        write_text(folder / DUMP, json.dumps(values, indent=1) + "\n")
    others = f" and {len(places) - 1} more" if len(places) > 1 else ""
    return f"it begins in {places[0].module} with example {places[0].example}{others}, see {folder / DUMP}"
