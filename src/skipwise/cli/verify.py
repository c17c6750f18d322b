"""`skipwise verify`: its options and its action."""

import argparse
from typing import Any

from skipwise.cli.codes import CHECK_FAILED
from skipwise.cli.options import length_option
from skipwise.cli.parsing import add_command, add_model


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "verify",
        "check an export with plain transformers in a clean process",
        examples=["skipwise verify runs/first", "skipwise verify exported/ --against runs/first --length 8k"],
    )
    add_model(parser, "model folder or run folder", metavar="MODEL_OR_RUN")
    parser.add_argument(
        "--against",
        metavar="MODEL_OR_RUN",
        completes="file",
        help="model whose logits it must have; that of its run when absent",
    )
    parser.add_argument("--length", metavar="LENGTH", help="tokens of the passkey prompts; the window when absent")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> int:
    import json

    from skipwise.export import verify

    length = length_option(args.length, "--length")
    checks = verify.verify(args.model, against=args.against, length=length)
    print(json.dumps([check._asdict() for check in checks], indent=2) if args.json else verify.table(checks))
    return CHECK_FAILED if any(check.state == "failed" for check in checks) else 0
