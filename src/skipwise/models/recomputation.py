"""What a training step stores for its backward pass, and what it computes again there."""

from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from transformers import PreTrainedModel

_ATEN = torch.ops.aten
_STORED = {
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN.bmm.default,
    _ATEN._scaled_dot_product_flash_attention_for_cpu.default,
    _ATEN._scaled_dot_product_flash_attention.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    _ATEN._scaled_dot_product_cudnn_attention.default,
}
"""Matrix products and attention: nearly all operations of a layer, and a third of the bytes that it stores."""


def elementwise(setting: bool | None, kind: str) -> bool:
    """Whether a training calls `recompute_elementwise`.

    Args:
        setting: What the user chose; None for what suits the device.
        kind: Type of the device. On a CPU it saves a fifth of the memory, and with `fused_layers` time too
            (docs/performance.md). On a GPU small operations are bound by the time of starting them, and computing them
            again starts more.
    """
    return kind == "cpu" if setting is None else setting


def recompute_layers(model: PreTrainedModel) -> None:
    """Store only the inputs of the decoder layers: the least memory, about a third more time."""
    _enable(model, {"use_reentrant": False})


def recompute_elementwise(model: PreTrainedModel) -> None:
    """Store matrix products and attention, and compute norms, RoPE and activations again: the same numbers exactly.

    A model type that cannot recompute is left as it is.
    """
    if model.supports_gradient_checkpointing:
        contexts = partial(create_selective_checkpoint_contexts, _policy)
        _enable(model, {"use_reentrant": False, "context_fn": contexts})


def _policy(context: Any, operation: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operation in _STORED else CheckpointPolicy.PREFER_RECOMPUTE


def _enable(model: PreTrainedModel, settings: dict[str, Any]) -> None:
    # The second name is that of transformers before 5.20; the newer ones warn about it.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable(settings)
