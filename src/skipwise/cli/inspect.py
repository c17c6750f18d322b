"""`skipwise inspect`: its options and its action."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from skipwise.cli.options import length_option, model_config
from skipwise.cli.parsing import add_command, add_model, add_page, add_set

if TYPE_CHECKING:
    from skipwise.config import ModelConfig


def add(commands: Any) -> None:
    """Add the command and its options."""
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
    parser.add_argument("--table", action="store_true", help="add a table of every pair of rotated dimensions")
    add_page(parser)
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    """Print what a configuration tells, and write the page where one is asked for."""
    import json
    from dataclasses import asdict

    model, target = model_config(args), length_option(args.target, "--target")
    if args.is_process:
        _leave_torch_out(model)
    from skipwise.planning.inspection import inspect
    from skipwise.report import inspection_view as view

    facts = inspect(model, target)
    if args.html:
        from skipwise.report.render import SHEET, render
        from skipwise.utils.atomic_files import write_text

        write_text(args.html, render(view.page(facts), SHEET, "inspect"))
    print(json.dumps(asdict(facts), indent=2) if args.json else view.text(facts, table=args.table))


def _leave_torch_out(model: "ModelConfig") -> None:
    """Keep transformers from importing torch, where config.json alone is read.

    transformers reads configurations without torch, and imports it whenever it is there: that was two thirds of the
    time that this command takes. The process ends with the command, so nothing else misses torch.
    """
    from skipwise.models import sources

    reads_tensors = sources.find(model, weights=False).root.gguf is not None or model.trust_remote_code
    if not reads_tensors and "torch" not in sys.modules and "transformers" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment]  # "not installed", as importlib reads it
