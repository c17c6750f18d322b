"""Scale the RoPE of a configuration to a longer window."""

import copy
import math
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from skipwise.config import ScalingConfig, as_length, validate
from skipwise.errors import SkipwiseError
from skipwise.rope.fields import check_object, check_scaling
from skipwise.rope.methods import (
    Llama3,
    Longrope,
    Unscaled,
    Yarn,
    YarnRevised,
    from_config,
    given,
)

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
from skipwise.rope.hf_config import (
    _SCALING_KEYS,
    Carried,
    attention_factor,
    carried,
    configured_length,
    head_width,
    is_nested,
    language_model,
    parameters,
    rotary_dim,
    stated_original_length,
    true_original_length,
    window,
)


def scale(
    config: "PreTrainedConfig",
    method: str | ScalingConfig = "yarn",
    *,
    target_length: int | str,
    original_length: int | str | None = None,
) -> "PreTrainedConfig":
    """Copy a configuration and scale its RoPE to a longer window.

    A configuration that carries a scaling is continued from its true original window by the same method, or its
    frequencies are replaced by a list of factors (`longrope`). Anything else is refused, so nothing is ever scaled
    twice. `dynamic` is dropped, since it leaves the original window as it was. Of nested parameters those of
    `full_attention` are scaled.

    Args:
        config: A configuration with RoPE. It is not changed.
        method: Name of a method (docs/scaling.md), or a `ScalingConfig` with its parameters.
        target_length: Window that the model shall have, tokens; `"32k"` is 32,768.
        original_length: Window that the model was pre-trained with, tokens. Read from `config` when absent.

    Returns:
        The scaled copy.

    Raises:
        SkipwiseError: The target is within the original window, the model has no RoPE, or carries a scaling that cannot
            be continued.
    """
    target_length = as_length(target_length, "target_length")
    original_length = None if original_length is None else as_length(original_length, "original_length")
    _check_type(config)
    wanted = method if isinstance(method, ScalingConfig) else validate(ScalingConfig, {"method": method}, "scaling")
    scaling = from_config(wanted)
    check_object(language_model(config))
    present = parameters(config)
    original = original_length or true_original_length(config)
    if original < 2:
        raise SkipwiseError(
            f"original_length = {original}: expected the window of the model's training, 2 or more tokens"
        )
    if target_length <= original:
        raise SkipwiseError(f"target_length ({target_length}) must be above the original window ({original} tokens)")
    if wanted.method == "none":
        # Phi-3 does not say its factor; a new window would change it.
        unstated = present["rope_type"] in ("yarn", "longrope") and not present.get("factor")
        written = {**present, "factor": configured_length(config) / original} if unstated else present
    else:
        scaling = _continued(scaling, wanted, config, original_length, target_length)
        model_keys = {key: value for key, value in present.items() if key not in _SCALING_KEYS}
        if "max_position_embeddings" in model_keys:  # Ministral 3 repeats its window among the RoPE parameters
            model_keys["max_position_embeddings"] = int(target_length)
        written = {
            **model_keys,
            **scaling.to_hf(rotary_dim(config), present["rope_theta"], original, target_length),
        }
    if present.get("llama_4_scaling_beta") and not written.get("original_max_position_embeddings"):
        raise SkipwiseError(
            f"model type {language_model(config).model_type!r} scales its queries by how often a position exceeds "
            f"original_max_position_embeddings (llama_4_scaling_beta), which {wanted.method!r} does not keep; use yarn"
        )
    return _rewritten(config, written, original, target_length, wanted.method)


def sharpen(config: "PreTrainedConfig", times: float) -> None:
    """Multiply the attention factor of a configuration, in place.

    Raises:
        SkipwiseError: Its scaling has none that loaders read.
    """
    text = language_model(config)
    present = parameters(config)
    if present["rope_type"] not in ("yarn", "longrope"):
        raise SkipwiseError(
            f"training.sharpen={times:g}: {carried(config).method!r} has no attention factor that loaders read; use "
            "scaling.method=yarn, or training.sharpen=1"
        )
    # vLLM reads the factors of `longrope` from the two others.
    factors: dict[str, Any] = {key: present[key] * times for key in ("short_mscale", "long_mscale") if key in present}
    written = {**present, **factors, "attention_factor": attention_factor(config) * times}
    check_scaling(written, "rope_parameters")
    _write(text, written)


def _check_type(config: object) -> None:
    """Reject what is not a configuration, such as the mapping that config.json holds."""
    if not hasattr(config, "get_text_config"):
        raise SkipwiseError(
            f"config is of type {type(config).__name__}: expected a configuration of transformers, e.g. "
            "AutoConfig.from_pretrained(path)"
        )


_CONTINUES = {"critical": "yarn", **{name: name for name in ("linear", "yarn", "yarn_revised", "llama3")}}


def _continued(
    scaling: Unscaled, wanted: ScalingConfig, config: "PreTrainedConfig", original_length: int | None, target: int
) -> Unscaled:
    """`scaling` as it continues what `config` carries. Raises SkipwiseError if that would scale twice."""
    has, name = carried(config), wanted.method
    if has.method in ("none", "dynamic"):
        return scaling
    if name != "longrope" and _CONTINUES.get(name) != has.method:
        way = "give the factors of the longer window" if has.method == "longrope" else f"extend it with {has.method!r}"
        raise SkipwiseError(
            f"the model already carries {has.method!r} scaling; {name!r} would scale it twice: {way}, "
            "or replace its frequencies by a list (scaling.method=longrope scaling.factors=…)"
        )
    known = original_length or stated_original_length(config)
    if has.method == "linear" and not known:
        raise SkipwiseError(
            f"the model carries 'linear' scaling by {has.target / has.original:g} and does not say from which window; "
            "give model.original_length"
        )
    if isinstance(scaling, Llama3):
        return _further(wanted, has, window(config), target)
    if isinstance(has.scaling, Yarn | Longrope):
        _ask_for_attention(has, scaling)
    if isinstance(has.scaling, Yarn) and isinstance(scaling, Yarn) and not isinstance(scaling, YarnRevised):
        set_values = {**given(wanted), **({"beta_slow": scaling.beta_slow} if name == "critical" else {})}
        return replace(has.scaling, **{"attention_factor": None, **set_values})
    return scaling


def _further(wanted: ScalingConfig, has: Carried, reached: int, target: int) -> Llama3:
    """Llama 3's scaling for a longer window: its factor grows with the window, whatever share of it that was.

    (Llama 3.1 divides by 8 for 16 times its window, Llama 3.2 by 32.) So the slowest pairs turn no further than before.
    """
    if target <= reached:
        raise SkipwiseError(f"target_length ({target}) must be above the model's present window ({reached} tokens)")
    assert isinstance(has.scaling, Llama3)
    factor = has.target / has.original * target / reached
    return replace(has.scaling, **given(wanted), factor=factor)


def _ask_for_attention(has: Carried, new: Unscaled) -> None:
    """Raise SkipwiseError if the model carries an unusual attention factor and none is given for the new scaling."""
    old = has.scaling
    assert isinstance(old, Yarn | Longrope)
    if old.attention_factor is None or getattr(new, "attention_factor", None) is not None:
        return
    usual = replace(old, attention_factor=None).attention_scaling(has.original, has.target)
    if not math.isclose(old.attention_factor, usual, rel_tol=1e-3):
        raise SkipwiseError(
            f"the model carries {has.method!r} with its own attention_factor {old.attention_factor}; "
            "say which one the longer window shall have: scaling.attention_factor"
        )


def _write(text: "PreTrainedConfig", written: dict[str, Any]) -> None:
    """Give the layers that see the whole window these RoPE parameters."""
    current = getattr(text, "rope_parameters", None) or {}
    text.rope_parameters = {**current, "full_attention": written} if is_nested(current) else written


def _rewritten(
    config: "PreTrainedConfig", written: dict[str, Any], original: int, target: int, method: str
) -> "PreTrainedConfig":
    """A copy of `config` with these parameters and window, checked to come back the same from its saved form."""
    scaled = copy.deepcopy(config)
    text = scaled.get_text_config()
    current = getattr(text, "rope_parameters", None) or {}
    if is_nested(current) and written.get("truncate") is False and method != "none":
        raise SkipwiseError(
            f"scaling.truncate=false: transformers does not read it for model type {text.model_type!r}, "
            "whose RoPE parameters are written by layer type"
        )
    _write(text, written)
    if hasattr(text, "rope_theta"):
        text.rope_theta = written["rope_theta"]
    if written["rope_type"] != "dynamic":  # which is computed from the original window
        text.max_position_embeddings = int(target)
    if getattr(text, "head_dim", 0) is None:  # Mixtral: transformers' own YaRN would multiply by None
        text.head_dim = head_width(config)
    marked = hasattr(text, "original_max_position_embeddings")
    if method == "linear" or (marked and method != "none"):
        # A new base (ntk, theta) is the model's own, so its window is whole. A factor is not.
        text.original_max_position_embeddings = int(target) if written["rope_type"] == "default" else original
    refused = f"model type {text.model_type!r} does not take {method!r} scaling"
    instead = "use ntk" if written["rope_type"] == "longrope" else "use ntk or yarn_revised"
    try:
        back = parameters(type(scaled).from_dict(scaled.to_dict()))
    except Exception as error:  # each family raises what it likes
        raise SkipwiseError(f"{refused} ({_reason(error)}); {instead}") from error
    if back != written:
        raise SkipwiseError(f"{refused}: it comes back as {back['rope_type']!r}; {instead}")
    return scaled


def _reason(error: Exception) -> str:
    """Why a configuration class does not take RoPE parameters, without transformers' names for its checks."""
    text = " ".join(str(error).split())
    types = re.search(r"must be one of (\[.*?\])", text) or re.search(r"'rope_type'=('\w+')", text)
    if types:
        return f"its code takes the RoPE types default and {types[1].strip('[]')} alone"
    return text.rpartition("Error: ")[2]
