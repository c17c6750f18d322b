"""FSDP2: each process holds a part of every weight, its gradient and its optimiser state (accelerate's plugin)."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import distributed, nn
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel, Trainer

from skipwise.training import zero
from skipwise.training.checkpoints import SHARDS
from skipwise.utils.atomic_files import atomic_folder
from skipwise.utils.processes import place

M = TypeVar("M", bound=nn.Module)


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


def reshard(model: nn.Module) -> None:
    """Divide what FSDP2 left whole: after a pass without gradients, the outermost weights, in the arithmetic's type."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


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


def whole(weight: torch.Tensor) -> torch.Tensor:
    """Gather one weight from all processes, which all call this. A weight that is held whole is returned as it is."""
    if zero.is_part(weight):
        return zero.whole_weight(weight)
    return weight.full_tensor() if isinstance(weight, DTensor) else weight


@torch.no_grad()
def fill(weight: torch.Tensor, values: torch.Tensor) -> None:
    """Copy values of the whole shape into a weight, of which this process may hold a part. No process waits."""
    if isinstance(weight, DTensor):
        there = values.to(weight.device, weight.dtype)
        values = distribute_tensor(there, weight.device_mesh, weight.placements, src_data_rank=None)
    weight.copy_(values)


def unfilled(model: PreTrainedModel) -> PreTrainedModel:
    """Make a model of the same class and configuration, with weights of its own."""
    made = type(model)(model.config)
    made.generation_config = model.generation_config
    return made


@torch.no_grad()
def gathered(model: M, make: Callable[[], M], dtype: torch.dtype | None = None) -> M:
    """Gather a sharded model into an ordinary one in the first process, weight by weight.

    Args:
        model: A model that is held whole is returned as it is.
        make: Makes a model with the same names; it is called where tensors have no content.
        dtype: How the gathered weights are stored; as they are when absent.

    Returns:
        A model on the CPU in evaluation mode, tied where `model` is; in the other processes, `model`.
    """
    weights = list(model.named_parameters(remove_duplicate=False))
    if not any(isinstance(weight, DTensor) or zero.is_part(weight) for _, weight in weights):
        return model
    first, shared, plain = place().rank == 0, dict[int, nn.Parameter](), model
    if first:
        with torch.device("meta"):
            plain = make()
    for name, weight in weights:
        if id(weight) not in shared:
            full = whole(weight)
            shared[id(weight)] = nn.Parameter(full.to("cpu", dtype), weight.requires_grad) if first else weight
        if first:
            parent, _, last = name.rpartition(".")
            plain.get_submodule(parent).register_parameter(last, shared[id(weight)])
    if not first:
        return model
    for name, buffer in model.named_buffers(remove_duplicate=False):
        parent, _, last = name.rpartition(".")
        setattr(plain.get_submodule(parent), last, buffer.cpu())
    return plain.eval()
