"""`skipwise inspect`: its options and its action."""

import argparse
from typing import Any

from skipwise.cli.options import length_option, model_config
from skipwise.cli.parsing import add_command, add_model, add_page, add_set


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "inspect",
        "show what a model's positions allow, before its weights are loaded",
        examples=["skipwise inspect smollm2", "skipwise inspect MODEL/config.json --target 64k --html inspect.html"],
    )
    add_model(parser, "folder, hub id, .gguf file, config.json or packaged name")
    parser.add_argument(
        "--target", metavar="LENGTH", help="window to look at, e.g. 64k; four times the model's when absent"
    )
    add_set(parser, "model.original_length=4k")
    add_page(parser)
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
