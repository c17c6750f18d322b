"""DeepSpeed ZeRO: each process holds a part of the optimiser state, the gradients and, under stage 3, the weights.

The model is loaded before DeepSpeed is set up, so `zero.Init` never makes its RoPE tables. Weights stay in fp32 and are
cast by autocast, as in one process: DeepSpeed's own bf16 mode would cast the tables too.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import Trainer

from skipwise.config import TrainingConfig
from skipwise.errors import SkipwiseError

SETTINGS: dict[str, Any] = {
    "zero_optimization": {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}},
    # torch's fused AdamW runs on the CPU too, and needs no compiler there.
    "zero_force_ds_cpu_optimizer": False,
}
"""Without `training.parallel_config`: ZeRO-3 with weights and optimiser state in CPU memory."""
OURS = {
    "train_batch_size": "training.batch_size",
    "train_micro_batch_size_per_gpu": "training.batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer": "training.learning_rate and training.weight_decay",
    "scheduler": "training.schedule and training.warmup_steps",
    "bf16": "model.precision",
    "fp16": "model.precision",
    "torch_autocast": "model.precision",
}
"""Keys of DeepSpeed's configuration that Skipwise sets, and the setting that each comes from."""
REFUSED = {
    "sequence_parallel_size": "it reads jumps of position_ids as borders of packed texts",
    "tensor_parallel": "only data are parallel here",
    "pipeline": "only data are parallel here",
}
"""Keys that cannot be used, and why."""
PARTS = "global_step*/*zero_pp_rank_*_optim_states.pt"
"""Files of a checkpoint, one for each process."""


def is_part(weight: Tensor) -> bool:
    """Tell whether DeepSpeed holds a weight in parts (stage 3)."""
    return hasattr(weight, "ds_tensor")


def check(config: TrainingConfig) -> None:
    """Refuse settings of DeepSpeed that cannot work, before a model is loaded.

    Raises:
        SkipwiseError: DeepSpeed is not installed, or its file is without use, unreadable or collides with settings.
    """
    if config.parallel != "deepspeed":
        if config.parallel_config is not None:
            raise SkipwiseError(
                "training.parallel_config is read under training.parallel=deepspeed alone; set that, or leave it out"
            )
        return
    if importlib.util.find_spec("deepspeed") is None:
        raise SkipwiseError("training.parallel=deepspeed needs DeepSpeed: pip install 'skipwise[deepspeed]'")
    file_settings(config)


def file_settings(config: TrainingConfig) -> dict[str, Any]:
    """Read the file of DeepSpeed's settings, without those that are `auto`.

    Raises:
        SkipwiseError: As `check`.
    """
    if config.parallel_config is None:
        return json.loads(json.dumps(SETTINGS))  # type: ignore[no-any-return]
    path = Path(config.parallel_config).expanduser()
    place = f"training.parallel_config: {path}"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SkipwiseError(f"{place} cannot be read ({error.strerror}); give a JSON file of DeepSpeed") from error
    except (ValueError, RecursionError) as error:
        raise SkipwiseError(f"{place} is not JSON ({error}); give a JSON file of DeepSpeed") from error
    if not isinstance(values, dict):
        raise SkipwiseError(f"{place} holds {type(values).__name__}: expected a JSON object, as DeepSpeed reads it")
    values = _chosen(values)
    for key in values:
        if key in OURS:
            raise SkipwiseError(f"{place} sets {key!r}, which comes from {OURS[key]}; remove it from the file")
        if key in REFUSED:
            raise SkipwiseError(f"{place} sets {key!r}, which cannot be used: {REFUSED[key]}; remove it from the file")
    zero = values.get("zero_optimization")
    stage = zero.get("stage") if isinstance(zero, dict) else None
    if stage not in (1, 2, 3):
        raise SkipwiseError(f"{place}: zero_optimization.stage is {stage}: expected 1, 2 or 3")
    return values


def _chosen(values: dict[str, Any]) -> dict[str, Any]:
    """The values that are not `auto`, which leaves them to transformers; sections without any are left out."""
    parts = {key: _chosen(value) if isinstance(value, dict) else value for key, value in values.items()}
    return {key: value for key, value in parts.items() if value != "auto" and (value != {} or values[key] == {})}


def settings(config: TrainingConfig, batch: int, accumulation: int, processes: int, precision: str) -> dict[str, Any]:
    """All settings of DeepSpeed.

    Args:
        config: Of the training.
        batch: Examples in one forward pass of a process.
        accumulation: Forward passes of a process in one step.
        processes: Their number.
        precision: "bfloat16" computes under autocast over fp32 weights.
    """
    return {
        "steps_per_print": 10**9,
        **file_settings(config),
        "train_batch_size": batch * accumulation * processes,
        "train_micro_batch_size_per_gpu": batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        "torch_autocast": {"enabled": precision == "bfloat16", "dtype": "bfloat16"},
    }


def offloads(config: TrainingConfig) -> bool:
    """Tell whether DeepSpeed keeps the optimiser state away from the device."""
    if config.parallel != "deepspeed":
        return False
    target = file_settings(config)["zero_optimization"].get("offload_optimizer") or {}
    return isinstance(target, dict) and target.get("device", "none") != "none"


def use_deepspeed(trainer: Trainer) -> None:
    """Let a Trainer whose arguments ask for DeepSpeed use it on every device: accelerate leaves it out on CPUs."""
    state = trainer.accelerator.state
    if not trainer.is_deepspeed_enabled:
        plugin = trainer.args.deepspeed_plugin
        state.deepspeed_plugins = {"default": plugin}
        state.distributed_type = DistributedType.DEEPSPEED
        plugin.select(_from_accelerator_state=True)
        trainer.is_deepspeed_enabled = True


def forget() -> None:
    """Remove what DeepSpeed leaves in transformers, which would make the next model with `zero.Init`."""
    if "deepspeed" in sys.modules:
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)


def whole_weight(weight: Tensor) -> Tensor:
    """Gather one weight from all processes, which all call this."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight]):
        return weight.detach().clone()


def load_whole(model: nn.Module, checkpoint: Path) -> None:
    """Put the weights of a checkpoint of ZeRO, written by any number of processes, into a model that is held whole."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    state = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(state[name])


def check_processes(checkpoint: Path, processes: int) -> None:
    """Refuse to resume with another number of processes than wrote a checkpoint: DeepSpeed cannot.

    Raises:
        SkipwiseError: With the number that wrote it.
    """
    written = len(list(checkpoint.glob(PARTS)))
    if written and written != processes:
        raise SkipwiseError(
            f"{checkpoint} was written by {written} processes and there are {processes} now, which DeepSpeed cannot "
            f"continue; start {written} processes"
        )
