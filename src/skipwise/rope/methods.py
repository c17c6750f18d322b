"""RoPE scaling methods, one frozen dataclass each. They all have the methods of `Unscaled`, documented there.

`inv_freq` gives the frequencies of a method, `attention_scaling` the factor on cos and sin, and `to_hf` the
`rope_parameters` that make transformers compute the same ones. In all of them `dim` is the rotary dimension, `theta` is
the base, `original` and `target` are windows in tokens, and the factor is target / original. Angles are float64.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipwise.config import ScalingConfig
from skipwise.errors import SkipwiseError

Frequencies = NDArray[np.float64]


def yarn_attention(factor: float, weight: float = 1.0) -> float:
    """YaRN's attention factor for a window `factor` times as long, 0.1 · ln(factor) + 1 (arXiv 2309.00071, eq. 22).

    `weight` multiplies the logarithm, as DeepSeek's mscale does.
    """
    return 0.1 * weight * math.log(factor) + 1


def plain_inv_freq(dim: int, theta: float) -> Frequencies:
    """Radians a position of each pair of dimensions, theta^(-2i/dim); (dim/2,). RoFormer, arXiv 2104.09864, eq. 15."""
    return np.asarray(theta ** (-np.arange(0, dim, 2, dtype=np.float64) / dim))


@dataclass(frozen=True)
class Unscaled:
    """No change of frequencies: the model meets positions beyond its original window as they are."""

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        """Radians a position for an input that fills the target window; (dim/2,)."""
        return plain_inv_freq(dim, theta)

    def inv_freq_at(self, dim: int, theta: float, original: int, target: float, length: float) -> Frequencies:
        """The same for an input of `length` tokens, which matters to `dynamic` and `longrope` alone."""
        return self.inv_freq(dim, theta, original, target)

    def attention_scaling(self, original: int, target: float) -> float:
        """Factor on cos and sin."""
        return 1.0

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
        """`rope_parameters` as transformers 5 writes them."""
        return {"rope_type": "default", "rope_theta": theta}


@dataclass(frozen=True)
class Linear(Unscaled):
    """Position Interpolation: every frequency divided by the factor (arXiv 2306.15595, eq. 4)."""

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        return plain_inv_freq(dim, theta) * (original / target)

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
        return {"rope_type": "linear", "rope_theta": theta, "factor": target / original}


@dataclass(frozen=True)
class Ntk(Unscaled):
    """NTK-aware: base theta·factor^(d/(d−2)), written as a plain new base, which every loader understands.

    The slowest pair is interpolated by the factor and the fastest not at all (arXiv 2309.00071, eq. 16).
    """

    def base(self, dim: int, theta: float, original: int, target: float) -> float:
        """The new base.

        Raises:
            SkipwiseError: `dim` is 2, for which the formula divides by zero.
        """
        if dim <= 2:
            raise SkipwiseError(f"ntk needs a rotary dimension above 2, not {dim}; use linear")
        return float(theta * (target / original) ** (dim / (dim - 2)))

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        return plain_inv_freq(dim, self.base(dim, theta, original, target))

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.base(dim, theta, original, target)}


@dataclass(frozen=True)
class Dynamic(Ntk):
    """Dynamic NTK, for inference only (arXiv 2309.00071, appendix B.1, as transformers computes it).

    Plain within the original window. A longer input of n tokens gets the NTK base for factor·n/original − (factor − 1).
    """

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        return self.inv_freq_at(dim, theta, original, target, target)

    def inv_freq_at(self, dim: int, theta: float, original: int, target: float, length: float) -> Frequencies:
        factor = target / original
        reached = factor * max(length, original) - (factor - 1) * original
        return plain_inv_freq(dim, self.base(dim, theta, original, reached))

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
        return {"rope_type": "dynamic", "rope_theta": theta, "factor": target / original}


@dataclass(frozen=True)
class Theta(Unscaled):
    """A new base, whatever the factor."""

    theta: float

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        return plain_inv_freq(dim, self.theta)

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.theta}


@dataclass(frozen=True)
class Yarn(Unscaled):
    """YaRN (arXiv 2309.00071, eq. 17–22, as transformers computes it).

    Pairs that turn often inside the original window stay as they are, slow ones are interpolated, and the rest are
    blended by pair index. Cos and sin are scaled by 0.1·ln(factor) + 1.
    """

    beta_fast: float | None = None
    """Turns in the original window above which a pair stays as it is; 32 when absent."""
    beta_slow: float | None = None
    """Turns below which a pair is interpolated fully; 1 when absent."""
    attention_factor: float | None = None
    """Factor on cos and sin when given."""
    mscale: float | None = None
    mscale_all_dim: float | None = None
    """With `mscale`, as DeepSeek: (0.1·mscale·ln(factor) + 1) / (0.1·mscale_all_dim·ln(factor) + 1) on cos and sin."""
    truncate: bool | None = None
    """Round the borders of the blend outwards to whole pairs; done when absent."""

    def interpolated(self, dim: int, theta: float, original: int) -> Frequencies:
        """How far each pair is interpolated, 0 (unchanged) to 1 (by the whole factor); (dim/2,)."""
        low, high = (self._pair(turns, dim, theta, original) for turns in (self.beta_fast or 32, self.beta_slow or 1))
        if self.truncate is not False:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        width = high - low if high != low else 0.001
        return np.clip((np.arange(dim // 2) - low) / width, 0, 1)

    @staticmethod
    def _pair(turns: float, dim: int, theta: float, original: int) -> float:
        """Index (a real number) of the pair that makes `turns` full turns in `original` positions."""
        return dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        share, plain = self.interpolated(dim, theta, original), plain_inv_freq(dim, theta)
        return np.asarray(plain * (1 - share) + plain * (original / target) * share)

    def attention_scaling(self, original: int, target: float) -> float:
        def scale(weight: float) -> float:
            return yarn_attention(target / original, weight) if target > original else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return scale(self.mscale) / scale(self.mscale_all_dim)
        return scale(1.0)

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
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
        return {**parameters, "truncate": False} if self.truncate is False else parameters


FAR = 8
"""Beyond this factor `critical` is recommended before `yarn`. At 16 windows a small model read the target 5 % better
with it after 600 steps and lost no more inside the old window, and it retrieved there after 160 steps, where `yarn`
did not. At 4 windows each was better somewhere (docs/recipe.md)."""


@dataclass(frozen=True)
class Critical(Yarn):
    """YaRN that interpolates fully from LongRoPE2's critical dimension on (arXiv 2502.20082).

    YaRN's own border is the pair that turns once in the original window. LongRoPE2's searches found that pairs before
    it were trained too little as well: from pair 30 of 64 in Llama-3-8B (theory: 35), 25 of 48 in Phi-3-mini (31).
    These make 8192 / (2π·500000^(30/64)) = 2.78 and 2048 / (2π·10000^(25/48)) = 2.69 turns; 2.75 stands for both.
    """

    beta_slow: float | None = 2.75


@dataclass(frozen=True)
class YarnRevised(Yarn):
    """YaRN that blends wavelengths instead of frequencies: λ·(1 + (factor − 1)·interpolated).

    This is what PoSE's authors trained. No loader computes it, so it is written as a list of factors.
    """

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        return plain_inv_freq(dim, theta) / self.factors(dim, theta, original, target)

    def factors(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        """What each wavelength is multiplied by; (dim/2,)."""
        return 1 + (target / original - 1) * self.interpolated(dim, theta, original)

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
        factors = tuple(self.factors(dim, theta, original, target).tolist())
        listed = Longrope(factors, attention_factor=self.attention_scaling(original, target))
        return listed.to_hf(dim, theta, original, target)


@dataclass(frozen=True)
class Llama3(Unscaled):
    """Llama 3.1's scaling (transformers' `llama3`).

    Pairs with more than `high_freq_factor` turns in the original window stay as they are, those with fewer than
    `low_freq_factor` are interpolated, and the rest are blended by their number of turns.
    """

    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    factor: float | None = None
    """What slow pairs are interpolated by; target / original when absent. Llama 3.1 took 8 for 16 times its window."""

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        plain = plain_inv_freq(dim, theta)
        turns = original * plain / (2 * math.pi)
        share = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return np.asarray(plain * (share + (1 - share) / (self.factor or target / original)))

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
        return {
            "rope_type": "llama3",
            "rope_theta": theta,
            "factor": self.factor or target / original,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": original,
        }


@dataclass(frozen=True)
class Longrope(Unscaled):
    """LongRoPE: each wavelength multiplied by a factor of its list (arXiv 2402.13753).

    One list is for inputs beyond the original window. A model may carry another one for inputs within it.
    """

    long: tuple[float, ...]
    """One factor a pair, the fastest first; (dim/2,)."""
    short: tuple[float, ...] | None = None
    """For inputs within the original window; the same as `long` when absent."""
    attention_factor: float | None = None
    """Factor on cos and sin; √(1 + ln(factor) / ln(original)) when absent."""

    def inv_freq(self, dim: int, theta: float, original: int, target: float) -> Frequencies:
        return self.inv_freq_at(dim, theta, original, target, original + 1)

    def inv_freq_at(self, dim: int, theta: float, original: int, target: float, length: float) -> Frequencies:
        factors = self.long if length > original or self.short is None else self.short
        if len(factors) != dim // 2:
            raise SkipwiseError(
                f"{len(factors)} RoPE factors, but the model rotates {dim} dimensions of a head and needs {dim // 2}"
            )
        return np.asarray(plain_inv_freq(dim, theta) / np.array(factors))

    def attention_scaling(self, original: int, target: float) -> float:
        if self.attention_factor is not None:
            return self.attention_factor
        return math.sqrt(1 + math.log(target / original) / math.log(original)) if target > original else 1.0

    def to_hf(self, dim: int, theta: float, original: int, target: float) -> dict[str, Any]:
        """With the attention factor in transformers' and in vLLM's words, since these compute different defaults."""
        self.inv_freq(dim, theta, original, target)  # checks the number of factors
        attention = self.attention_scaling(original, target)
        return {
            "rope_type": "longrope",
            "rope_theta": theta,
            "factor": target / original,
            "original_max_position_embeddings": original,
            "short_factor": list(self.short or self.long),
            "long_factor": list(self.long),
            "attention_factor": attention,
            "short_mscale": attention,
            "long_mscale": attention,
        }


METHODS: dict[str, type[Unscaled]] = {
    "none": Unscaled,
    "linear": Linear,
    "ntk": Ntk,
    "dynamic": Dynamic,
    "theta": Theta,
    "yarn": Yarn,
    "yarn_revised": YarnRevised,
    "critical": Critical,
    "llama3": Llama3,
    "longrope": Longrope,
}
_BLEND = ("beta_fast", "beta_slow", "attention_factor", "truncate")
TAKES: dict[str, tuple[str, ...]] = {
    "theta": ("theta",),
    "yarn": (*_BLEND, "mscale", "mscale_all_dim"),
    "critical": (*_BLEND, "mscale", "mscale_all_dim"),
    "yarn_revised": _BLEND,
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "longrope": ("factors", "attention_factor"),
}
"""The keys of ScalingConfig that each method takes; the others take none."""


def given(config: ScalingConfig) -> dict[str, Any]:
    """The parameters of a scaling that were set.

    Raises:
        SkipwiseError: The method does not take one of them, or its value is out of range.
    """
    values = {key: value for key, value in config.model_dump(exclude={"method"}).items() if value is not None}
    takes = TAKES.get(config.method, ())
    extra = sorted(set(values) - set(takes))
    if extra:
        named = ", ".join(takes) or "no parameters"
        raise SkipwiseError(f"scaling {config.method!r} does not take {', '.join(extra)}; it takes {named}")
    for key, value in values.items():
        least = 1 if key == "theta" else 0
        numbers = value if isinstance(value, list) else [value]
        for number in numbers if key != "truncate" else []:
            if not (math.isfinite(number) and number > least):
                raise SkipwiseError(f"scaling.{key} = {number}: expected a number above {least}")
    return values


def from_config(config: ScalingConfig) -> Unscaled:
    """The scaling that a configuration asks for.

    Raises:
        SkipwiseError: A parameter does not fit the method, is missing, or contradicts another one.
    """
    values = given(config)
    if config.method == "theta" and "theta" not in values:
        raise SkipwiseError("scaling 'theta' needs the new base, e.g. scaling.theta=500000")
    if config.method == "longrope" and "factors" not in values:
        raise SkipwiseError(
            "scaling 'longrope' needs factors: scaling.factors=FILE or a list; `skipwise search` finds some"
        )
    if ("mscale" in values) != ("mscale_all_dim" in values):
        raise SkipwiseError("scaling.mscale and scaling.mscale_all_dim have an effect together only; give both")
    if "factors" in values:
        values["long"] = tuple(values.pop("factors"))
    scaling = METHODS[config.method](**values)
    if isinstance(scaling, Yarn) and (scaling.beta_fast or 32) <= (scaling.beta_slow or 1):
        slow = f"{scaling.beta_slow:g}" if scaling.beta_slow else "default 1"
        raise SkipwiseError(f"scaling.beta_fast ({scaling.beta_fast or 32:g}) must be above beta_slow ({slow})")
    if isinstance(scaling, Llama3) and scaling.high_freq_factor <= scaling.low_freq_factor:
        high, low = scaling.high_freq_factor, scaling.low_freq_factor
        raise SkipwiseError(f"scaling.high_freq_factor ({high:g}) must be above low_freq_factor ({low:g})")
    return scaling
