"""`skipwise settings`: its options and its action."""

import argparse
import shutil
from typing import Any

from skipwise.cli.parsing import add_command, settings_text


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "settings",
        "list every setting with its type, default and help",
        examples=["skipwise settings training", "skipwise settings evaluation.trials"],
    )
    parser.add_argument("key", nargs="?", metavar="KEY", help="a setting or a section; all when absent")
    parser.add_argument("--markdown", action="store_true", help="print all as a page (docs/settings.md is this page)")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    if args.markdown:
        from skipwise.config.settings import markdown

        print(markdown(), end="")
        return
    print(settings_text(args.key or "", min(shutil.get_terminal_size().columns, 100)))
