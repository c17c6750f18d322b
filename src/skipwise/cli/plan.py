"""`skipwise plan`: its options and its action."""

import argparse
from typing import Any

from skipwise.cli.options import length_option, model_config
from skipwise.cli.parsing import add_command, add_model, add_page, add_set, count, share


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "plan",
        "estimate what training and evaluation will cost, before anything is loaded",
        examples=["skipwise plan smollm2 --target 32k", "skipwise plan MODEL/ --target 64k --device h100 --devices 8"],
    )
    add_model(parser, "folder, hub id, .gguf file, config.json or packaged name")
    parser.add_argument("--target", metavar="LENGTH", required=True, help="window that the model shall have, e.g. 64k")
    parser.add_argument("--device", default="here", metavar="NAME", help="here (measured), or a100, h100, rtx4090 …")
    parser.add_argument("--devices", type=count, default=1, metavar="N", help="devices")
    parser.add_argument(
        "--train-length", metavar="LENGTH", help="tokens in one example, e.g. 2k; when absent as training"
    )
    parser.add_argument("--batch", type=count, default=2, metavar="N", help="examples in one forward pass on a device")
    parser.add_argument("--examples", type=count, default=800, metavar="N", help="examples of the whole training")
    parser.add_argument("--chunks", type=count, default=2, metavar="N", help="chunks of PoSE, for the distances seen")
    parser.add_argument("--sampler", default="pose", metavar="NAME", help="sampler whose distances are counted too")
    parser.add_argument("--rank", type=count, default=16, metavar="N", help="rank of LoRA adapters")
    parser.add_argument("--checkpointing", action="store_true", help="count with gradient checkpointing")
    parser.add_argument("--distill", action="store_true", help="count the original model as a teacher")
    parser.add_argument(
        "--probability", type=share, default=0.95, metavar="P", help="probability that all distances are seen"
    )
    parser.add_argument(
        "--utilisation", type=share, default=0.4, metavar="SHARE", help="share of a named GPU's rate that is reached"
    )
    add_set(parser, "model.original_length=4k")
    add_page(parser)
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict, fields

    model, target = model_config(args), length_option(args.target, "--target")
    from skipwise.planning.plan import Options, plan
    from skipwise.report import plan_view as view
    from skipwise.report.render import SHEET, render
    from skipwise.utils.atomic_files import write_text

    given = {field.name: getattr(args, field.name) for field in fields(Options)}
    assert target is not None
    costs = plan(model, target, Options(**given | {"train_length": length_option(args.train_length, "--train-length")}))
    if args.html:
        write_text(args.html, render(view.page(costs), SHEET, "plan"))
    print(json.dumps(asdict(costs), indent=2) if args.json else view.text(costs))
