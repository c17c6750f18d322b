"""What the header of a GGUF file says and transformers does not read: a path flows in, weight type and RoPE flow out.

A header is a list of (key, type, value), then of tensor names; a key or name is preceded by its length.
"""

import mmap
import struct
from pathlib import Path
from typing import Any

from skipwise.errors import SkipwiseError

_HEADER_BYTES = 2**26
"""Keys and names are looked for in this much of a file; the largest vocabularies take about 20 MB of it."""

_NUMBERS = {4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING = 8

_KEYS = {
    "factor": "factor",
    "original_context_length": "original_max_position_embeddings",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
"""Keys under {arch}.rope.scaling, and what transformers calls them."""

_UNREAD = ("alpha", "attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier")
_TABLES = ("rope_freqs.weight", "rope_factors_long.weight")

Value = int | float | str


def _place(data: mmap.mmap, name: str) -> int | None:
    """Where the value after a key (or the entry after a tensor's name) starts."""
    wanted = struct.pack("<Q", len(name)) + name.encode()
    found = data.find(wanted, 0, min(len(data), _HEADER_BYTES))
    return None if found < 0 else found + len(wanted)


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


def weight_type(path: Path) -> str:
    """The type of most weights, as the file says it, e.g. "Q4_1"; "unknown" where it does not."""
    from gguf import LlamaFileType

    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        value = _value(data, "general.file_type")
    name = next((item.name for item in LlamaFileType if item == value), "unknown")
    return str(name).removeprefix("MOSTLY_").removeprefix("ALL_")


def rope_scaling(path: Path) -> dict[str, Any] | None:
    """The `rope_parameters` of the scaling that a file carries, without `rope_theta`; None for plain RoPE.

    transformers drops them while loading. Errors: SkipwiseError for a scaling that cannot be taken over exactly.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        prefix = f"{_value(data, 'general.architecture')}.rope.scaling."
        tables = [name for name in _TABLES if _place(data, name) is not None]
        kind = _value(data, prefix + "type")
        said = {name: _value(data, prefix + key) for key, name in _KEYS.items()}
        odd = [key for key in _UNREAD if _value(data, prefix + key) not in (None, 1.0)]
    if tables:
        raise SkipwiseError(
            f"{path.name} carries its RoPE scaling as a table ({tables[0]}); it is not read: use the safetensors model"
        )
    if kind in (None, "none"):
        return None
    if kind not in ("linear", "yarn") or said["factor"] is None or odd:
        raise SkipwiseError(f"{path.name} carries {kind!r} RoPE scaling, which is not read from GGUF files")
    return {"rope_type": kind, **{name: value for name, value in said.items() if value is not None}}
