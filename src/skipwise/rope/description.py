"""Describe in words where a configuration's windows come from and how its positions turn a head."""

from typing import TYPE_CHECKING

from skipwise.rope.hf_config import (
    OTHER_LENGTHS,
    configured_length,
    describe,
    dual_chunk_length,
    evidence,
    head_width,
    language_model,
    parameters,
    rotary_dim,
    true_original_length,
    window,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def length_sources(config: "PreTrainedConfig", original_length: int | None = None) -> list[str]:
    """Which fields of a configuration the windows were read from, and how to give another original window.

    Args:
        config: The model's configuration.
        original_length: The original window that the user gave, if any.
    """
    text, rope, second = language_model(config), parameters(config), evidence(config)
    kind, original = rope["rope_type"], original_length or true_original_length(config)
    if original_length:
        lines = [f"the original window is {original:,} tokens, as model.original_length says"]
    elif rope.get("original_max_position_embeddings") or getattr(text, "original_max_position_embeddings", None):
        lines = [f"original_max_position_embeddings says that the model was trained on {original:,} tokens"]
    elif dual_chunk_length(config):
        lines = [f"dual_chunk_attention_config says that the model was trained on {original:,} tokens"]
    elif second:
        lines = [
            f"max_position_embeddings {configured_length(config):,} and {second.field} {getattr(text, second.field):,} "
            f"differ by the factor {rope['factor']:g}, so the larger one is taken as the window after the scaling"
        ]
    elif kind == "linear":
        lines = [
            f"max_position_embeddings {configured_length(config):,} is taken as the window after 'linear' scaling by "
            f"{rope['factor']:g}; the file does not say the window before it"
        ]
    else:
        lines = [f"max_position_embeddings says that the model was trained on {original:,} tokens"]
    known = {original, window(config), configured_length(config), *([second.original, second.window] if second else [])}
    others = {name: getattr(text, name, None) for name in OTHER_LENGTHS}
    others = {name: length for name, length in others.items() if isinstance(length, int) and length not in known}
    if others:
        unused = [f"{name} {length:,}" for name, length in others.items()]
        lines.append(f"the file also has {' and '.join(unused)}, which nothing here is read from")
    if not original_length:
        lines.append("to give the window that the model was trained on: --set model.original_length=LENGTH")
    return lines


def rotation(config: "PreTrainedConfig") -> str:
    """How positions turn the dimensions of a head, in a few words."""
    rope, carries = parameters(config), describe(config)
    width, rotated = head_width(config), rotary_dim(config)
    parts = ["" if language_model(config) is config else "its text part: "]
    sections = rope.get("mrope_section")
    scaled = f"carries {carries['method']} ×{carries['factor']:g}" if carries else None
    parts.append(", ".join(filter(None, ["multimodal RoPE (mrope)", scaled])) if sections else scaled or "plain RoPE")
    if rotated < width:
        parts.append(f", {rotated} of {width} dimensions of a head")
    if sections:
        parts.append(
            f": {', '.join(map(str, sections))} pairs follow time, height and width of an image; a text token has one "
            "position for all three, so text is rotated as by plain RoPE"
        )
    return "".join(parts)
