"""`skipwise verify`: its options and its action."""

import argparse
from typing import Any

from skipwise.cli.codes import CHECK_FAILED
from skipwise.errors import SkipwiseError


def add(commands: Any) -> None:
    parser = commands.add_parser("verify", help="check an export with plain transformers in a clean process")
    parser.add_argument("model", metavar="MODEL_OR_RUN", help="model folder or run folder")
    parser.add_argument("--against", metavar="MODEL_OR_RUN", help="whose logits it must have; its run's when absent")
    parser.add_argument("--length", help="tokens of the passkey prompts; the window when absent")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> int:
    import json

    from skipwise.config import parse_length
    from skipwise.export import verify

    length = parse_length(args.length) if args.length else None
    if length is not None and not (isinstance(length, int) and length > 0):
        raise SkipwiseError(f"--length {args.length}: expected tokens, e.g. 8k")
    checks = verify.verify(args.model, against=args.against, length=length)
    print(json.dumps([check._asdict() for check in checks], indent=2) if args.json else verify.table(checks))
    return CHECK_FAILED if any(check.state == "failed" for check in checks) else 0
