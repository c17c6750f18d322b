"""`skipwise report`: its options and its action."""

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    parser = commands.add_parser("report", help="write one HTML page about runs, or about models that `eval` measured")
    parser.add_argument("run", nargs="+", type=Path, metavar="RUN", help="run folders, files of rows (.jsonl)")
    parser.add_argument("--out", type=Path, help="the page; report.html in the run folder (one), else here")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    from skipwise.report.build import write_report

    out = args.out or (
        args.run[0] / "report.html" if len(args.run) == 1 and not args.run[0].is_file() else Path("report.html")
    )
    print(write_report(args.run, out))
