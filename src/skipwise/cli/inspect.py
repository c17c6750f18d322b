"""`skipwise inspect`: its options and its action."""

import argparse
from pathlib import Path
from typing import Any

from skipwise.cli.options import length_option, model_config


def add(commands: Any) -> None:
    parser = commands.add_parser("inspect", help="what a model's positions allow, before its weights are loaded")
    parser.add_argument("model", metavar="MODEL", help="folder, hub id, .gguf file, config.json or packaged name")
    parser.add_argument(
        "--target", metavar="LENGTH", help="window to look at, e.g. 64k; four times the model's when absent"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. model.original_length=4k")
    parser.add_argument("--html", type=Path, metavar="PAGE.html", help="write a page with plots")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    model, target = model_config(args), length_option(args.target, "--target")
    from skipwise.planning.inspection import inspect
    from skipwise.report import inspection_view as view
    from skipwise.report.render import SHEET, render
    from skipwise.utils.atomic_files import write_text

    facts = inspect(model, target)
    if args.html:
        write_text(args.html, render(view.page(facts), SHEET, "inspect"))
    print(json.dumps(asdict(facts), indent=2) if args.json else view.text(facts))
