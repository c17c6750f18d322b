"""What a model's configuration tells before its weights are loaded.

The facts are plain values: `dataclasses.asdict` makes them JSON, and report/inspection_view.py shows them. Nothing here
imports torch.
"""

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from skipwise.config import DEFAULT_TRAIN_LENGTH, ModelConfig, PositionsConfig, ScalingConfig
from skipwise.errors import SkipwiseError
from skipwise.models import configuration, families, sources
from skipwise.models.kv_cache_size import KvCache, kv_cache
from skipwise.models.reach import reach
from skipwise.positions import coverage
from skipwise.positions.sampler import Sampler
from skipwise.rope import description, hf_config, methods
from skipwise.rope.scale import scale
from skipwise.utils.text import length_text

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MANY_CHUNKS_FACTOR = 8
"""Beyond this factor three chunks are recommended, as two show the longest distances too rarely."""


@dataclass(frozen=True)
class RotatedPair:
    """Two rotated dimensions of a head, which turn together. Lengths in tokens."""

    pair: int
    wavelength: float
    """Tokens of one full turn, 2π / frequency, before any scaling."""
    turns: float
    """Full turns inside the original window."""


@dataclass(frozen=True)
class Method:
    """What a scaling method would do at the target."""

    name: str
    stretch: list[float] | None
    """Of every pair: its wavelength after over before; None where the method cannot be worked out."""
    attention_factor: float | None
    """Factor on cos and sin."""
    refused: str | None
    """Why this model cannot take it; None where it can."""


@dataclass(frozen=True)
class Recommendation:
    """What `skipwise inspect` advises, with the command that does it."""

    scaling: str
    sampler: str
    chunks: int
    train_length: int
    reasons: list[str]
    command: str


@dataclass(frozen=True)
class Facts:
    """All that `skipwise inspect` shows. Windows, wavelengths and lengths in tokens."""

    model: str
    family: str
    window: int
    original_length: int
    reading: list[str]
    """Which fields the windows were read from, and how to give another original window."""
    rotation: str
    """How positions turn the dimensions of a head."""
    scaling: dict[str, Any] | None
    """The scaling that the configuration carries; None for plain RoPE."""
    target_length: int
    factor: float
    rotary_dim: int
    theta: float
    critical_pair: int
    """First pair that makes no full turn in the original window."""
    critical_dimension: int
    """Dimensions before it, which have been seen through at least one turn."""
    pairs: list[RotatedPair]
    methods: list[Method]
    layers: int
    sliding_layers: list[int]
    sliding_window: int | None
    nope_layers: list[int]
    linear_layers: list[int]
    dtype: str
    kv_bytes_per_token: int
    kv_bytes_at_window: int
    kv_bytes_at_target: int
    recommendation: Recommendation | None
    """None where no scaling fits, or an extension reaches no layer."""
    refusal: str | None
    """Why an extension reaches no layer; None where it reaches one."""
    notes: list[str]


def critical_pair(dim: int, theta: float, original: int) -> int:
    """First of the dim / 2 pairs whose wavelength is at least `original` tokens: ⌈dim/2 · log_theta(original / 2π)⌉.

    Twice that is the critical dimension of arXiv 2310.05209 (eq. 2): later dimensions have never turned once in
    training, so they are the ones that fail beyond it.

    Args:
        dim: Rotated dimensions of a head.
        theta: Base of RoPE.
        original: Window that the model was trained on, tokens.
    """
    pairs = dim // 2
    if original <= 2 * math.pi:
        return 0
    return min(pairs, math.ceil(pairs * math.log(original / (2 * math.pi)) / math.log(theta)))


def inspect(model: ModelConfig, target_length: int | None = None) -> Facts:
    """The facts of a model, from its configuration alone.

    Args:
        model: Where the model is, and the original window where the user gives one.
        target_length: Window to look at, tokens; four times the model's when absent.

    Raises:
        SkipwiseError: The path is not a model, scaling RoPE cannot extend its window, or the target is not beyond the
            original window.
    """
    source = sources.find(model, weights=False)
    config = configuration.read(source)
    return facts(config, model, target_length, name=source.name)


def facts(config: "PreTrainedConfig", model: ModelConfig, target_length: int | None, *, name: str) -> Facts:
    """As `inspect`, for a configuration that is already read.

    Args:
        config: The configuration.
        model: Where the model is, and the original window where the user gives one.
        target_length: Window to look at, tokens; four times the model's when absent.
        name: What the facts call the model.

    Raises:
        SkipwiseError: As `inspect`.
    """
    architecture = families.architecture(config)
    original = model.original_length or hf_config.true_original_length(config)
    window = hf_config.window(config)
    target = target_length or 4 * max(window, original)
    if target <= original:
        raise SkipwiseError(
            f"target {length_text(target)} is not beyond the model's original window of "
            f"{length_text(original)} tokens; "
            f"give a longer one, e.g. --target {4 * original}"
        )
    dim, theta = architecture.rotary_dim, architecture.theta
    plain = methods.plain_inv_freq(dim, theta)
    outlooks = [_method(name, config, model, target, original) for name in _method_names()]
    dtype, itemsize = _dtype(config)
    cache = kv_cache(config, architecture, itemsize)
    critical = critical_pair(dim, theta, original)
    layers = reach(config, original, target)
    advice = None if layers.refusal else _recommendation(config, model, outlooks, original, target, critical, dim // 2)
    return Facts(
        model=name,
        family=architecture.family,
        window=window,
        original_length=original,
        reading=description.length_sources(config, model.original_length),
        rotation=description.rotation(config),
        scaling=hf_config.describe(config),
        target_length=target,
        factor=target / original,
        rotary_dim=dim,
        theta=theta,
        critical_pair=critical,
        critical_dimension=2 * critical,
        pairs=[RotatedPair(i, 2 * math.pi / f, original * f / (2 * math.pi)) for i, f in enumerate(plain.tolist())],
        methods=outlooks,
        layers=architecture.layers,
        sliding_layers=list(architecture.sliding_layers),
        sliding_window=architecture.sliding_window,
        nope_layers=list(architecture.nope_layers),
        linear_layers=list(architecture.linear_layers),
        dtype=dtype,
        kv_bytes_per_token=cache.bytes_per_token,
        kv_bytes_at_window=cache.bytes_at(window),
        kv_bytes_at_target=cache.bytes_at(target),
        recommendation=advice,
        refusal=layers.refusal,
        notes=[*layers.notes, *_cache_notes(config, cache, architecture)],
    )


def _method_names() -> list[str]:
    """Every scaling method but `none`, in the order in which the configuration lists them."""
    return [name for name in get_args(ScalingConfig.model_fields["method"].annotation) if name != "none"]


def _method(name: str, config: "PreTrainedConfig", model: ModelConfig, target: int, original: int) -> Method:
    wanted = ScalingConfig.model_validate({"method": name})
    dim, theta = hf_config.rotary_dim(config), hf_config.parameters(config)["rope_theta"]
    try:
        scaling = methods.from_config(wanted)
        stretch = methods.plain_inv_freq(dim, theta) / scaling.inv_freq(dim, theta, original, target)
        attention = scaling.attention_scaling(original, target)
    except SkipwiseError as error:
        return Method(name, None, None, str(error))
    try:
        scaled = scale(config, wanted, target_length=target, original_length=model.original_length)
        hf_config.refuse_training(scaled)
    except SkipwiseError as error:
        return Method(name, stretch.tolist(), attention, str(error))
    # What continues a carried scaling keeps parts of it, such as the borders of its blend.
    stretch = methods.plain_inv_freq(dim, theta) / hf_config.inv_freq(scaled)
    return Method(name, stretch.tolist(), hf_config.attention_factor(scaled), None)


def _dtype(config: "PreTrainedConfig") -> tuple[str, int]:
    """(name, bytes) of a number in the cache: the type of the saved weights, bf16 if the file does not state it."""
    saved = getattr(config.get_text_config(), "dtype", None) or getattr(config, "dtype", None)
    name = str(saved or "bfloat16").removeprefix("torch.")
    return name, {"float32": 4, "float64": 8}.get(name, 2)


def _cache_notes(config: "PreTrainedConfig", cache: KvCache, architecture: families.Architecture) -> list[str]:
    notes = []
    if getattr(config.get_text_config(), "kv_lora_rank", None):
        notes.append("cache sizes are those of the compressed latent; loaders that expand it keep many times more")
    if cache.sliding_layers:
        notes.append(f"{cache.sliding_layers} layers keep no more than {cache.window_tokens:,} tokens in the cache")
    if architecture.linear_layers:
        notes.append("the state of layers without softmax attention does not grow and is not counted in the cache")
    return notes


def _recommendation(
    config: "PreTrainedConfig",
    model: ModelConfig,
    outlooks: list[Method],
    original: int,
    target: int,
    critical: int,
    pairs: int,
) -> Recommendation | None:
    """The scaling that the model carries, else the first that it takes of critical (if far), yarn, ntk, linear."""
    taken = {method.name: method for method in outlooks if method.refused is None}
    factor, carried = target / original, hf_config.describe(config)
    continued = [carried["method"]] if carried and not hf_config.changes_with_length(config) else []
    far = ["critical"] if factor > methods.FAR else []
    scaling = next((name for name in (*continued, *far, "yarn", "ntk", "linear") if name in taken), None)
    if scaling is None:
        return None
    reasons = []
    if carried:
        reasons.append(
            f"the model already carries {carried['method']} scaling from {length_text(original)} tokens; "
            "it is extended from there, not scaled twice"
        )
    reasons.append(_scaling_reason(scaling, taken[scaling], factor, critical, pairs))
    if scaling not in ("yarn", "critical"):
        refused = next((method.refused for method in outlooks if method.name == "yarn"), None)
        reasons.append(f"yarn is not possible here: {refused}")
    length = min(original, DEFAULT_TRAIN_LENGTH)
    chunks = 3 if factor > MANY_CHUNKS_FACTOR and length > 2 else 2
    reasons += _sampler_reasons(length, target, chunks, factor)
    settings = [f"--set scaling.method={scaling}"] if scaling != ScalingConfig().method else []
    settings += [f"--set positions.chunks={chunks}"] if chunks != PositionsConfig().chunks else []
    options = model.model_dump(exclude_defaults=True, exclude={"path"})
    settings += [f"--set {shlex.quote(f'model.{key}={value}')}" for key, value in options.items()]
    # A bare config.json has no weights: the user names the model that it belongs to.
    path = "MODEL" if Path(model.path).suffix == ".json" else shlex.quote(model.path)
    command = f"skipwise extend --model {path} --target {_length_option(target)} --data TEXTS"
    return Recommendation(scaling, "pose", chunks, length, reasons, " ".join([*[command], *settings]))


def _length_option(tokens: int) -> str:
    return length_text(tokens).replace(",", "").lower()


def _scaling_reason(name: str, method: Method, factor: float, critical: int, pairs: int) -> str:
    stretch = method.stretch or []
    unchanged = sum(value < 1.001 for value in stretch)
    full = sum(value > 0.999 * factor for value in stretch)
    if name == "yarn":
        return (
            f"yarn keeps {unchanged} of {pairs} pairs, the fastest, which tell neighbours apart, and stretches {full} "
            f"by the whole factor, among them the {pairs - critical} that never turned once in the original window; "
            "plain loaders compute it alike"
        )
    if name == "critical":
        return (
            f"critical is yarn that stretches {full} of {pairs} pairs by the whole factor, those that turned less than "
            f"{methods.Critical.beta_slow:g} times in the original window; at ×16 a model of 3 M parameters read the "
            "target 5 % better with it than with yarn after 600 steps, and answered all passkeys there after 160, "
            "when yarn answered none (docs/recipe.md). transformers and vLLM compute it, llama.cpp only for llama and "
            "mistral: take yarn for other families there"
        )
    if name == "ntk":
        return "ntk is a plain new base, which every loader understands; it keeps the fastest pair as it is"
    if name != "linear":
        return f"{name} is what the model was made with, and its only continuation beside a list of factors"
    return "linear divides every position by the factor; it needs more training steps than the others"


def _sampler_reasons(length: int, target: int, chunks: int, factor: float) -> list[str]:
    if length < 3:  # too short for three chunks, so there is nothing to compare
        return []
    rare = {n: 1 / coverage.longest_distance_chance(Sampler("pose", length, target, chunks=n)) for n in (2, 3)}
    often = f"once in {rare[2]:,.0f} examples with 2 chunks and once in {rare[3]:,.0f} with 3"
    chosen = (
        f"beyond ×{MANY_CHUNKS_FACTOR} the rarer seams of 2 chunks are not worth that"
        if chunks == 3
        else f"up to ×{MANY_CHUNKS_FACTOR} the fewer seams of 2 chunks are worth more"
    )
    return [
        f"pose trains on {length_text(length)} tokens at a time, whatever the target; a full-length example has "
        f"{length_text(target)}",
        f"the longest distance is shown {often}: {chosen} "
        "(2 and 3 chunks reached the same perplexity in the PoSE paper, 2,048 a far worse one)",
    ]
