"""`skipwise verify`: its options and its action."""

import argparse
from typing import Any

from skipwise.cli.codes import CHECK_FAILED
from skipwise.cli.options import check_server_options, length_option, server_config
from skipwise.cli.parsing import add_command, add_model, add_server
from skipwise.errors import SkipwiseError


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "verify",
        "check an export with plain transformers in a clean process, or a server",
        examples=[
            "skipwise verify runs/first",
            "skipwise verify exported/ --against runs/first --length 8k",
            "skipwise verify --server http://localhost:8000/v1 --tokenizer exported/",
        ],
    )
    add_model(parser, "model folder or run folder", metavar="MODEL_OR_RUN", nargs="?")
    add_server(parser)
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

    if (args.model is None) == (args.server is None):
        raise SkipwiseError("expected a model folder or a run, or --server URL; skipwise verify --help shows both")
    length = length_option(args.length, "--length")
    check_server_options(args, args.server is not None)
    if args.server is None:
        checks = verify.verify(args.model, against=args.against, length=length)
    else:
        from skipwise.export.verify_server import verify_server

        if args.against is not None or length is not None:
            raise SkipwiseError("--against and --length are for a folder; leave them out with --server")
        checks = verify_server(server_config(args, args.server))
    print(json.dumps([check._asdict() for check in checks], indent=2) if args.json else verify.table(checks))
    return CHECK_FAILED if any(check.state == "failed" for check in checks) else 0
