"""Names, types, defaults and help of all settings, read from the sections; and the nearest name to a misspelt one."""

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel

from skipwise.config.evaluation_settings import EvaluationConfig
from skipwise.config.model_settings import ModelConfig, ScalingConfig
from skipwise.config.run_settings import RunConfig, SearchConfig
from skipwise.config.values import MOST, Length
from skipwise.errors import SkipwiseError

PREFIX: dict[type[BaseModel], str] = {
    ModelConfig: "model.",
    ScalingConfig: "scaling.",
    EvaluationConfig: "evaluation.",
    SearchConfig: "search.",
}
"""Sections that commands read alone, and how their keys begin."""


class Setting(NamedTuple):
    """One setting as `skipwise settings` shows it."""

    key: str
    """Dotted, as `--set` takes it."""
    type: str
    """What it takes, in words."""
    default: str
    """As YAML has it; `required` where there is none."""
    help: str


class Section(NamedTuple):
    """One section of the configuration with its settings."""

    key: str
    """Dotted name of the section; empty for the settings of no section."""
    help: str
    settings: list[Setting]


def groups() -> list[Section]:
    """All sections with their settings, in the order of `RunConfig`; `search` last."""
    return [*_sections(RunConfig, ""), *_sections(SearchConfig, "search.")]


def settings() -> list[Setting]:
    """All settings, in the order of their sections."""
    return [setting for group in groups() for setting in group.settings]


def select(key: str) -> list[Section]:
    """The setting or the section called `key`, or every setting whose last part it is.

    Raises:
        SkipwiseError: There is none; the message names the nearest.
    """
    chosen = [group for group in groups() if group.key and (group.key == key or group.key.startswith(f"{key}."))]
    if chosen:
        return chosen
    for last in (False, True):
        named = [(group, [s for s in group.settings if _matches(s.key, key, last)]) for group in groups()]
        if chosen := [group._replace(settings=those) for group, those in named if those]:
            return chosen
    names = [*(group.key for group in groups() if group.key), *(setting.key for setting in settings())]
    raise SkipwiseError(f"unknown setting {key!r}; {hint(key, names) or 'skipwise settings lists all'}")


def _matches(name: str, key: str, last: bool) -> bool:
    return name.rpartition(".")[2] == key if last else name == key


def hint(key: str, names: Iterable[str]) -> str:
    """Write `did you mean …?` with the names whose last part is that of `key`, or near it. Empty where none is.

    A name is near when it differs by a few letters, begins with the key or is its beginning.
    """
    lasts = [(name, name.rpartition(".")[2]) for name in names]
    wanted = key.rpartition(".")[2]
    close = difflib.get_close_matches(wanted, {last for _, last in lasts}, n=1, cutoff=0.72)
    near = (
        [name for name, last in lasts if last == wanted]
        or [name for name, last in lasts if [last] == close]
        or [name for name, last in lasts if len(wanted) > 2 and (last.startswith(wanted) or wanted.startswith(last))]
    )
    return f"did you mean {' or '.join(repr(name) for name in near[:3])}?" if near else ""


def default_text(value: Any) -> str:
    """A default as YAML has it: `null`, `true`, `[64, 256]`."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(default_text(item) for item in value)}]"
    return repr(value) if isinstance(value, str) and "\n" in value else str(value)


def _sections(section: type[BaseModel], prefix: str) -> Iterator[Section]:
    inner: list[tuple[str, type[BaseModel]]] = []
    plain: list[Setting] = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner.append((f"{prefix}{name}.", field.annotation))
            continue
        default = "required" if field.is_required() else default_text(field.default)
        kind = _type_text(field.annotation, field.metadata)
        plain.append(Setting(prefix + name, kind, default, " ".join((field.description or "").split())))
    yield Section(prefix.rstrip("."), " ".join((section.__doc__ or "").split()), plain)
    for key, part in inner:
        yield from _sections(part, key)


def _type_text(annotation: Any, metadata: list[Any]) -> str:
    """A field's type in words, e.g. `whole number, 1 or more`."""
    if metadata == list(getattr(Length, "__metadata__", ())):
        return "tokens"
    origin, parts = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _type_text(annotation.__origin__, [*annotation.__metadata__, *metadata])
    if type(None) in parts:
        (rest,) = [part for part in parts if part is not type(None)]
        return f"{_type_text(rest, metadata)}, or null"
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin is list:
        return f"list of {_plural(_type_text(parts[0], []))}"
    word = {int: "whole number", float: "number", str: "text", bool: "true | false"}[annotation]
    limits = _limits(metadata) if annotation in (int, float) else ""
    return f"{word}{' ' if limits.startswith('from') else ', '}{limits}" if limits else word


def _plural(text: str) -> str:
    one = re.match(r"whole number|number|text", text)
    return f"{one[0]}s{text[one.end() :]}" if one else text.replace(" | ", ", ")


def _limits(metadata: list[Any]) -> str:
    """`from 1 to 4,096`, `1 or more`, `above 0`. The limit of every count is not worth a word."""
    limits: dict[str, float] = {}
    for part in metadata:
        for each in getattr(part, "metadata", [part]):
            limits |= {name: getattr(each, name) for name in ("ge", "gt", "le", "lt") if hasattr(each, name)}
    low, high = limits.get("ge"), limits.get("le")
    if low is not None and high is not None and high != MOST:
        return f"from {low:g} to {high:,}"
    words = [f"{low:g} or more" if low is not None else f"above {limits['gt']:g}" if "gt" in limits else ""]
    words.append(
        f"at most {high:,}" if high not in (None, MOST) else f"below {limits['lt']:,}" if "lt" in limits else ""
    )
    return ", ".join(word for word in words if word)


def markdown() -> str:
    """A page with all settings, a table for each section."""
    lines = [
        "# Settings",
        "",
        "Put a setting into a YAML file (`--config recipe.yaml`, nested by its dots) or on the command line",
        "(`--set training.steps=200`). The command line wins. `search.*` belongs to `skipwise search` and is set on",
        "the command line only. A length may be written `32k` (32,768) or `1m`. An unknown setting is an error.",
        "",
        "This page is the output of `skipwise settings --markdown`.",
    ]
    for group in groups():
        lines += ["", f"## `{group.key}`" if group.key else "## The run", "", group.help, ""]
        lines += ["| setting | takes | default | |", "|---|---|---|---|"] if group.settings else []
        for setting in group.settings:
            cells = (f"`{setting.key}`", setting.type, f"`{setting.default}`", setting.help)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
