"""What a model family's positions allow: a configuration flows in, facts for the user and refusals flow out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipwise import rope
from skipwise.errors import SkipwiseError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

# Families whose code multiplies queries and keys by RoPE in sliding layers only, whatever their configuration says.
_ROTATES_SLIDING_ONLY = {"cohere2", "cohere2_moe", "exaone4", "exaone_moe"}
_FIXED_TABLE = {"gptj", "codegen"}
_ALIBI = {"bloom", "mpt"}
_STATE_SPACE = {"mamba", "mamba2", "falcon_mamba", "rwkv", "xlstm"}


@dataclass(frozen=True)
class Architecture:
    """How a model's layers see positions. Layer lists hold indices."""

    family: str
    rotary_dim: int
    theta: float
    layers: int
    sliding_layers: tuple[int, ...]
    sliding_window: int | None
    linear_layers: tuple[int, ...]
    """Layers without softmax attention (state-space, linear attention, convolution): they see no positions."""
    nope_layers: tuple[int, ...]
    """Attention layers without RoPE."""
    notes: tuple[str, ...]
    """What the user should know before extending the window."""


def inspect(config: "PreTrainedConfig") -> Architecture:
    """The facts of a model. Errors: SkipwiseError with the reason for one whose window cannot be extended by RoPE."""
    reason = refusal(config)
    if reason:
        raise SkipwiseError(reason)
    text = config.get_text_config()
    count = int(text.num_hidden_layers)
    kinds = _layer_kinds(config)
    sliding = tuple(i for i, kind in enumerate(kinds) if kind in ("sliding_attention", "chunked_attention"))
    linear = tuple(i for i, kind in enumerate(kinds) if "attention" not in kind or kind == "linear_attention")
    has_rope = list(getattr(text, "no_rope_layers", None) or [1] * count)  # 1 = the layer has RoPE
    nope = tuple(i for i in range(count) if not has_rope[i] and i not in linear)
    window = getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None)
    return Architecture(
        family=text.model_type,
        rotary_dim=rope.rotary_dim(config),
        theta=rope.parameters(config)["rope_theta"],
        layers=count,
        sliding_layers=sliding,
        sliding_window=int(window) if sliding and window else None,
        linear_layers=linear,
        nope_layers=nope,
        notes=_notes(count, sliding, window, linear, nope, config),
    )


def _layer_kinds(config: "PreTrainedConfig") -> list[str]:
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return list(kinds)
    # Without a list of kinds (Mistral), a window means that every layer slides.
    slides = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return ["sliding_attention" if slides else "full_attention"] * int(text.num_hidden_layers)


def _notes(
    count: int,
    sliding: tuple[int, ...],
    window: int | None,
    linear: tuple[int, ...],
    nope: tuple[int, ...],
    config: "PreTrainedConfig",
) -> tuple[str, ...]:
    notes = []
    if sliding:
        notes.append(
            f"{len(sliding)} of {count} layers attend within {window} tokens, counted by place and not by position: "
            "in training with skipped positions they meet distances that inference never has"
        )
        if not rope.is_nested(getattr(config.get_text_config(), "rope_parameters", None) or {}):
            notes.append("the layers with a sliding window share the RoPE of the others, so it is scaled there too")
    if nope:
        notes.append(f"{len(nope)} of {count} layers have no RoPE and see no positions; skipping does not reach them")
    if linear:
        notes.append(f"{len(linear)} of {count} layers are no softmax attention and see no positions")
    if (config.get_text_config().model_type or "").startswith("deepseek"):
        notes.append("only the rotary part of multi-head latent attention is scaled")
    return tuple(notes)


def refusal(config: "PreTrainedConfig") -> str | None:
    """Why this model's window cannot be extended by scaling RoPE, in one line; None when it can."""
    text = config.get_text_config()
    family = text.model_type or type(text).__name__
    if getattr(config, "is_encoder_decoder", False):
        return f"model type {family!r} is an encoder-decoder; a causal language model is needed"
    if family in _ALIBI or getattr(text, "alibi", False):
        return f"model type {family!r} uses ALiBi biases instead of RoPE; there are no rotary frequencies to scale"
    if family in _STATE_SPACE:
        return (
            f"model type {family!r} is a state-space or recurrent model without RoPE; there are no positions to scale"
        )
    if family in _FIXED_TABLE:
        return (
            f"model type {family!r} has RoPE with base 10,000 and a table of n_positions rows fixed in its code; "
            "a configuration cannot express a scaling"
        )
    if family in _ROTATES_SLIDING_ONLY and "sliding_attention" in (getattr(text, "layer_types", None) or ()):
        return (
            f"model type {family!r} rotates only its sliding-window layers; its full-attention layers have no RoPE, "
            "so scaling it does not extend the window"
        )
    positions = getattr(text, "position_embedding_type", "rope")
    if positions not in ("rope", "rotary"):
        return f"model type {family!r} is configured with position_embedding_type {positions!r}, not RoPE"
    try:
        rope.parameters(config)
    except SkipwiseError as error:
        learned = getattr(text, "n_positions", None) or getattr(text, "max_position_embeddings", None)
        return f"{error} (its positions are learned or absent)" if learned else str(error)
    layers = getattr(text, "layer_types", None)
    local = layers and "sliding_attention" in layers and not {"full_attention", "hybrid"} & set(layers)
    if local or family == "recurrent_gemma":  # which names its layers otherwise in transformers 5.17
        return f"model type {family!r} has no full-attention layer; its reach is that of its sliding window"
    return None
