"""Options that several commands read."""

import argparse
from typing import TYPE_CHECKING, Any

from skipwise.errors import SkipwiseError

if TYPE_CHECKING:
    from skipwise.config import ModelConfig


def mapping(values: dict[str, Any], name: str) -> dict[str, Any]:
    """One section of a configuration, empty when absent. Errors: SkipwiseError for anything but a mapping."""
    found = values.get(name)
    if found is not None and not isinstance(found, dict):
        raise SkipwiseError(f"{name} = {found!r}: expected a mapping; on the command line --set {name}.KEY=VALUE")
    return found or {}


def length_option(text: str | None, option: str) -> int | None:
    """`64k` → 65536. Errors: SkipwiseError for what is no length."""

    from skipwise.config import parse_length

    value = None if text is None else parse_length(text)
    if isinstance(value, int) and value > 0:
        return value
    if text is None:
        return None
    raise SkipwiseError(f"{option} {text}: expected a number of tokens such as 32k or 32768")


def model_config(args: argparse.Namespace) -> "ModelConfig":
    """MODEL with the `--set model.KEY=VALUE` of a command that reads a configuration alone."""
    from skipwise.config import ModelConfig, parse_settings, validate

    values = parse_settings(args.set)
    if unknown := sorted(set(values) - {"model"}):
        raise SkipwiseError(f"--set {unknown[0]}: expected model.KEY=VALUE")
    return validate(ModelConfig, {**mapping(values, "model"), "path": args.model}, "model")
