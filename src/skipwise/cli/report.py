"""`skipwise report`: its options and its action."""

import argparse
from pathlib import Path
from typing import Any

from skipwise.cli.parsing import add_command


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "report",
        "write one HTML page about runs, or about models that `eval` measured",
        examples=[
            "skipwise report runs/first",
            "skipwise report runs/first results.jsonl --out compare.html",
            "skipwise report runs/seed-0 runs/seed-1 runs/seed-2 runs/other --group --out seeds.html",
        ],
    )
    parser.add_argument(
        "run", nargs="+", type=Path, metavar="RUN", completes="file", help="run folders, files of rows (.jsonl)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="PAGE.html",
        completes="file",
        help="the page; when absent report.html in the run's folder, or here for several runs",
    )
    parser.add_argument(
        "--group",
        action="store_true",
        help="show runs that differ in nothing but training.seed as one, with its spread over the seeds",
    )
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    from skipwise.report.build import write_report

    out = args.out or (
        args.run[0] / "report.html" if len(args.run) == 1 and not args.run[0].is_file() else Path("report.html")
    )
    print(write_report(args.run, out, group=args.group))
