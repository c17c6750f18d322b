"""FSDP2: each process holds a part of every weight, its gradient and its optimiser state (accelerate's plugin)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel, Trainer

from skipwise.training import zero
from skipwise.training.checkpoints import SHARDS
from skipwise.utils.atomic_files import atomic_folder
from skipwise.utils.processes import place


def fsdp_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Return transformers' settings of FSDP2: one unit for each decoder layer, checkpoints in shards."""
    lists = [module for module in model.get_decoder().modules() if isinstance(module, nn.ModuleList) and len(module)]
    layers = max(lists, key=lambda each: sum(weight.numel() for weight in each.parameters()))
    return {
        "version": 2,
        "reshard_after_forward": True,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": sorted({type(layer).__name__ for layer in layers}),
        "state_dict_type": "SHARDED_STATE_DICT",
        "cpu_ram_efficient_loading": False,
    }


def use_fsdp(trainer: Trainer, precision: str) -> None:
    """Let a Trainer whose arguments ask for FSDP shard the model on every device, and add gradients up in fp32.

    accelerate leaves the plugin out on CPUs, where FSDP2 works over gloo.
    """
    state = trainer.accelerator.state
    if not trainer.is_fsdp_enabled:
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
        state.distributed_type = DistributedType.FSDP
        trainer.is_fsdp_enabled = True
    if precision == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        state.fsdp_plugin.mixed_precision_policy = policy


@contextlib.contextmanager
def shared_folder(path: Path) -> Iterator[Path]:
    """Yield one temporary folder in all processes. It becomes `path` when all of them have left the block."""
    name: list[Any] = [None]
    if place().rank == 0:
        with atomic_folder(path) as folder:
            distributed.broadcast_object_list([str(folder)], src=0, device=torch.device("cpu"))
            yield folder
    else:
        distributed.broadcast_object_list(name, src=0, device=torch.device("cpu"))
        yield Path(name[0])
    distributed.barrier()


def local(weight: torch.Tensor) -> torch.Tensor:
    """Return the part of a sharded weight that this process holds; any other weight as it is."""
    if isinstance(weight, DTensor):
        return weight.to_local()
    part: torch.Tensor = getattr(weight, "ds_tensor", weight)
    return part


def trained_parameters(model: torch.nn.Module) -> int:
    """Count the trained parameters of a model, whose weights may be sharded."""
    weights = (weight for weight in model.parameters() if weight.requires_grad)
    return sum(int(getattr(weight, "ds_numel", weight.numel())) for weight in weights)


def load_shards(loss: nn.Module, checkpoint: Path) -> None:
    """Read the shards of a checkpoint into a model that is held whole."""
    state = {"model": loss.state_dict()}
    load(state, checkpoint_id=checkpoint / SHARDS, no_dist=True)


@torch.no_grad()
def gathered(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Gather a sharded model into an ordinary one in the first process, weight by weight.

    Args:
        model: A model that is held whole is returned as it is.
        dtype: How the gathered weights are stored.

    Returns:
        In the other processes, `model`.
    """
    parts = zero.is_zero(model)
    if not parts and not any(isinstance(weight, DTensor) for weight in model.parameters()):
        return model
    first, state = place().rank == 0, dict[str, torch.Tensor]()
    for name, weight in model.named_parameters():
        whole = zero.whole_weight(weight) if parts else weight
        whole = whole.full_tensor() if isinstance(whole, DTensor) else whole
        if first:
            state[name] = whole.to("cpu", dtype)
    if not first:
        return model
    with torch.device("meta"):
        plain = type(model)(model.config)
    plain.load_state_dict(state, strict=False, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain.eval()
