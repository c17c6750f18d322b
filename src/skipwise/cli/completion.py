"""Completion scripts for bash, zsh and fish, made by shtab from the parser.

shtab writes a static script, so a shell completes at once and never starts Python; argcomplete would start it at every
press of the tab key.
"""

import argparse
from typing import Any

from skipwise.errors import SkipwiseError

SHELLS = ["bash", "zsh", "fish"]


class PrintCompletion(argparse.Action):
    """Print the script for one shell, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *rest: Any) -> None:
        _, shell, *_ = rest
        print(script(parser, shell))
        parser.exit()


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The completion script of a parser with commands.

    Raises:
        SkipwiseError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise SkipwiseError("--print-completion needs shtab: pip install shtab") from error
    from skipwise.config.settings import settings

    keys = " ".join(f"{setting.key}=" for setting in settings())
    offers = {
        "file": shtab.FILE,
        "folder": shtab.DIRECTORY,
        "settings": {
            "bash": "_skipwise_settings",
            "zsh": f"({keys})",
            "fish": f"(string split ' ' '{keys}')",
            "preamble": {"bash": f'_skipwise_settings() {{\n  compgen -W "{keys}" -- "$1"\n}}'},
        },
    }
    waiting = [parser]
    while waiting:
        for action in waiting.pop()._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += action.choices.values()
            elif getattr(action, "completes", ""):
                action.complete = offers[action.completes]  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))
