"""`skipwise plan`: its options and its action."""

import argparse
from pathlib import Path
from typing import Any

from skipwise.cli.options import length_option, model_config
from skipwise.errors import SkipwiseError


def add(commands: Any) -> None:
    parser = commands.add_parser("plan", help="what training and evaluation will cost, before anything is loaded")
    parser.add_argument("model", metavar="MODEL", help="folder, hub id, .gguf file, config.json or packaged name")
    parser.add_argument("--target", metavar="LENGTH", required=True, help="window that the model shall have, e.g. 64k")
    parser.add_argument("--device", default="here", metavar="NAME", help="here (measured), or a100, h100, rtx4090 …")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="how many of them")
    parser.add_argument("--train-length", metavar="LENGTH", help="tokens in one example, e.g. 2k")
    parser.add_argument(
        "--batch", type=int, default=2, metavar="N", help="examples in one forward pass on a device (2)"
    )
    parser.add_argument("--examples", type=int, default=800, metavar="N", help="of the whole training (800)")
    parser.add_argument("--chunks", type=int, default=2, metavar="N", help="of PoSE, for the distances seen (2)")
    parser.add_argument("--rank", type=int, default=16, metavar="N", help="of LoRA adapters (16)")
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument(
        "--probability", type=float, default=0.95, metavar="P", help="that all distances are seen (0.95)"
    )
    parser.add_argument("--utilisation", type=float, default=0.4, metavar="SHARE", help="of a named GPU's rate (0.4)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. model.original_length=4k")
    parser.add_argument("--html", type=Path, metavar="PAGE.html", help="write a page with plots")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict, fields

    model, target = model_config(args), length_option(args.target, "--target")
    for name in ("devices", "batch", "examples", "chunks", "rank"):
        if getattr(args, name) < 1:
            raise SkipwiseError(f"--{name} {getattr(args, name)}: expected 1 or more")
    from skipwise.planning.plan import Options, plan
    from skipwise.report import plan_view as view
    from skipwise.report.render import SHEET, render
    from skipwise.utils.atomic_files import write_text

    given = {field.name: getattr(args, field.name) for field in fields(Options)}
    assert target is not None
    found = plan(model, target, Options(**given | {"train_length": length_option(args.train_length, "--train-length")}))
    if args.html:
        write_text(args.html, render(view.page(found), SHEET, "plan"))
    print(json.dumps(asdict(found), indent=2) if args.json else view.text(found))
