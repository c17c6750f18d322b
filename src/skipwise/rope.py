"""RoPE scaling: a model's configuration and a target length flow in, a scaled configuration flows out.

One frozen dataclass a method: `inv_freq` gives its frequencies (for plots and tests), `to_hf` the `rope_parameters`
that make transformers compute the same ones. NumPy only; angles in float64.
"""

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipwise.config import ScalingConfig, validate
from skipwise.errors import SkipwiseError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Frequencies = NDArray[np.float64]

# Keys that belong to a scaling; all others (partial_rotary_factor, mrope_section …) are the model's and stay.
_SCALING_KEYS = {"type", "rope_type", "rope_theta", "factor", "original_max_position_embeddings", "attention_factor"}
_SCALING_KEYS |= {"beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}


def plain_inv_freq(dim: int, theta: float) -> Frequencies:
    """Radians a position of each pair of dimensions, theta^(-2i/dim); (dim/2,). RoFormer, arXiv 2104.09864, eq. 15."""
    return np.asarray(theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim))


@dataclass(frozen=True)
class Unscaled:
    """No change of frequencies: the model meets positions beyond its original window as they are."""

    def inv_freq(self, dim: int, theta: float, original: int, target: int) -> Frequencies:
        return plain_inv_freq(dim, theta)

    def attention_scaling(self, original: int, target: float) -> float:
        """Factor on cos and sin."""
        return 1.0

    def to_hf(self, dim: int, theta: float, original: int, target: int) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": theta}


@dataclass(frozen=True)
class Linear(Unscaled):
    """Position Interpolation: every frequency divided by the factor (arXiv 2306.15595, eq. 4)."""

    def inv_freq(self, dim: int, theta: float, original: int, target: int) -> Frequencies:
        return plain_inv_freq(dim, theta) * (original / target)

    def to_hf(self, dim: int, theta: float, original: int, target: int) -> dict[str, Any]:
        return {"rope_type": "linear", "rope_theta": theta, "factor": target / original}


@dataclass(frozen=True)
class Ntk(Unscaled):
    """NTK-aware: base theta·factor^(d/(d−2)), so that the slowest pair is interpolated by the factor and the fastest
    not at all (arXiv 2309.00071, eq. 16). Written as a plain new base, which every loader understands."""

    def base(self, dim: int, theta: float, original: int, target: int) -> float:
        if dim <= 2:
            raise SkipwiseError(f"ntk needs a rotary dimension above 2, not {dim}; use linear")
        return float(theta * (target / original) ** (dim / (dim - 2)))

    def inv_freq(self, dim: int, theta: float, original: int, target: int) -> Frequencies:
        return plain_inv_freq(dim, self.base(dim, theta, original, target))

    def to_hf(self, dim: int, theta: float, original: int, target: int) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.base(dim, theta, original, target)}


@dataclass(frozen=True)
class Theta(Unscaled):
    """A new base, whatever the factor."""

    theta: float

    def inv_freq(self, dim: int, theta: float, original: int, target: int) -> Frequencies:
        return plain_inv_freq(dim, self.theta)

    def to_hf(self, dim: int, theta: float, original: int, target: int) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.theta}


@dataclass(frozen=True)
class Yarn(Unscaled):
    """YaRN: pairs that turn often inside the original window are kept, slow ones interpolated, the rest blended by
    pair index; cos and sin scaled by 0.1·ln(factor) + 1 (arXiv 2309.00071, eq. 17–22, as transformers computes it)."""

    beta_fast: float | None = None
    """Turns in the original window above which a pair is kept; 32 when absent."""
    beta_slow: float | None = None
    """Turns below which a pair is interpolated fully; 1 when absent."""
    attention_factor: float | None = None
    """Factor on cos and sin when given."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True
    """Round the borders of the blend outwards to whole pairs."""

    def inv_freq(self, dim: int, theta: float, original: int, target: int) -> Frequencies:
        low, high = (self._pair(turns, dim, theta, original) for turns in (self.beta_fast or 32, self.beta_slow or 1))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        width = high - low if high != low else 0.001
        interpolated = np.clip((np.arange(dim // 2) - low) / width, 0, 1)
        plain = plain_inv_freq(dim, theta)
        return np.asarray(plain * (1 - interpolated) + plain * (original / target) * interpolated)

    @staticmethod
    def _pair(turns: float, dim: int, theta: float, original: int) -> float:
        """Index (a real number) of the pair that makes `turns` full turns in `original` positions."""
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    def attention_scaling(self, original: int, target: float) -> float:
        def scale(weight: float) -> float:
            return 0.1 * weight * math.log(target / original) + 1 if target > original else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return scale(self.mscale) / scale(self.mscale_all_dim)
        return scale(1.0)

    def to_hf(self, dim: int, theta: float, original: int, target: int) -> dict[str, Any]:
        """`attention_factor` is left out unless given: transformers, vLLM and llama.cpp then compute the same one."""
        parameters = {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": target / original,
            "original_max_position_embeddings": original,
        }
        for key in ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim"):
            if getattr(self, key) is not None:
                parameters[key] = getattr(self, key)
        return parameters if self.truncate else {**parameters, "truncate": False}


Scaling = Unscaled | Linear | Ntk | Theta | Yarn

_METHODS: dict[str, type[Unscaled]] = {"none": Unscaled, "linear": Linear, "ntk": Ntk, "theta": Theta, "yarn": Yarn}
_TAKES = {"theta": ("theta",), "yarn": ("beta_fast", "beta_slow", "attention_factor")}


def from_config(config: ScalingConfig) -> Scaling:
    """The scaling that a configuration asks for. Errors: a parameter that the method does not take, or out of range."""
    given = {key: value for key, value in config.model_dump(exclude={"method"}).items() if value is not None}
    extra = sorted(set(given) - set(_TAKES.get(config.method, ())))
    if extra:
        takes = ", ".join(_TAKES.get(config.method, ())) or "no parameters"
        raise SkipwiseError(f"scaling {config.method!r} does not take {', '.join(extra)}; it takes {takes}")
    if config.method == "theta" and "theta" not in given:
        raise SkipwiseError("scaling 'theta' needs the new base, e.g. scaling.theta=500000")
    for key, value in given.items():
        least = 1 if key == "theta" else 0
        if not (math.isfinite(value) and value > least):
            raise SkipwiseError(f"scaling.{key} = {value}: expected a number above {least}")
    if given.get("beta_fast", 32) <= given.get("beta_slow", 1):
        raise SkipwiseError(f"scaling.beta_fast ({given.get('beta_fast', 32)}) must be above beta_slow (default 1)")
    return _METHODS[config.method](**given)


def parameters(config: "PreTrainedConfig") -> dict[str, Any]:
    """The RoPE parameters of the layers that see the whole window, always with `rope_type` and `rope_theta`.

    Reads transformers' `rope_parameters`, flat or nested by layer type (then `full_attention`), and the older top-level
    `rope_theta` with `rope_scaling`. Errors: SkipwiseError when the model has no RoPE there.
    """
    text = config.get_text_config()
    found = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    if is_nested(found):
        if not found.get("full_attention"):
            rotated = ", ".join(key for key, value in found.items() if value) or "no"
            raise SkipwiseError(
                f"model type {text.model_type!r} rotates {rotated} layers, not those of full attention; "
                "there is no RoPE to extend"
            )
        found = found["full_attention"]
    theta = found.get("rope_theta", getattr(text, "rope_theta", None))
    if theta is None:
        raise SkipwiseError(
            f"model type {text.model_type!r} has no RoPE; only models with rotary positions can be used"
        )
    return {**found, "rope_type": found.get("rope_type") or found.get("type") or "default", "rope_theta": float(theta)}


def is_nested(found: dict[str, Any]) -> bool:
    """Whether these `rope_parameters` are written by layer type."""
    return bool(found) and all(value is None or isinstance(value, dict) for value in found.values())


def rotary_dim(config: "PreTrainedConfig") -> int:
    """Dimensions of a head that are rotated: head_dim, or its rotary part."""
    text = config.get_text_config()
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(head * (parameters(config).get("partial_rotary_factor") or 1.0))


def window(config: "PreTrainedConfig") -> int:
    """Window as configured now, tokens. Errors: SkipwiseError when the configuration does not say."""
    text = config.get_text_config()
    length = getattr(text, "max_position_embeddings", None)
    if not length:
        raise SkipwiseError(f"model type {text.model_type!r} does not say its window; give model.original_length")
    return int(length)


def true_original_length(config: "PreTrainedConfig") -> int:
    """Window before any scaling that the configuration carries, tokens; the configured one where it does not say."""
    text = config.get_text_config()
    length = parameters(config).get("original_max_position_embeddings")
    return int(length or getattr(text, "original_max_position_embeddings", None) or window(config))


def scale(
    config: "PreTrainedConfig",
    method: str | ScalingConfig = "yarn",
    *,
    target_length: int,
    original_length: int | None = None,
) -> "PreTrainedConfig":
    """A copy of `config` whose RoPE is scaled from `original_length` to `target_length` tokens.

    A configuration that carries a scaling is extended from its true original window where that is exact (yarn by yarn,
    linear by linear), or refused; nothing is ever scaled twice. Nested parameters: `full_attention` only. Errors:
    SkipwiseError for a target within the original window, no RoPE, or a scaling that cannot be continued.
    """
    wanted = method if isinstance(method, ScalingConfig) else validate(ScalingConfig, {"method": method}, "scaling")
    scaling = from_config(wanted)
    found = parameters(config)
    original = original_length or true_original_length(config)
    if target_length <= original:
        raise SkipwiseError(f"target_length ({target_length}) must be above the original window ({original} tokens)")
    scaling = _continued(scaling, wanted.method, found, config, original_length)
    written = found
    if wanted.method != "none":
        kept = {key: value for key, value in found.items() if key not in _SCALING_KEYS}
        written = {**kept, **scaling.to_hf(rotary_dim(config), found["rope_theta"], original, target_length)}
    return _rewritten(config, written, original, target_length, wanted.method)


def _continued(
    scaling: Scaling, name: str, found: dict[str, Any], config: "PreTrainedConfig", original_length: int | None
) -> Scaling:
    """`scaling` as it continues the one that `found` carries. Errors: SkipwiseError where that would scale twice."""
    carried = found["rope_type"]
    if carried == "default" or (name == "none" and carried in ("linear", "yarn", "llama3")):
        return scaling
    if carried in ("dynamic", "longrope"):
        raise SkipwiseError(
            f"the model carries {carried!r} RoPE, whose frequencies change with the length of the input; "
            "training with skipped positions under it is not supported"
        )
    if carried != name or not isinstance(scaling, Linear | Yarn):
        again = f"extend it with {carried!r}" if carried in ("linear", "yarn") else "start from a model without it"
        raise SkipwiseError(f"the model already carries {carried!r} scaling; {name!r} would scale it twice: {again}")
    if isinstance(scaling, Linear):
        known = original_length or getattr(config.get_text_config(), "original_max_position_embeddings", None)
        if not known:
            raise SkipwiseError(
                f"the model carries 'linear' scaling by {found.get('factor')} and does not say from which window; "
                "give model.original_length"
            )
        return scaling
    return _merged(scaling, _yarn_of(found), found["factor"])


def _merged(new: Yarn, old: Yarn, factor: float) -> Yarn:
    """The parameters that the user gave over those that the model was made with."""
    if old.attention_factor is not None and new.attention_factor is None:
        usual = replace(old, attention_factor=None).attention_scaling(1, factor)
        if not math.isclose(old.attention_factor, usual, rel_tol=1e-3):
            raise SkipwiseError(
                f"the model carries YaRN with its own attention_factor {old.attention_factor}; "
                "say which one the longer window shall have: scaling.attention_factor"
            )
    given = {key: getattr(new, key) for key in _TAKES["yarn"] if getattr(new, key) is not None}
    return replace(old, **{"attention_factor": None, **given})


def _rewritten(
    config: "PreTrainedConfig", written: dict[str, Any], original: int, target: int, method: str
) -> "PreTrainedConfig":
    """A copy of `config` with these parameters and window, checked to come back the same from its saved form."""
    scaled = copy.deepcopy(config)
    text = scaled.get_text_config()
    current = getattr(text, "rope_parameters", None) or {}
    text.rope_parameters = {**current, "full_attention": written} if is_nested(current) else written
    if hasattr(text, "rope_theta"):
        text.rope_theta = written["rope_theta"]
    text.max_position_embeddings = int(target)
    if getattr(text, "head_dim", 0) is None:  # Mixtral: transformers' own YaRN would multiply by None
        text.head_dim = text.hidden_size // text.num_attention_heads
    marked = hasattr(text, "original_max_position_embeddings")
    if method == "linear" or (marked and method != "none"):
        # A new base (ntk, theta) is the model's own, so its window is whole; a factor has to be told apart from it.
        text.original_max_position_embeddings = original if method in ("linear", "yarn") else int(target)
    refused = f"model type {text.model_type!r} does not take {method!r} scaling"
    try:
        back = parameters(type(scaled).from_dict(scaled.to_dict()))
    except Exception as error:  # each family raises what it likes
        raise SkipwiseError(f"{refused} ({' '.join(str(error).split())}); use ntk") from error
    if back != written:
        raise SkipwiseError(f"{refused}: it comes back as {back['rope_type']!r}; use ntk")
    return scaled


def describe(config: "PreTrainedConfig") -> dict[str, Any] | None:
    """The scaling that a configuration carries, e.g. `{"method": "yarn", "factor": 4.0, …}`; None for plain RoPE."""
    found = parameters(config)
    if found["rope_type"] == "default":
        return None
    keys = ("factor", "beta_fast", "beta_slow", "attention_factor")
    kept = {key: found[key] for key in keys if found.get(key) is not None}
    return {
        "method": found["rope_type"],
        **kept,
        "theta": found["rope_theta"],
        "original_length": true_original_length(config),
    }


def inv_freq(config: "PreTrainedConfig") -> Frequencies:
    """Frequencies of a configuration that is plain or was scaled by `scale`; (rotary_dim / 2,)."""
    found = parameters(config)
    original = true_original_length(config)
    target = round(original * found.get("factor", 1.0))
    kinds: dict[str, Scaling] = {"default": Unscaled(), "linear": Linear(), "yarn": _yarn_of(found)}
    if found["rope_type"] not in kinds:
        raise SkipwiseError(f"the frequencies of RoPE type {found['rope_type']!r} are not computed here")
    return kinds[found["rope_type"]].inv_freq(rotary_dim(config), found["rope_theta"], original, target)


def _yarn_of(found: dict[str, Any]) -> Yarn:
    keys = ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim")
    return Yarn(**{key: found.get(key) for key in keys}, truncate=found.get("truncate", True))
