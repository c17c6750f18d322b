"""Read from the header of a GGUF file what transformers leaves there: type of the weights, shape and RoPE.

A header is a list of (key, type, value), then of tensor names; a key or name is preceded by its length.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from skipwise.errors import SkipwiseError
from skipwise.rope.methods import Llama3, plain_inv_freq, yarn_attention

_HEADER_BYTES = 2**26
"""Look for keys and names in this much of a file; the largest vocabularies take about 20 MB of it."""

_NUMBERS = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING = 8

_KEYS = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""Keys under {arch}.rope.scaling, and what transformers calls them."""

_UNREAD = ("alpha", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier")
_ONE_TABLE = "rope_freqs.weight"
_TWO_TABLES = ("rope_factors_short.weight", "rope_factors_long.weight")

_SHAPE = {
    "qwen3": {"head_dim": "attention.key_length"},
    "qwen3moe": {"moe_intermediate_size": "expert_feed_forward_length"},
    "gemma2": {
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
    "phi3": {"sliding_window": "attention.sliding_window"},
}
"""Configuration keys by architecture, and the keys under {arch} that say them."""

_GEMMA_27B = {"gemma2": 46, "gemma3": 62}
"""Layers of the models whose attention is scaled by hidden_size / heads; of all others, by the size of a head."""

Value = int | float | str


def _place(data: mmap.mmap, name: str) -> int | None:
    """Where the value after a key (or the entry after a tensor's name) starts."""
    wanted = struct.pack("<Q", len(name)) + name.encode()
    start = data.find(wanted, 0, min(len(data), _HEADER_BYTES))
    return None if start < 0 else start + len(wanted)


def _value(data: mmap.mmap, key: str) -> Value | None:
    start = _place(data, key)
    if start is None:
        return None
    (kind,) = struct.unpack_from("<I", data, start)
    if kind == _STRING:
        (length,) = struct.unpack_from("<Q", data, start + 4)
        return data[start + 12 : start + 12 + length].decode("utf-8", "replace")
    if kind not in _NUMBERS:
        return None
    number: Value = struct.unpack_from(_NUMBERS[kind], data, start + 4)[0]
    return number


def weight_type(path: Path) -> str | None:
    """The type of most weights, e.g. "Q4_1"; "unknown" where the file does not say it, None for plain floats."""
    from gguf import LlamaFileType

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        value = _value(data, "general.file_type")
    name = next((item.name for item in LlamaFileType if item == value), "unknown")
    kind = str(name).removeprefix("MOSTLY_").removeprefix("ALL_")
    return None if kind in ("F32", "F16", "BF16") else kind


def overlooked(path: Path) -> dict[str, Any]:
    """Configuration values that the header says and transformers leaves at the default of another checkpoint."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        family = str(_value(data, "general.architecture"))
        values = {name: _value(data, f"{family}.{key}") for name, key in _SHAPE.get(family, {}).items()}
        if family in _GEMMA_27B:
            sizes = ("block_count", "embedding_length", "attention.head_count", "attention.key_length")
            layers, hidden, heads, head = (_value(data, f"{family}.{key}") for key in sizes)
            shared = layers == _GEMMA_27B[family] and isinstance(hidden, int) and isinstance(heads, int)
            values["query_pre_attn_scalar"] = hidden // heads if shared else head  # type: ignore[operator]
    return {name: value for name, value in values.items() if value is not None}


def rope_scaling(path: Path) -> dict[str, Any] | None:
    """The `rope_parameters` of the scaling that a file carries, without `rope_theta`; None for plain RoPE.

    transformers drops them while loading. Factors written as tensors are Llama 3's where they are equal to those, and
    lists (`longrope`) otherwise. Errors: SkipwiseError for a scaling that cannot be taken over exactly.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        family = _value(data, "general.architecture")
        prefix = f"{family}.rope.scaling."
        tables = [name for name in (_ONE_TABLE, *_TWO_TABLES) if _place(data, name) is not None]
        kind = _value(data, prefix + "type")
        scaling = {name: _value(data, prefix + key) for key, name in _KEYS.items()}
        if scaling["factor"] is None:  # the key of older files
            scaling["factor"] = _value(data, f"{family}.rope.scale_linear")
        odd = [key for key in _UNREAD if _value(data, prefix + key) not in (None, 1.0)]
        attention = float(_value(data, prefix + "attn_factor") or 1)
        theta, window = (_value(data, f"{family}.{key}") for key in ("rope.freq_base", "context_length"))
    refused = SkipwiseError(f"{path.name} carries {kind!r} RoPE scaling, which is not read from GGUF files")
    if odd:
        raise refused
    parameters = {name: value for name, value in scaling.items() if value is not None}
    if tables:
        if scaling["factor"] is not None:  # which would apply beside the tables
            raise refused
        original = int(scaling["original_max_position_embeddings"] or window or 0)
        return _from_tables(_factors(path, tables), float(theta or 10_000), original, int(window or 0), attention)
    if kind is None and scaling["factor"] not in (None, 0.0, 1.0):  # which llama.cpp takes as linear
        kind = "linear"
    if kind in (None, "none"):
        return None
    factor = scaling["factor"]
    if kind not in ("linear", "yarn") or not isinstance(factor, float) or (kind == "linear" and attention != 1):
        raise refused
    if attention != 1:  # llama.cpp multiplies it by what YaRN brings
        parameters["attention_factor"] = attention * yarn_attention(factor)
    return {"rope_type": kind, **parameters}


def _factors(path: Path, tables: list[str]) -> dict[str, list[float]]:
    from gguf import GGUFReader

    return {tensor.name: tensor.data.tolist() for tensor in GGUFReader(path).tensors if tensor.name in tables}


def _from_tables(
    tables: dict[str, list[float]], theta: float, original: int, window: int, attention: float
) -> dict[str, Any]:
    short, long = (tables.get(name) or tables[_ONE_TABLE] for name in _TWO_TABLES)
    dim = 2 * len(long)
    # Llama 3's original window is not in the file, but its factors tell it.
    for candidate in (8192, *(2**power for power in range(4, 18))) if _ONE_TABLE in tables and attention == 1 else ():
        llama3 = Llama3(factor=max(long))
        same = plain_inv_freq(dim, theta) / llama3.inv_freq(dim, theta, candidate, window)
        if max(long) > 1 and candidate < window and np.allclose(same, long, rtol=1e-4):
            return {
                key: value for key, value in llama3.to_hf(dim, theta, candidate, window).items() if key != "rope_theta"
            }
    lists = {"short_factor": short, "long_factor": long, "attention_factor": attention}
    sizes = {"factor": window / original, "original_max_position_embeddings": original}
    return {"rope_type": "longrope", **sizes, **lists}
