"""Merge LoRA adapters into the weights of their base, layer by layer in fp32 (PEFT)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.models.library_messages import one_line, quiet

if TYPE_CHECKING:
    from peft import PeftModel

NAME = "default"
"""PEFT's own name of the only adapter."""


def merge_folder(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Load the adapter of a folder onto its base and fold it in.

    Args:
        model: The base, with the RoPE that the adapter was trained with. Its layers are changed in place.
        folder: A folder in PEFT's form.

    Returns:
        The plain model, every weight in the dtype that it had.

    Raises:
        SkipwiseError: The adapter does not belong to this base, or holds what cannot be merged.
    """
    from peft import LoraConfig, get_peft_model

    dtype, device = model.dtype, model.device
    try:
        with quiet():
            settings = LoraConfig.from_pretrained(str(folder))
            settings.inference_mode = True
            wrapped = get_peft_model(model, settings)
            read = wrapped.load_adapter(str(folder), NAME, torch_device=str(device))
    except Exception as error:  # PEFT raises ValueError, RuntimeError, TypeError, KeyError …
        raise _misfit(folder, model, one_line(error)) from error
    if wrong := [*read.missing_keys, *read.unexpected_keys]:
        raise _misfit(folder, model, f"they differ in {len(wrong)} weights, e.g. {wrong[0]}")
    merged = merge(wrapped, dtype)
    left = [name for name, module in merged.named_modules() if type(module).__module__.startswith("peft.")]
    if left:
        raise SkipwiseError(f"{folder} holds an adapter of {left[0]} that cannot be merged; merge it with PEFT")
    for weight in merged.parameters():
        weight.requires_grad_(weight.is_floating_point())
    return merged.eval()


def _misfit(folder: Path, model: PreTrainedModel, reason: str) -> SkipwiseError:
    kind = model.config.get_text_config().model_type
    return SkipwiseError(f"the adapter of {folder} does not fit its base, a {kind} model: {reason}")


def merge(wrapped: "PeftModel", dtype: torch.dtype) -> PreTrainedModel:
    """Fold the adapters into their layers and return the plain model; `wrapped` is used up.

    Each layer is merged in fp32 and then rounded to `dtype`, one after the other, so that the model is never held
    twice. A base in 4 bits is dequantised first: the merged layer is the one that was trained.
    """
    from peft.tuners.lora import LoraLayer

    model: Any = wrapped.base_model.model
    for name, module in list(model.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        base = _plain_linear(module.get_base_layer())
        module.base_layer = base.float()
        module.merge(safe_merge=True)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.get_base_layer().to(dtype))
    for name, module in list(model.named_modules()):
        saved: Any = getattr(module, "modules_to_save", None)
        if isinstance(saved, nn.ModuleDict):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, saved[NAME].to(dtype))
    for weight in model.parameters():
        weight.requires_grad_(False)
    model.config.__dict__.pop("quantization_config", None)
    for mark in ("is_loaded_in_4bit", "is_quantized", "quantization_method", "hf_quantizer"):
        model.__dict__.pop(mark, None)  # a model with these can be neither cast nor saved
    merged: PreTrainedModel = model
    return merged


def _plain_linear(layer: Any) -> Any:
    """The layer itself, or what a 4-bit one stands for."""
    if type(layer).__name__ != "Linear4bit":
        return layer
    import bitsandbytes

    weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    plain = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
    plain.weight = nn.Parameter(weight)
    if layer.bias is not None:
        plain.bias = layer.bias
    return plain
