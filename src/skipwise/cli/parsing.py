"""The parser that all commands share: mistakes in one line, no empty values, help with defaults and examples."""

import argparse
import contextlib
import difflib
import textwrap
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from skipwise.errors import SkipwiseError

MOST = 1_000_000
"""Largest count that an option takes, as in the configuration."""

MOST_PROCESSES = 1024
MOST_REQUESTS = 1024
"""Requests under way at once, as `config.server` has it."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Adds each option's default: its own, or that of the setting that it stands for."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=28)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        default = action.default
        if setting := getattr(action, "setting", None):
            from skipwise.config.settings import select

            default = select(setting)[0].settings[0].default.strip("[]").replace(", ", ",")
        if default is None or isinstance(default, bool) or default == [] or default is argparse.SUPPRESS:
            return text
        return f"{text} (default: {str(default).replace('%', '%%')})"


class Command(argparse.ArgumentParser):
    """A parser of one command.

    Args:
        examples: Command lines that its help shows.
        sections: Sections of the configuration whose settings its help lists, and which `--set` takes.
    """

    def __init__(self, *args: Any, examples: Iterable[str] = (), sections: Iterable[str] = (), **options: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, **options})
        self.examples, self.sections = list(examples), list(sections)

    def add_argument(self, *flags: Any, completes: str = "", setting: str = "", **options: Any) -> argparse.Action:
        """Add an option whose value must not be empty.

        Args:
            flags: Names, as argparse has them.
            completes: What shell completion offers for its value: `file`, `folder` or `settings`.
            setting: The setting of the configuration that the option stands for, whose default help shows.
            options: As argparse has them.
        """
        if options.get("action") in (None, "append"):
            options["type"] = _filled(options.get("type", str))
        action = super().add_argument(*flags, **options)
        action.completes, action.setting = completes, setting  # type: ignore[attr-defined]
        return action

    def format_help(self) -> str:
        """The help, with examples and settings at its end."""
        parts = [f"settings (--set KEY=VALUE):\n{settings_text(name, 80, '  ')}" for name in self.sections]
        parts += ["examples:\n" + "\n".join(f"  {line}" for line in self.examples)] if self.examples else []
        self.epilog = "\n\n".join(parts)
        return super().format_help()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Parse, and reject what is left over here, where the nearest option is known."""
        values, extra = super().parse_known_args(args, namespace)
        if extra:
            near = difflib.get_close_matches(extra[0].partition("=")[0], self._option_string_actions, n=1)
            hint = f"did you mean {near[0]}?" if near else f"{self.prog} --help lists the options"
            raise SkipwiseError(f"unexpected {extra[0]!r}; {hint}")
        return values, extra

    def error(self, message: str) -> NoReturn:
        """Raise SkipwiseError instead of printing the usage."""
        raise SkipwiseError(f"{message.removeprefix('argument ')}; {self.prog} --help shows how it is used")


def add_command(
    commands: Any, name: str, summary: str, *, examples: Iterable[str], sections: Iterable[str] = ()
) -> Command:
    """Add a command. Its help begins with `summary` and ends with `examples`."""
    text = f"{summary[0].upper()}{summary[1:]}."
    parser: Command = commands.add_parser(
        name, help=summary, description="\n".join(textwrap.wrap(text, 80)), examples=examples, sections=sections
    )
    return parser


def settings_text(key: str, width: int, indent: str = "") -> str:
    """The settings called `key`, or of the section `key` (all for an empty one), for a terminal.

    Raises:
        SkipwiseError: There is none; the message names the nearest.
    """
    from skipwise.config.settings import groups, select

    lines, inner = [], f"{indent}    "
    for group in select(key) if key else groups():
        for setting in group.settings:
            lines.append(f"{indent}{setting.key} = {setting.default}")
            text = f"({setting.type}) {setting.help}"
            lines += textwrap.wrap(text, width, initial_indent=inner, subsequent_indent=inner)
    return "\n".join(lines)


def _filled(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """`kind`, for texts that are not empty: an unset shell variable must not stand for a default or for `.`."""

    def read(text: str) -> Any:
        if not text.strip():
            raise argparse.ArgumentTypeError("the value is empty; was a shell variable not set?")
        if "\0" in text:
            raise argparse.ArgumentTypeError("the value holds a NUL character")
        return kind(text)

    read.__name__ = getattr(kind, "__name__", "value")
    return read


def count(text: str, most: int = MOST) -> int:
    """A whole number from 1 to a million, or to `most`."""
    with contextlib.suppress(ValueError):
        if 1 <= int(text) <= most:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 to {most:,}")


def share(text: str) -> float:
    """A number above 0 and at most 1."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r}: expected a number above 0 and at most 1, e.g. 0.95")


def items(text: str) -> list[str]:
    """`a,b` as a list of texts, none of them empty."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r}: there is nothing before or after a comma")
    return parts


def add_model(
    parser: Command,
    text: str = "folder, hub id, .gguf file or packaged name",
    *,
    metavar: str = "MODEL",
    nargs: Any = None,
) -> None:
    """Add the positional MODEL."""
    parser.add_argument("model", nargs=nargs, metavar=metavar, completes="file", help=text)


def add_server(parser: Command) -> None:
    """Add the options of a server; `options.server_config` reads them."""
    group = parser.add_argument_group("a model behind an OpenAI-compatible server")

    def add(*flags: str, kind: Callable[[str], Any] = str, **options: Any) -> None:
        group.add_argument(*flags, type=_filled(kind), **options)

    add("--server", metavar="URL", help="base address of its API, such as http://localhost:8000/v1")
    add("--model", dest="name", metavar="NAME", help="name that the server has for it; when absent its only one")
    add("--api-key-env", metavar="VAR", help="environment variable that holds the key; none is sent when absent")
    add(
        "--tokenizer",
        metavar="PATH_OR_ID",
        help="model folder or hub id with the tokenizer of the served model; when absent the server counts tokens",
    )
    add("--window", metavar="LENGTH", help="tokens that the server admits, where it does not tell them")
    requests = partial(count, most=MOST_REQUESTS)
    add("--concurrency", kind=requests, metavar="N", help="requests that are under way at once (default: 8)")
    add("--timeout", kind=float, metavar="SECONDS", help="time that one request may take (default: 600)")


def add_set(parser: Command, example: str) -> None:
    """Add `--set`."""
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        completes="settings",
        help=f"change a setting, e.g. {example}; `skipwise settings` lists them",
    )


def add_processes(parser: Command, work: str) -> None:
    """Add `--processes`. `work` says what the processes share."""
    text = f"{work} in N processes on this machine, one for each GPU (or use torchrun)"
    parser.add_argument("--processes", type=_processes, metavar="N", help=text)


def _processes(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_PROCESSES:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of processes, e.g. 8")
    return int(text)


def add_page(parser: Command) -> None:
    """Add `--html` and `--json`."""
    parser.add_argument("--html", type=Path, metavar="PAGE.html", completes="file", help="write a page with plots")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
