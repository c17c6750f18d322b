"""What each field of a model's configuration may hold, and the error for a value that it may not.

transformers checks some types, warns about others and divides by the rest. The checks here run on config.json before
transformers sees it, and on the configuration object of a live model.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from skipwise.errors import SkipwiseError

MOST_TOKENS = 10**9
"""A window beyond this is a mistake. The longest published ones are some ten million tokens."""


class Kind(NamedTuple):
    """What a field may hold."""

    accepts: Callable[[Any], bool]
    expected: str
    """For the error, e.g. `a whole number from 1 to 4096`."""
    example: Any
    """A value to write."""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def whole(least: int, most: int, example: int) -> Kind:
    """A whole number within these bounds."""
    expected = f"a whole number from {least} to {most}"
    return Kind(lambda value: _is_whole(value) and least <= value <= most, expected, example)


def number(example: float, *, above: float | None = None, least: float | None = None, most: float = 1e15) -> Kind:
    """A finite number, `above` one bound or at `least` another."""
    low, bound = (f"above {above:g}", above) if above is not None else (f"of at least {least:g}", least)
    assert bound is not None
    expected = f"a number {low}" + (f", up to {most:g}" if most < 1e15 else "")

    def accepts(value: Any) -> bool:
        return _is_number(value) and (value > bound if above is not None else value >= bound) and value <= most

    return Kind(accepts, expected, example)


def each(kind: Kind, example: list[Any]) -> Kind:
    """A list whose items are all of a kind."""
    return Kind(
        lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(map(kind.accepts, value)),
        f"a list, each item {kind.expected}",
        example,
    )


def either(first: Kind, second: Kind) -> Kind:
    """A value of one of two kinds."""
    return Kind(
        lambda value: first.accepts(value) or second.accepts(value),
        f"{first.expected}, or {second.expected}",
        first.example,
    )


FLAG = Kind(lambda value: isinstance(value, bool), "true or false", False)
TEXT = Kind(lambda value: isinstance(value, str) and value != "", "a word in quotes", "llama")
_WINDOW = whole(2, MOST_TOKENS, 8192)
_LOCAL = whole(0, MOST_TOKENS, 4096)._replace(expected="a whole number of tokens, or null for none")
_FACTOR = number(8, least=1, most=1e6)
_BASE = number(10_000, above=1)
_WIDTH = whole(1, 2**20, 4096)
_HEADS = whole(1, 2**14, 32)
_LAYERS = whole(1, 4096, 32)
_STORED = r"(torch\.)?(bfloat16|float(16|32|64|8_\w+)?|half|double|u?int(8|16|32|64))"

SCALING: dict[str, Kind] = {
    "type": TEXT._replace(example="yarn"),
    "rope_type": TEXT._replace(example="yarn"),
    "rope_theta": _BASE,
    "factor": _FACTOR,
    "original_max_position_embeddings": _WINDOW,
    "attention_factor": number(1.2, above=0, most=1000),
    "attn_factor": number(1.0, above=0, most=1000),
    "beta_fast": number(32, above=0, most=1e6),
    "beta_slow": number(1, above=0, most=1e6),
    "mscale": number(1.0, least=0, most=1000),
    "mscale_all_dim": number(1.0, least=0, most=1000),
    "short_mscale": number(1.2, above=0, most=1000),
    "long_mscale": number(1.2, above=0, most=1000),
    "low_freq_factor": number(1, above=0, most=1e6),
    "high_freq_factor": number(4, above=0, most=1e6),
    "short_factor": each(number(1, above=0, most=1e9), [1.0, 1.5]),
    "long_factor": each(number(1, above=0, most=1e9), [1.0, 1.5]),
    "partial_rotary_factor": number(0.5, above=0, most=1),
    "truncate": FLAG,
    "mrope_section": each(whole(0, 2**14, 16), [16, 24, 24]),
    "llama_4_scaling_beta": number(0.1, least=0, most=1000),
}
"""Fields of `rope_scaling` or `rope_parameters`."""

FIELDS: dict[str, Kind] = {
    "model_type": TEXT,
    "rope_theta": _BASE,
    "rotary_emb_base": _BASE,
    "rope_local_base_freq": _BASE,
    "partial_rotary_factor": SCALING["partial_rotary_factor"],
    "rotary_pct": SCALING["partial_rotary_factor"],
    "rotary_dim": whole(1, 2**16, 64),
    "max_position_embeddings": _WINDOW,
    "original_max_position_embeddings": _WINDOW,
    "initial_context_length": _WINDOW,
    "max_sequence_length": _WINDOW,
    "max_seq_len": _WINDOW,
    "seq_length": _WINDOW,
    "n_positions": _WINDOW,
    "n_ctx": _WINDOW,
    "sliding_window": _LOCAL,
    "attention_chunk_size": _LOCAL,
    "sliding_window_pattern": either(whole(0, 4096, 6), TEXT),
    "no_rope_layer_interval": whole(1, 4096, 4),
    "max_window_layers": whole(0, 4096, 28),
    "use_sliding_window": FLAG,
    "num_hidden_layers": _LAYERS,
    "n_layer": _LAYERS,
    "num_attention_heads": _HEADS,
    "n_head": _HEADS,
    "num_key_value_heads": _HEADS,
    "num_kv_heads": _HEADS,
    "head_dim": whole(1, 2**14, 128),
    "hidden_size": _WIDTH,
    "n_embd": _WIDTH,
    "n_inner": whole(1, 2**22, 16_384),
    "intermediate_size": either(whole(1, 2**22, 11_008), each(whole(1, 2**22, 11_008), [11_008])),
    "vocab_size": whole(1, 10**8, 32_000),
    "kv_lora_rank": whole(1, 2**16, 512),
    "qk_rope_head_dim": whole(2, 2**14, 64),
    "qk_nope_head_dim": whole(1, 2**14, 128),
    "v_head_dim": whole(1, 2**14, 128),
    "num_kv_shared_layers": whole(0, 4096, 0),
    "layer_types": each(TEXT, ["full_attention"]),
    "no_rope_layers": each(Kind(lambda value: value in (0, 1), "0 or 1", 1), [1, 1, 1, 0]),
    "dtype": Kind(lambda value: re.fullmatch(_STORED, str(value)) is not None, "a type of numbers", "bfloat16"),
    "torch_dtype": Kind(lambda value: re.fullmatch(_STORED, str(value)) is not None, "a type of numbers", "bfloat16"),
}
"""Fields at the top of a configuration, or of its `text_config`. Null counts as absent."""

NEEDS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("long_factor", "short_factor"),
}
"""Fields without which a RoPE type cannot be computed."""

_NO_TYPE = {"factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor"}
"""Fields that have a meaning under a type alone."""


def shown(value: object) -> str:
    """A value as JSON, cut to fit into a line."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = repr(value) if isinstance(value, str | int | float) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}…"


def _wrong(path: str, value: object, kind: Kind) -> SkipwiseError:
    name, example = path.rpartition(".")[2], kind.example
    if isinstance(value, str):
        try:
            bare = json.loads(value)
        except (ValueError, RecursionError):
            bare = None
        if bare is not None and kind.accepts(bare):
            return SkipwiseError(f'{path} = {shown(value)}: expected {kind.expected}; write "{name}": {bare}, unquoted')
    return SkipwiseError(
        f'{path} = {shown(value)}: expected {kind.expected}; write e.g. "{name}": {json.dumps(example)}'
    )


def check(values: Mapping[str, Any]) -> None:
    """Check the fields of a configuration, as saved or as `to_dict` gives them.

    Raises:
        SkipwiseError: The first wrong value, with its field, what is expected and what to write.
    """
    _check_fields(values, FIELDS, "")
    if values.get("sliding_window_pattern") == 0 and values.get("sliding_window"):  # every how many layers one is full
        raise _wrong("sliding_window_pattern", 0, whole(1, 4096, 6))
    for key in ("rope_scaling", "rope_parameters"):
        if values.get(key) is not None:
            check_scaling(values[key], key)
    for key in ("text_config", "language_config", "llm_config"):
        part = values.get(key)
        if part is None:
            continue
        if not isinstance(part, Mapping):
            raise SkipwiseError(f"{key} = {shown(part)}: expected a mapping of fields")
        try:
            check(part)
        except SkipwiseError as error:
            raise SkipwiseError(f"{key}.{error}") from error


def check_object(config: object) -> None:
    """Check the same fields as attributes of a configuration object.

    Args:
        config: The configuration of a language model, not of a wrapper around one.

    Raises:
        SkipwiseError: The first wrong value.
    """
    names = FIELDS.keys() - {"torch_dtype"}  # of which transformers warns when it is read
    _check_fields({name: getattr(config, name, None) for name in names}, FIELDS, "")


def _check_fields(values: Mapping[str, Any], kinds: dict[str, Kind], prefix: str) -> None:
    for name, kind in kinds.items():
        value = values.get(name)
        if value is not None and not kind.accepts(value):
            raise _wrong(prefix + name, value, kind)


def is_nested(values: Mapping[str, Any]) -> bool:
    """Whether these RoPE parameters are written by layer type."""
    return bool(values) and all(value is None or isinstance(value, Mapping) for value in values.values())


def check_scaling(values: object, path: str) -> None:
    """Check RoPE parameters, flat or by layer type.

    Args:
        values: What stands under `rope_scaling` or `rope_parameters`.
        path: Its name, for the error.

    Raises:
        SkipwiseError: The first wrong or missing value.
    """
    if not isinstance(values, Mapping):
        raise SkipwiseError(
            f'{path} = {shown(values)}: expected null, or a mapping such as {{"rope_type": "yarn", "factor": 4.0}}'
        )
    if is_nested(values):
        for name, part in values.items():
            if part is not None:
                check_scaling(part, f"{path}.{name}")
        return
    _check_fields(values, SCALING, f"{path}.")
    kind, other = (values.get(key) for key in ("rope_type", "type"))
    if kind and other and NAMES.get(kind, kind) != NAMES.get(other, other) and "mrope" not in (kind, other):
        raise SkipwiseError(f"{path} has rope_type {shown(kind)} and type {shown(other)}: remove the one that is wrong")
    kind = kind or other
    if kind in (None, "default"):
        given = [name for name in sorted(_NO_TYPE) if values.get(name) not in (None, 1)]
        if given:
            state = "no rope_type" if kind is None else "rope_type 'default', which takes none"
            raise SkipwiseError(
                f"{path}.{given[0]} = {shown(values[given[0]])}, but {state}: "
                f'write the type of this scaling, e.g. "rope_type": "linear", or remove {given[0]}'
            )
    for name in NEEDS.get(NAMES.get(kind, kind), ()) if isinstance(kind, str) else ():
        if values.get(name) is None:
            example = json.dumps(SCALING[name].example)
            raise SkipwiseError(f'{path}.{name} is missing: {kind!r} needs it; write e.g. "{name}": {example}')
    for high, low in (("high_freq_factor", "low_freq_factor"), ("beta_fast", "beta_slow")):
        usual = SCALING[high].example, SCALING[low].example
        top, bottom = (values.get(name) or example for name, example in zip((high, low), usual, strict=True))
        if kind in ("llama3", "yarn") and top <= bottom:
            raise SkipwiseError(
                f"{path}.{high} = {shown(top)}: expected a number above {low}, which is {shown(bottom)}"
            )


NAMES = {"su": "longrope"}
"""Old names of RoPE types, and what transformers calls them now."""


def normalised(values: dict[str, Any]) -> dict[str, Any]:
    """config.json with what older tools wrote and transformers 5 refuses in today's form.

    Old names of RoPE types, and whole numbers written as 4096.0, at every depth that has fields of a model.
    """
    new = dict(values)
    for name, kind in (*FIELDS.items(), *SCALING.items()):
        value = new.get(name)
        if isinstance(value, float) and value.is_integer() and not kind.accepts(value) and kind.accepts(int(value)):
            new[name] = int(value)
    for name in ("type", "rope_type"):
        if isinstance(new.get(name), str):
            new[name] = NAMES.get(new[name], new[name])
    for name in ("rope_scaling", "rope_parameters", "text_config", "full_attention", "sliding_attention"):
        if isinstance(new.get(name), dict):
            new[name] = normalised(new[name])
    return new
