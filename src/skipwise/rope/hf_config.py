"""Read the RoPE that a Hugging Face configuration describes: its windows, the scaling it carries, its frequencies.

Both forms are read, the older `rope_scaling` and today's `rope_parameters`. The methods themselves are in
`rope.methods`, and `rope.scale` makes a configuration for a longer window.
"""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skipwise.errors import SkipwiseError
from skipwise.rope.fields import check_scaling
from skipwise.rope.fields import is_nested as is_nested
from skipwise.rope.methods import (
    METHODS,
    Dynamic,
    Frequencies,
    Linear,
    Llama3,
    Longrope,
    Unscaled,
    Yarn,
    YarnRevised,
    plain_inv_freq,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


# Keys that belong to a scaling; all others (partial_rotary_factor, mrope_section …) are the model's and stay.
_SCALING_KEYS = {"type", "rope_type", "rope_theta", "factor", "original_max_position_embeddings", "attention_factor"}
_SCALING_KEYS |= {"beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "low_freq_factor"}
_SCALING_KEYS |= {"high_freq_factor", "short_factor", "long_factor", "short_mscale", "long_mscale", "attn_factor"}

_YARN_KEYS = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")


def language_model(config: "PreTrainedConfig") -> "PreTrainedConfig":
    """The configuration of the language model: `config` itself, or the text part of a wrapper around it.

    Raises:
        SkipwiseError: There are several, or its layers have different sizes.
    """
    try:
        text: PreTrainedConfig = config.get_text_config()
    except ValueError as error:  # an encoder and a decoder, for example
        raise SkipwiseError(
            f"model type {config.model_type!r} holds several text models; a causal language model is needed"
        ) from error
    if getattr(text, "is_heterogeneous", False):
        raise SkipwiseError(f"model type {text.model_type!r} has layers of different sizes, which are not supported")
    return text


def parameters(config: "PreTrainedConfig") -> dict[str, Any]:
    """The RoPE parameters of the layers that see the whole window, always with `rope_type` and `rope_theta`.

    Args:
        config: With transformers' `rope_parameters`, flat or by layer type (then `full_attention` is read), or with the
            older top-level `rope_theta` and `rope_scaling`.

    Raises:
        SkipwiseError: The model has no RoPE there, or a parameter holds what it cannot.
    """
    text = language_model(config)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    check_scaling(rope, "rope_parameters")
    if is_nested(rope):
        if not rope.get("full_attention"):
            rotated = ", ".join(key for key, value in rope.items() if value) or "no"
            raise SkipwiseError(
                f"model type {text.model_type!r} rotates {rotated} layers, not those of full attention; "
                "there is no RoPE to extend"
            )
        rope = rope["full_attention"]
    theta = rope.get("rope_theta", getattr(text, "rope_theta", None))
    if theta is None:
        raise SkipwiseError(
            f"model type {text.model_type!r} has no RoPE; only models with rotary positions can be used"
        )
    return {**rope, "rope_type": rope.get("rope_type") or rope.get("type") or "default", "rope_theta": float(theta)}


def head_width(config: "PreTrainedConfig") -> int:
    """Dimensions of a head, of which `partial_rotary_factor` is a share: head_dim, or what the heads divide."""
    text = language_model(config)
    width, heads = getattr(text, "head_dim", None), getattr(text, "num_attention_heads", None)
    if width:
        return int(width)
    hidden = getattr(text, "hidden_size", None)
    if not (isinstance(heads, int) and isinstance(hidden, int) and heads > 0 and hidden >= heads):
        raise SkipwiseError(
            f"hidden_size {hidden!r} and num_attention_heads {heads!r} give no width of a head; write head_dim"
        )
    return hidden // heads


def rotary_dim(config: "PreTrainedConfig") -> int:
    """Dimensions of a head that are rotated: head_dim, or its rotary part.

    Raises:
        SkipwiseError: The model has no RoPE, or would rotate an odd number of dimensions.
    """
    width, share = head_width(config), parameters(config).get("partial_rotary_factor") or 1.0
    rotated = int(width * share)
    if rotated < 2 or rotated % 2:
        part = f" times partial_rotary_factor {share:g}" if share != 1 else ""
        raise SkipwiseError(
            f"a head of {width} dimensions{part} gives {rotated} rotated dimensions: expected an even number of at "
            "least 2; mend head_dim or partial_rotary_factor"
        )
    return rotated


def check_lists(config: "PreTrainedConfig") -> None:
    """Check that the lists of RoPE factors, where a configuration has them, hold one number a rotated pair.

    Raises:
        SkipwiseError: A list is too short or too long.
    """
    rope = parameters(config)
    for name in ("short_factor", "long_factor"):
        factors, pairs = rope.get(name), rotary_dim(config) // 2
        if factors is not None and rope["rope_type"] == "longrope" and len(factors) != pairs:
            raise SkipwiseError(
                f"rope_parameters.{name} holds {len(factors)} numbers: expected {pairs}, one for each pair of the "
                f"{2 * pairs} rotated dimensions; take the list from the model's original config.json"
            )


def configured_length(config: "PreTrainedConfig") -> int:
    """`max_position_embeddings`, tokens, whether it is the window before or after a scaling.

    Raises:
        SkipwiseError: The configuration does not have it.
    """
    text = language_model(config)
    length = getattr(text, "max_position_embeddings", None)
    if not length:
        raise SkipwiseError(
            f"the configuration of model type {text.model_type!r} states no window; write e.g. "
            '"max_position_embeddings": 8192 into config.json'
        )
    return int(length)


OTHER_LENGTHS = ("max_sequence_length", "max_seq_len", "seq_length", "model_max_length", "initial_context_length")
"""Fields beside max_position_embeddings in which configurations state a length."""


class Evidence(NamedTuple):
    """A second length in a file that, with the factor, tells the windows before and after a scaling."""

    field: str
    original: int
    window: int


def evidence(config: "PreTrainedConfig") -> Evidence | None:
    """Find the original window of a `linear` scaling, which does not state it, through a second length in the file.

    `max_position_embeddings` is the window before the scaling in some files and the window after it in others. A second
    length that is the factor times larger or smaller tells which.
    """
    text, carried_parameters = language_model(config), parameters(config)
    factor = carried_parameters.get("factor")
    if carried_parameters["rope_type"] != "linear" or not factor or factor <= 1:
        return None
    configured = configured_length(config)
    for field in OTHER_LENGTHS:
        length = getattr(text, field, None)
        if isinstance(length, int) and length == round(configured * factor):
            return Evidence(field, configured, length)
        if isinstance(length, int) and configured == round(length * factor):
            return Evidence(field, length, configured)
    return None


def dual_chunk_length(config: "PreTrainedConfig") -> int | None:
    """Tokens that a model with dual chunk attention was trained on; the window beyond them needs that attention."""
    chunks = getattr(language_model(config), "dual_chunk_attention_config", None)
    length = chunks.get("original_max_position_embeddings") if isinstance(chunks, dict) else None
    return length if isinstance(length, int) and length > 1 else None


def stated_original_length(config: "PreTrainedConfig") -> int | None:
    """Window before the scaling, tokens, as far as the configuration tells it."""
    text = language_model(config)
    length = parameters(config).get("original_max_position_embeddings")
    length = length or getattr(text, "original_max_position_embeddings", None) or dual_chunk_length(config)
    if length:
        return int(length)
    second = evidence(config)
    return second.original if second else None


def true_original_length(config: "PreTrainedConfig") -> int:
    """Window before any scaling that the configuration carries, tokens; the configured one where it does not say."""
    return stated_original_length(config) or configured_length(config)


def window(config: "PreTrainedConfig") -> int:
    """Window as configured now, tokens.

    That is `max_position_embeddings`, or what the scaling reaches from its original window where that is more (Qwen's
    YaRN leaves `max_position_embeddings` as it was).

    Raises:
        SkipwiseError: The configuration states neither.
    """
    configured = configured_length(config)
    try:
        rope = parameters(config)
    except SkipwiseError:
        return configured
    second = evidence(config)
    if second:
        return second.window
    if rope["rope_type"] not in ("yarn", "dynamic"):  # Llama 3.2's factor is more than its window's share
        return configured
    return max(configured, round(true_original_length(config) * (rope.get("factor") or 1)))


class Carried(NamedTuple):
    """The scaling that a configuration carries."""

    method: str
    scaling: Unscaled
    original: int
    """Window before it, tokens."""
    target: float
    """Original window times factor, tokens."""


def carried(config: "PreTrainedConfig") -> Carried:
    """The scaling that a configuration carries, with method `none` for plain RoPE.

    Raises:
        SkipwiseError: The RoPE type is not known here.
    """
    rope = parameters(config)
    kind, original = rope["rope_type"], true_original_length(config)
    target: float = original * (rope.get("factor") or configured_length(config) / original)
    target = round(target) if math.isclose(target, round(target), rel_tol=1e-9) else target
    scaling: Unscaled
    if kind == "default":
        return Carried("none", Unscaled(), original, original)
    if kind == "linear":
        scaling = Linear()
    elif kind == "dynamic" and "alpha" not in rope:
        scaling = Dynamic()
    elif kind == "yarn":
        # transformers looks for `truncate` at the top, where parameters by layer type have none.
        nested = is_nested(getattr(language_model(config), "rope_parameters", None) or {})
        truncate = None if nested else rope.get("truncate")
        scaling = Yarn(**{key: rope.get(key) for key in _YARN_KEYS}, truncate=truncate)
    elif kind == "llama3":
        scaling = Llama3(rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"])
    elif kind == "longrope":
        scaling = _longrope(config, rope, original, target)
    else:
        name = f"{kind!r} with alpha" if kind == "dynamic" else repr(kind)
        raise SkipwiseError(f"RoPE type {name} is not known here: its frequencies cannot be computed or continued")
    return Carried(next(name for name, method in METHODS.items() if type(scaling) is method), scaling, original, target)


def _longrope(config: "PreTrainedConfig", rope: dict[str, Any], original: int, target: float) -> Longrope | YarnRevised:
    """The lists of a configuration; `yarn_revised` if they are those that it computes."""
    check_lists(config)
    attention = rope.get("attention_factor") or rope.get("long_mscale")
    scaling = Longrope(tuple(rope["long_factor"]), tuple(rope["short_factor"]), attention)
    revised = YarnRevised()
    if scaling.short == scaling.long and target > original:
        computed = revised.factors(rotary_dim(config), rope["rope_theta"], original, target)
        listed = [*scaling.long, attention or 0]
        if np.allclose(listed, [*computed, revised.attention_scaling(original, target)], rtol=1e-6):
            return revised
    return scaling


def describe(config: "PreTrainedConfig") -> dict[str, Any] | None:
    """The scaling that a configuration carries, e.g. `{"method": "yarn", "factor": 4.0, …}`; None for plain RoPE."""
    rope = parameters(config)
    if rope["rope_type"] == "default":
        return None
    has = carried(config)
    keys = ("factor", *_YARN_KEYS, "truncate", "low_freq_factor", "high_freq_factor")
    set_values = {key: rope[key] for key in keys if rope.get(key) is not None}
    carries = {"method": has.method, "factor": has.target / has.original, **set_values}
    return {**carries, "theta": rope["rope_theta"], "original_length": has.original}


def inv_freq(config: "PreTrainedConfig", length: int | None = None) -> Frequencies:
    """The frequencies that a configuration gives.

    Args:
        config: Of the model.
        length: Tokens of the input, for `dynamic` and `longrope`, whose frequencies depend on it; the whole window when
            absent.

    Returns:
        Radians a position of each pair; (rotary_dim / 2,).

    Raises:
        SkipwiseError: The RoPE type is not known here.
    """
    has, dim, theta = carried(config), rotary_dim(config), parameters(config)["rope_theta"]
    if length is None:
        return has.scaling.inv_freq(dim, theta, has.original, has.target)
    return has.scaling.inv_freq_at(dim, theta, has.original, has.target, length)


def factors(config: "PreTrainedConfig", length: int | None = None) -> Frequencies:
    """What the wavelength of each pair is multiplied by, beside plain RoPE of the same base.

    Args:
        config: Of the model.
        length: Tokens of the input, as in `inv_freq`.

    Returns:
        Factors, (rotary_dim / 2,).
    """
    return plain_inv_freq(rotary_dim(config), parameters(config)["rope_theta"]) / inv_freq(config, length)


def attention_factor(config: "PreTrainedConfig") -> float:
    """Factor on cos and sin that a configuration gives."""
    has = carried(config)
    return has.scaling.attention_scaling(has.original, has.target)


def changes_with_length(config: "PreTrainedConfig") -> bool:
    """Whether the frequencies depend on the length of the input: `dynamic`, and `longrope` with two different lists."""
    rope = getattr(language_model(config), "rope_parameters", None) or {}
    parts = [part for part in rope.values() if part] if is_nested(rope) else [rope]
    return any(
        part.get("rope_type") == "dynamic" or part.get("short_factor") != part.get("long_factor") for part in parts
    )


def refuse_training(config: "PreTrainedConfig") -> None:
    """Refuse RoPE that changes with the length of the input: a jump of positions would switch it.

    Raises:
        SkipwiseError: The configuration has such a RoPE.
    """
    if changes_with_length(config):
        raise SkipwiseError(
            f"{parameters(config)['rope_type']!r} RoPE changes with the length of the input, so nothing can be trained "
            "under it with skipped positions; choose another scaling.method, or training.steps=0 to only evaluate"
        )
