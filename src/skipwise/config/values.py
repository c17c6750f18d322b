"""Types of the values in a configuration: lengths, counts, seeds, files of numbers. Each says what it expects."""

import json
import math
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AfterValidator, BeforeValidator, Field

from skipwise.errors import SkipwiseError
from skipwise.utils.text import length_text

LONGEST = 2**24
"""Largest length, tokens. RoPE angles are computed in fp32, which holds no odd number above this one."""

MOST = 1_000_000
"""Largest count of steps, documents, trials and the like. Anything above is a slip of the keyboard."""


def parse_length(value: object) -> object:
    """Convert `"32k"` to 32768, `"1m"` to 1048576, `"8192"` to 8192. Return any other value as it is, for pydantic."""
    if isinstance(value, str):
        text = value.strip().lower()
        unit = {"k": 1024, "m": 1024**2}.get(text[-1:], 1)
        number = text[:-1] if unit > 1 else text
        try:
            tokens = float(number) * unit
        except ValueError:
            return value
        return int(tokens) if math.isfinite(tokens) and tokens == int(tokens) else value
    return value


def read_length(value: object, name: str) -> int:
    """Read a length that a user gave as a number or a text such as `"32k"`.

    Args:
        value: The length, tokens.
        name: What the error calls it, e.g. `--target`.

    Returns:
        The length, tokens.

    Raises:
        SkipwiseError: It is not a whole number of tokens from 1 to 16M.
    """
    tokens = parse_length(value)
    if isinstance(tokens, bool) or not isinstance(tokens, int):
        raise SkipwiseError(f"{name} {value}: expected a number of tokens, e.g. 32k or 32768")
    try:
        return _in_range(tokens)
    except ValueError as error:
        raise SkipwiseError(f"{name} {value}: {error}") from None


def check_weights(weights: Sequence[float], count: int) -> None:
    """Refuse weights that mix nothing.

    Raises:
        SkipwiseError: Their number is not `count`, one is below 0, or none is above 0.
    """
    if len(weights) != count:
        sources = "1 source" if count == 1 else f"{count:,} sources"
        raise SkipwiseError(f"expected one weight for each source, and there are {len(weights):,} for {sources}")
    if not all(0 <= weight < math.inf for weight in weights):
        raise SkipwiseError("expected numbers of 0 or more")
    if not any(weights):
        raise SkipwiseError("the weights sum to nothing; give at least one source a weight above 0")


def as_length(value: object, name: str) -> int:
    """Read a length that may be a text. A number passes as it is: what is computed may exceed what a user may ask for.

    Raises:
        SkipwiseError: `value` is not a whole number, or a text that does not give a length.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return read_length(value, name)


def _in_range(tokens: int) -> int:
    if tokens < 1:
        raise ValueError("expected 1 token or more, e.g. 32k or 32768")
    if tokens > LONGEST:
        raise ValueError(
            f"expected at most {length_text(LONGEST)} tokens ({LONGEST:,}); beyond them positions are not exact in fp32"
        )
    return tokens


def read_factors(value: object) -> object:
    """Read the numbers of a file: a JSON list, a JSON object with `factors`, or one number a line.

    Return any value but a text as it is, for pydantic.
    """
    if not isinstance(value, str):
        return value
    try:
        with Path(value).open("rb") as file:
            text = file.read(2**20).decode()  # some hundred numbers; a larger file is another one
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"cannot read this file of factors ({reason})") from error
    try:
        numbers: Any = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        numbers = text.split()
    numbers = numbers.get("factors") if isinstance(numbers, dict) else numbers
    try:
        return [float(number) for number in numbers]
    except (TypeError, ValueError) as error:
        expected = "a JSON list, a JSON object with 'factors', or one number a line"
        raise ValueError(f"this file holds no list of numbers ({error}); expected {expected}") from error


def takes_list(annotation: Any) -> bool:
    """Tell whether a setting of this type takes a list only: a list or null, without a shorter form such as a text."""
    for part in get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,):
        notes = getattr(part, "__metadata__", ())
        kind = part.__origin__ if notes else part
        if get_origin(kind) is list and not any(isinstance(note, BeforeValidator) for note in notes):
            return True
    return False


Length = Annotated[int, BeforeValidator(parse_length), AfterValidator(_in_range)]
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrZero = Annotated[int, Field(ge=0, le=MOST)]
"""A count that may be 0."""
Batch = Annotated[int, Field(ge=1, le=4096)]
"""Sequences in one forward pass."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""NumPy and transformers take 32 bits."""


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `over`, merged key by key at every depth. Neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged
