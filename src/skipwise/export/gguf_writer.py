"""Write a model and its tokenizer as a GGUF file that llama.cpp reads, with its RoPE scaling.

Tensor names, value types and quantisation are those of the `gguf` package. What llama.cpp cannot compute as
transformers does is refused.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from skipwise.errors import SkipwiseError
from skipwise.export import gguf_tokenizer
from skipwise.models import families
from skipwise.models.agreement import is_tied
from skipwise.models.shape import ModelShape
from skipwise.rope import hf_config, methods
from skipwise.utils.atomic_files import atomic_file

Array = npt.NDArray[Any]

TYPES = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


class Family(NamedTuple):
    """How llama.cpp has a model type."""

    arch: gguf.MODEL_ARCH
    neighbours: bool
    """Rotates neighbouring dimensions, where transformers rotates halves: rows of q and k are reordered."""
    tables: bool
    """Reads RoPE factors by dimension from tensors."""


FAMILIES = {
    "llama": Family(gguf.MODEL_ARCH.LLAMA, neighbours=True, tables=True),
    "mistral": Family(gguf.MODEL_ARCH.LLAMA, neighbours=True, tables=True),
    "qwen2": Family(gguf.MODEL_ARCH.QWEN2, neighbours=False, tables=False),
    "qwen3": Family(gguf.MODEL_ARCH.QWEN3, neighbours=False, tables=False),
}


class Scaling(NamedTuple):
    """RoPE scaling as llama.cpp has it. `attention` is a factor on cos and sin beside what the type brings."""

    kind: gguf.RopeScalingType | None = None
    factor: float | None = None
    original: int | None = None
    attention: float = 1.0
    tables: dict[str, Array] | None = None
    """fp32 tensors (rotary_dim / 2,) by which frequencies are divided."""


def check(config: PreTrainedConfig) -> Family:
    """The family of a configuration. Errors: SkipwiseError with the reason why llama.cpp would compute otherwise."""
    kind = config.model_type
    if kind not in FAMILIES:
        raise SkipwiseError(f"model type {kind!r} is not written as GGUF; those that are: {', '.join(FAMILIES)}")
    facts, window = families.architecture(config), hf_config.window(config)
    if facts.sliding_layers and (facts.sliding_window or 0) < window:
        raise SkipwiseError(
            f"its layers attend within {facts.sliding_window} tokens; llama.cpp has no sliding window for {kind!r}: "
            "set sliding_window to null in its config.json if full attention is meant"
        )
    if facts.nope_layers or facts.rotary_dim != ModelShape.of(config).key_width:
        raise SkipwiseError(f"llama.cpp rotates every dimension in every layer of {kind!r}, this model does not")
    if config.hidden_act not in ("silu", "swish"):
        raise SkipwiseError(f"llama.cpp has no {config.hidden_act!r} activation for {kind!r}")
    return FAMILIES[kind]


def scaling(config: PreTrainedConfig) -> Scaling:
    """What a GGUF file says of a configuration's RoPE, from its `rope_type`.

    Linear and YaRN with the usual borders have a name in llama.cpp; other frequencies that do not depend on the input
    become a table. Errors: SkipwiseError for a type or family that has no place for them.
    """
    parameters, original = hf_config.parameters(config), hf_config.true_original_length(config)
    kind = parameters["rope_type"]
    if kind == "default":
        return Scaling()
    if kind == "linear":
        return Scaling(gguf.RopeScalingType.LINEAR, factor=parameters["factor"], original=original)
    if kind not in ROPE_INIT_FUNCTIONS or kind == "dynamic":
        raise SkipwiseError(f"llama.cpp has no {kind!r} RoPE")
    usual = (parameters.get("beta_fast") or 32, parameters.get("beta_slow") or 1, parameters.get("truncate", True)) == (
        32,
        1,
        True,
    )
    if kind == "yarn" and usual:
        _, attention = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
        attention /= methods.yarn_attention(parameters["factor"])  # llama.cpp multiplies by that one
        return Scaling(gguf.RopeScalingType.YARN, parameters["factor"], original, attention=attention)
    if not FAMILIES[config.model_type].tables:
        what = "YaRN only with beta_fast 32 and beta_slow 1" if kind == "yarn" else f"no {kind!r} RoPE"
        raise SkipwiseError(f"llama.cpp has {what} for model type {config.model_type!r}; ntk and yarn can be written")
    # Beyond the original window a longrope model uses its long list.
    by_length = {"short": None, "long": original + 1} if kind == "longrope" else {"": None}
    factors, attention = {}, 1.0
    for name, length in by_length.items():
        used, attention = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length)
        plain = methods.plain_inv_freq(hf_config.rotary_dim(config), parameters["rope_theta"])
        tensor = f"rope_factors_{name}.weight" if name else "rope_freqs.weight"
        factors[tensor] = (plain / used.double().numpy()).astype(np.float32)
    named = gguf.RopeScalingType.LONGROPE if kind == "longrope" else None
    return Scaling(named, original=original if named else None, attention=attention, tables=factors)


def write(model: PreTrainedModel, tokenizer: Any, path: Path, *, name: str, dtype: str) -> None:
    """Write a model to `path`, which appears whole; matrices as `dtype` (a key of TYPES), vectors as f32.

    One tensor is converted at a time. Errors: SkipwiseError as `check`, `scaling` and the tokenizer.
    """
    config = model.config
    family, scaled = check(config), scaling(config)
    kind, file_type = TYPES[dtype]
    tensors = _tensors(model, family, scaled, kind)
    writer = gguf.GGUFWriter(None, gguf.MODEL_ARCH_NAMES[family.arch])
    writer.add_name(name)
    writer.add_file_type(file_type)
    if kind == gguf.GGMLQuantizationType.Q8_0:
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _write_shape(writer, config)
    _write_scaling(writer, scaled)
    gguf_tokenizer.write(writer, tokenizer, config.vocab_size)
    for target, (shape, of) in tensors.items():
        quantised = of not in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
        stored = gguf.quants.quant_shape_to_byte_shape(shape, of) if quantised else shape
        number = np.dtype(np.uint8 if quantised else np.float32 if of == gguf.GGMLQuantizationType.F32 else np.float16)
        size = math.prod(stored) * number.itemsize
        writer.add_tensor_info(target, stored, number, size, raw_dtype=of if quantised else None)
    with atomic_file(path) as partial:
        writer.write_header_to_file(partial)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for target, values in _values(model, family, scaled):
            writer.write_tensor_data(_quantised(values, tensors[target][1], target))
        writer.close()


def _write_shape(writer: gguf.GGUFWriter, config: PreTrainedConfig) -> None:
    writer.add_context_length(hf_config.window(config))
    shape = ModelShape.of(config)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.key_heads)
    writer.add_key_length(shape.key_width)
    writer.add_value_length(shape.value_width)
    writer.add_rope_dimension_count(hf_config.rotary_dim(config))
    writer.add_rope_freq_base(hf_config.parameters(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(shape.vocabulary)


def _write_scaling(writer: gguf.GGUFWriter, scaled: Scaling) -> None:
    if scaled.kind is not None:
        writer.add_rope_scaling_type(scaled.kind)
        writer.add_rope_scaling_finetuned(True)
    if scaled.factor is not None:
        writer.add_rope_scaling_factor(scaled.factor)
    if scaled.original is not None:
        writer.add_rope_scaling_orig_ctx_len(scaled.original)
    if not math.isclose(scaled.attention, 1, rel_tol=1e-6):
        writer.add_rope_scaling_attn_factors(scaled.attention)


def _named(model: PreTrainedModel, family: Family) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(llama.cpp's name, transformers' name, weight) of every tensor; a tied head is left to the embedding."""
    names = gguf.get_tensor_name_map(family.arch, ModelShape.of(model.config).layers)
    tied = is_tied(model)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise SkipwiseError(f"llama.cpp has no place for the weight {name}")
        yield target, name, value


def _tensors(
    model: PreTrainedModel, family: Family, scaled: Scaling, kind: gguf.GGMLQuantizationType
) -> dict[str, tuple[tuple[int, ...], gguf.GGMLQuantizationType]]:
    """Shape and type by llama.cpp's name, in the order of `_values`."""
    plain = gguf.GGMLQuantizationType.F32
    tensors = {name: (values.shape, plain) for name, values in (scaled.tables or {}).items()}
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for target, _, value in _named(model, family):
        fitting = kind if value.shape[-1] % block == 0 else gguf.GGMLQuantizationType.F16
        tensors[target] = (tuple(value.shape), fitting if value.ndim > 1 else plain)
    return tensors


def _values(model: PreTrainedModel, family: Family, scaled: Scaling) -> Iterator[tuple[str, Array]]:
    """fp32 values by llama.cpp's name, one tensor at a time."""
    yield from (scaled.tables or {}).items()
    shape = ModelShape.of(model.config)
    heads = {"q_proj": shape.heads, "k_proj": shape.key_heads}
    for target, name, weight in _named(model, family):
        values = weight.detach().float().cpu().numpy()
        part = name.split(".")[-2]
        if family.neighbours and part in heads:
            halves = values.reshape(heads[part], 2, -1, *values.shape[1:])  # (heads, half, pair, …)
            values = halves.swapaxes(1, 2).reshape(values.shape)
        yield target, values


def _quantised(values: Array, kind: gguf.GGMLQuantizationType, name: str) -> Array:
    if kind == gguf.GGMLQuantizationType.F16 and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise SkipwiseError(f"{name} holds values beyond float16's range; export as bf16 or f32")
    written: Array = np.ascontiguousarray(gguf.quants.quantize(values, kind))
    return written
