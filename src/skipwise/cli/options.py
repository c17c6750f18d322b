"""Options that several commands read."""

import argparse
from typing import TYPE_CHECKING, Any

from skipwise.errors import SkipwiseError

if TYPE_CHECKING:
    from skipwise.config import ModelConfig, ServerConfig


def mapping(values: dict[str, Any], name: str) -> dict[str, Any]:
    """One section of a configuration, empty when absent. Raises SkipwiseError for anything but a mapping."""
    from skipwise.config import shown

    section = values.get(name)
    if section is not None and not isinstance(section, dict):
        raise SkipwiseError(
            f"{name} = {shown(section)}: expected a mapping; on the command line --set {name}.KEY=VALUE"
        )
    return section or {}


def length_option(text: str | None, option: str) -> int | None:
    """Read `64k` as 65536, and an absent option as None. Raises SkipwiseError for what is no length."""
    from skipwise.config import read_length

    return None if text is None else read_length(text, option)


def check_sections(values: dict[str, Any], *sections: str) -> None:
    """Reject a `--set` for a section that the command does not read. Raises SkipwiseError with the nearest key."""
    from skipwise.config import shown
    from skipwise.config.settings import hint, settings

    for name in sorted(set(values) - set(sections)):
        keys = [setting.key for setting in settings() if setting.key.startswith(tuple(f"{part}." for part in sections))]
        expected = " or ".join(f"{part}.KEY=VALUE" for part in sections)
        raise SkipwiseError(f"--set {shown(name)}: {hint(name, keys) or f'expected {expected}'}")


def model_config(args: argparse.Namespace) -> "ModelConfig":
    """MODEL, or the model of a run, with the `--set model.KEY=VALUE` of a command that reads a configuration alone."""
    from skipwise.config import ModelConfig, parse_settings, validate

    values = parse_settings(args.set)
    check_sections(values, "model")
    return validate(ModelConfig, {**mapping(values, "model"), "path": model_path(args.model)}, "model")


def model_path(given: str) -> str:
    """The model's folder where a run folder is given, and anything else as it is. Raises SkipwiseError without one."""
    from skipwise.runs.folder import model_of_run

    return str(model_of_run(given) or given)


SERVER_OPTIONS = {
    "model": "name",
    "api_key_env": "api_key_env",
    "tokenizer": "tokenizer",
    "window": "window",
    "concurrency": "concurrency",
    "timeout": "timeout",
}
"""Settings of `ServerConfig`, and the options that give them."""


def server_config(args: argparse.Namespace, url: str) -> "ServerConfig":
    """The server at a URL with the options of `add_server`. Raises SkipwiseError for what cannot be used."""
    from skipwise.config import ServerConfig, validate

    values = {key: getattr(args, option) for key, option in SERVER_OPTIONS.items()}
    return validate(ServerConfig, {"url": url} | {k: v for k, v in values.items() if v is not None}, "server")


def check_server_options(args: argparse.Namespace, served: bool) -> None:
    """Reject options of a server where none is named. Raises SkipwiseError."""
    given = [option for key, option in SERVER_OPTIONS.items() if getattr(args, option) is not None]
    if given and not served:
        flag = {"name": "--model"}.get(given[0], f"--{given[0].replace('_', '-')}")
        raise SkipwiseError(f"{flag} is for a server and none is named; give --server URL")
