"""Load a model from a folder, hub id or GGUF file with scaled RoPE, or scale the RoPE of a live model."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from skipwise.config import ModelConfig, ScalingConfig
from skipwise.errors import SkipwiseError
from skipwise.models import checkpoint, configuration, families, gguf_header, gguf_reading, sources
from skipwise.models.checks import check_head, check_rope, probe, rope_tables, rotary_modules
from skipwise.models.device import arithmetic, device_of
from skipwise.rope import hf_config
from skipwise.rope.scale import scale


@dataclass
class LoadedModel:
    """A model in evaluation mode with what the rest of a run wants to know about it."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    """For display."""
    path: str
    """As given: a folder, hub id, .gguf file or packaged name."""
    original_length: int
    """Window before any scaling, tokens."""
    window: int
    """Window as configured now, tokens."""
    fingerprint: str
    """Of configuration and weights; the same on every machine."""
    scaling: dict[str, Any] | None
    """RoPE scaling as written into results; None for plain RoPE."""
    quantised_from: str | None = None
    """Type of a GGUF file's weights, e.g. "Q4_1"; they are dequantised while loading."""


def load(
    config: ModelConfig,
    *,
    target_length: int | None = None,
    scaling: ScalingConfig | None = None,
    dtype: torch.dtype | None = None,
    four_bit: bool = False,
) -> LoadedModel:
    """Load a model and its tokenizer. A type that is not in `families.FAMILIES` is probed, and used with a warning.

    Args:
        config: Where the model is, its device, precision and attention.
        target_length: The new window, tokens; RoPE is scaled when this and `scaling` are given.
        scaling: The method and its parameters.
        dtype: How weights are stored (float32 to train); `config.precision` when absent.
        four_bit: Store the linear layers in 4 bits; needs CUDA and bitsandbytes.

    Raises:
        SkipwiseError: An unknown model, files that are missing, damaged or do not go together, no RoPE, or a scaling
            that does not apply.
    """
    source = sources.find(config)
    device = device_of(config.device)
    read = configuration.read(source)
    facts = families.architecture(read)
    original = config.original_length or hf_config.true_original_length(read)
    carried, configured = hf_config.describe(read), read
    if scaling is not None and target_length is not None:
        configured = scale(read, scaling, target_length=target_length, original_length=config.original_length)
        carried = {
            "method": scaling.method,
            "factor": target_length / original,
            "theta": hf_config.parameters(configured)["rope_theta"],
            **(hf_config.describe(configured) or {}),
        }
    tokenizer = checkpoint.tokenizer(source)
    stored = dtype or arithmetic(config.precision, device)
    model = checkpoint.weights(source, configured, config.attention, stored, device if four_bit else None)
    gguf_reading.forget()
    model = model if four_bit else model.to(device)
    if facts.row is None:
        probe(model)
    if scaling is not None and scaling.method != "none" and target_length is not None:
        decoder = model.get_decoder()
        check_rope(model, rope_tables(decoder), configured, rotary_modules(decoder).values())
    check_head(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=source.name,
        path=config.path,
        original_length=original,
        window=hf_config.window(configured),
        fingerprint=checkpoint.fingerprint(source, configured),
        scaling=carried,
        quantised_from=gguf_header.weight_type(source.root.file) if source.root.gguf else None,
    )


def apply(
    model: PreTrainedModel,
    method: str | ScalingConfig = "yarn",
    *,
    target_length: int | str,
    original_length: int | str | None = None,
) -> PreTrainedModel:
    """Scale the RoPE of a live model, as if it had been loaded with the scaled configuration.

    Args:
        model: A causal model of transformers. It gets a new configuration and rotary tables.
        method: Name of a method (docs/scaling.md), or a `ScalingConfig` with its parameters.
        target_length: Window that the model shall have, tokens; `"32k"` is 32,768.
        original_length: Window that the model was pre-trained with, tokens. Read from its configuration when absent.

    Returns:
        `model`.

    Raises:
        SkipwiseError: As `rope.scale.scale`, before any change.
    """
    if not hasattr(model, "get_decoder"):
        raise SkipwiseError(
            f"model is of type {type(model).__name__}: expected a model of transformers, e.g. "
            "AutoModelForCausalLM.from_pretrained(path)"
        )
    facts = families.architecture(model.config)
    scaled = scale(model.config, method, target_length=target_length, original_length=original_length)
    if facts.row is None:
        probe(model)
    text, new = model.config.get_text_config(), scaled.get_text_config()
    decoder = model.get_decoder()
    built = {name: type(old)(config=new).to(model.device) for name, old in rotary_modules(decoder).items()}
    tables = {f"{name}.{key}": table for name, module in built.items() for key, table in rope_tables(module).items()}
    check_rope(model, tables, scaled, built.values())
    for name, module in built.items():
        decoder.set_submodule(name, module.train(model.training))
    if any(hf_config.parameters(each).get("mscale_all_dim") for each in (model.config, scaled)):
        for module in decoder.modules():  # DeepSeek's layers computed the scale of their scores when they were made
            if hasattr(module, "scaling") and hasattr(module, "layer_idx"):
                with torch.device("meta"):
                    module.scaling = type(module)(new, module.layer_idx).scaling
    # The old objects may belong to other models too, so they are replaced wherever this one holds them.
    renewed = {id(model.config): scaled, id(text): new}
    for module in model.modules():
        if id(getattr(module, "config", None)) in renewed:
            module.config = renewed[id(module.config)]
    return model
