"""What a model family does with positions, and which models cannot be extended.

Tests hold each row of FAMILIES against transformers' own class. A model type that is not in the table is judged by its
configuration here, and by its behaviour when it is loaded (`checks.probe`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from skipwise.errors import SkipwiseError
from skipwise.models import length_tricks
from skipwise.models.shape import ModelShape
from skipwise.rope import description, hf_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Family:
    """A row of the table: what the code behind a model type does with positions."""

    models: str
    """Names that users know."""
    turns: Literal["head", "share", "latent"] = "head"
    """The rotated part of a head: all, the share `partial_rotary_factor`, or `qk_rope_head_dim` of latent attention."""
    pairs: Literal["halves", "neighbours"] = "halves"
    """Which dimensions turn together: i and i + d/2, or 2i and 2i + 1."""
    layers: Literal["full", "window", "shared", "separate", "nope", "local"] = "full"
    """full: all see everything. window: all slide when `sliding_window` is set. Some slide and share the RoPE of the
    others (shared), or have another one (separate). nope: some have no RoPE. local: only sliding ones have RoPE."""
    refuses: tuple[str, ...] = ()
    """Scaling methods that its configuration cannot express."""
    sdpa: bool = True
    """Whether its attention runs in torch's fused kernel; else `eager` is used."""
    twin: str | None = None
    """The model type that it is read as."""
    note: str = ""
    """What the user should know before extending the window."""


_ONLY_LISTS = ("linear", "yarn", "critical", "llama3", "dynamic")
_LATENT = "only the rotary part of multi-head latent attention is scaled"

FAMILIES = {
    "llama": Family("Llama 1, 2, 3 and everything of that shape"),
    "mistral": Family("Mistral", layers="window"),
    "mixtral": Family("Mixtral", layers="window"),
    "qwen2": Family("Qwen 2, 2.5", layers="shared"),
    "qwen2_moe": Family("Qwen 2 MoE", layers="shared"),
    "qwen3": Family("Qwen 3", layers="shared"),
    "qwen3_moe": Family("Qwen 3 MoE", layers="window"),
    "gemma": Family("Gemma 1"),
    "gemma2": Family("Gemma 2", layers="shared", sdpa=False),
    "gemma3_text": Family("Gemma 3", layers="separate"),
    "phi": Family("Phi 1, 1.5, 2", turns="share"),
    "phi3": Family("Phi 3, Phi 3.5, Phi 4", turns="share", layers="window", refuses=_ONLY_LISTS),
    "gpt_neox": Family("GPT-NeoX, Pythia", turns="share"),
    "gptj": Family("GPT-J", turns="share", pairs="neighbours", twin="phi"),
    "baichuan": Family("Baichuan 7B, Baichuan 2 7B", twin="llama"),
    "olmo2": Family("OLMo 2"),
    "olmo3": Family("OLMo 3", layers="separate"),
    "smollm3": Family("SmolLM 3", layers="nope"),
    "stablelm": Family("StableLM", turns="share"),
    "falcon": Family("Falcon 7B, 40B, 180B"),
    "granite": Family("Granite 3"),
    "glm4": Family("GLM 4", turns="share", pairs="neighbours"),
    "starcoder2": Family("StarCoder 2", layers="window"),
    "gpt_oss": Family("gpt-oss", layers="shared", sdpa=False),
    "deepseek_v3": Family("DeepSeek V3, R1", turns="latent", pairs="neighbours", note=_LATENT),
    "internlm3": Family("InternLM 3"),
    "exaone4": Family("EXAONE 4", layers="local"),
    "cohere2": Family("Command A, Command R7B", pairs="neighbours", layers="local"),
}

# Families that rotate sliding layers only: always, or where they have such layers.
_LOCAL_ALWAYS = {"cohere2", "cohere2_moe"}
_LOCAL = {"exaone4", "exaone_moe"}
_FIXED_TABLE = {"codegen"}
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
    row: Family | None
    """What is known of the family; None for one that is not in the table."""


def architecture(config: "PreTrainedConfig") -> Architecture:
    """How the layers of a model see positions.

    Args:
        config: Of a language model, or of a wrapper around one.

    Raises:
        SkipwiseError: Scaling RoPE cannot extend the window of this model, or a list has not one item a layer.
    """
    reason = refusal(config)
    if reason:
        raise SkipwiseError(reason)
    text = hf_config.language_model(config)
    count = ModelShape.of(config).layers
    kinds = _layer_kinds(config)
    has_rope = list(getattr(text, "no_rope_layers", None) or [1] * count)  # 1 = the layer has RoPE
    for name, items in (("layer_types", kinds), ("no_rope_layers", has_rope)):
        if len(items) != count:
            raise SkipwiseError(f"{name} has {len(items)} items: expected {count}, one a layer (num_hidden_layers)")
    sliding = tuple(i for i, kind in enumerate(kinds) if kind in ("sliding_attention", "chunked_attention"))
    linear = tuple(i for i, kind in enumerate(kinds) if "attention" not in kind or kind == "linear_attention")
    nope = tuple(i for i in range(count) if not has_rope[i] and i not in linear)
    window = getattr(text, "sliding_window", None) or getattr(text, "attention_chunk_size", None)
    return Architecture(
        family=text.model_type,
        rotary_dim=hf_config.rotary_dim(config),
        theta=hf_config.parameters(config)["rope_theta"],
        layers=count,
        sliding_layers=sliding,
        sliding_window=int(window) if sliding and window else None,
        linear_layers=linear,
        nope_layers=nope,
        notes=(*_notes(count, sliding, window, linear, nope, config), *length_tricks.notes(config, kinds)),
        row=FAMILIES.get(text.model_type),
    )


def attention(config: "PreTrainedConfig", wanted: str = "sdpa") -> str:
    """The attention implementation to load a model with.

    Args:
        config: Of the model.
        wanted: As transformers names it; "sdpa" becomes "eager" where torch's fused kernel cannot compute the family's
            attention.
    """
    row = FAMILIES.get(hf_config.language_model(config).model_type)
    return "eager" if wanted == "sdpa" and row and not row.sdpa else wanted


def _layer_kinds(config: "PreTrainedConfig") -> list[str]:
    text = hf_config.language_model(config)
    kinds = getattr(text, "layer_types", None)
    if kinds:
        return list(kinds)
    # Without a list of kinds (Mistral), a window means that every layer slides.
    slides = getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True)
    return ["sliding_attention" if slides else "full_attention"] * ModelShape.of(config).layers


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
        within = f"{window:,} tokens" if window else "a window that the configuration does not state"
        notes.append(
            f"{len(sliding)} of {count} layers attend within {within}, counted by place and not by position: "
            "in training with skipped positions they meet distances that inference never has"
        )
        if not hf_config.is_nested(getattr(hf_config.language_model(config), "rope_parameters", None) or {}):
            notes.append("the layers with a sliding window share the RoPE of the others, so it is scaled there too")
    if nope:
        notes.append(f"{len(nope)} of {count} layers have no RoPE and see no positions; skipping does not reach them")
    if linear:
        notes.append(f"{len(linear)} of {count} layers have no softmax attention and see no positions")
    family = hf_config.language_model(config).model_type
    if family not in FAMILIES:
        notes.append(f"model type {family!r} is not among the tested ones; it is probed when it is loaded")
    elif FAMILIES[family].note:
        notes.append(FAMILIES[family].note)
    return tuple(notes)


def _not_causal(config: "PreTrainedConfig") -> str | None:
    """Why transformers has no causal language model for a configuration; None if it has, or the model brings code."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    text, family = hf_config.language_model(config), config.model_type
    if family in CAUSAL or not type(config).__module__.startswith("transformers."):
        return None
    if text is config:
        return f"model type {family!r} is not a causal language model in transformers, so its window cannot be extended"
    hint = (
        f"save its text part, of model type {text.model_type!r}, as a checkpoint of its own and extend that"
        if text.model_type in CAUSAL
        else f"transformers has no causal language model for its text part, {text.model_type!r}, either"
    )
    return (
        f"model type {family!r} is a multimodal model that transformers does not read as a language model "
        f"({description.rotation(config)}); {hint}"
    )


def refusal(config: "PreTrainedConfig") -> str | None:
    """Why scaling RoPE cannot extend this model's window, in one line; None where it can.

    Args:
        config: Of a language model, or of a wrapper around one.
    """
    text = hf_config.language_model(config)
    family = text.model_type or type(text).__name__
    if getattr(config, "is_encoder_decoder", False):
        return f"model type {family!r} is an encoder-decoder; a causal language model is needed"
    if family in _ALIBI or getattr(text, "alibi", False):
        return f"model type {family!r} uses ALiBi biases instead of RoPE; there are no rotary frequencies to scale"
    if family in _STATE_SPACE:
        return (
            f"model type {family!r} is a state-space or recurrent model without RoPE; there are no positions to scale"
        )
    if family in _FIXED_TABLE or (family in FAMILIES and FAMILIES[family].twin):
        hint = "; load it from its folder, which reads it as another model type" if family in FAMILIES else ""
        return (
            f"model type {family!r} has RoPE with base 10,000 and a table of n_positions rows fixed in its code; "
            f"a configuration cannot express a scaling{hint}"
        )
    kinds = getattr(text, "layer_types", None) or ()
    if family in _LOCAL_ALWAYS or (family in _LOCAL and "sliding_attention" in kinds):
        return (
            f"model type {family!r} rotates only its sliding-window layers; its full-attention layers have no RoPE, "
            "so scaling it does not extend the window"
        )
    positions = getattr(text, "position_embedding_type", "rope")
    if positions not in ("rope", "rotary"):
        return f"model type {family!r} is configured with position_embedding_type {positions!r}, not RoPE"
    try:
        hf_config.parameters(config)
    except SkipwiseError as error:
        learned = getattr(text, "n_positions", None) or getattr(text, "max_position_embeddings", None)
        return f"{error} (its positions are learned or absent)" if learned else str(error)
    reason = _not_causal(config)
    if reason:
        return reason
    local = "sliding_attention" in kinds and not {"full_attention", "hybrid"} & set(kinds)
    if local or family == "recurrent_gemma":  # which names its layers otherwise in transformers 5.17
        return f"model type {family!r} has no full-attention layer; its reach is that of its sliding window"
    has_rope = getattr(text, "no_rope_layers", None) or ()
    if has_rope and not any(rope for rope, kind in zip(has_rope, kinds, strict=False) if kind == "full_attention"):
        return (
            f"model type {family!r} has no RoPE in any full-attention layer, so scaling it does not extend the window"
        )
    return None


_TURNS = {"head": "head", "share": "a share of the head", "latent": "`qk_rope_head_dim`"}
_LAYERS = {
    "full": "all see everything",
    "window": "all slide where `sliding_window` is set",
    "shared": "some may slide, with the same RoPE",
    "separate": "some slide, with a RoPE of their own that stays",
    "nope": "some have no RoPE",
    "local": "where some slide, only those have RoPE",
}


def table() -> str:
    """FAMILIES as a Markdown table, for docs/models.md."""
    lines = [
        "| model type | models | RoPE turns | layers | `rope_parameters` | cannot express | Skipwise |",
        "|---" * 7 + "|",
    ]
    for family, row in FAMILIES.items():
        written = "not read" if row.twin else "by layer type" if row.layers == "separate" else "flat"
        does = "extends" if row.layers != "local" else "refuses" + (" hybrids" if family == "exaone4" else "")
        cells = [
            f"`{family}`",
            row.models,
            f"{_TURNS[row.turns]}, {row.pairs}",
            _LAYERS[row.layers],
            written,
            ", ".join(row.refuses) or "–",
            f"reads as `{row.twin}`" if row.twin else does,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
