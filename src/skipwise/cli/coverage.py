"""`skipwise coverage`: its options and its action."""

import argparse
from typing import Any

from skipwise.cli.options import length_option
from skipwise.cli.parsing import add_command, add_page, count, items, share


def add(commands: Any) -> None:
    """Add the command and its options."""
    parser = add_command(
        commands,
        "coverage",
        "show how soon samplers of positions show every distance of the target",
        examples=[
            "skipwise coverage --sampler pose,stratified --chunks 2,3 --target 4k --train-length 256",
            "skipwise coverage --sampler pose,cream,endprompt --target 128k --html coverage.html",
        ],
    )
    parser.add_argument(
        "--sampler",
        type=items,
        default="pose,stratified",
        metavar="NAMES",
        help="samplers, with commas; docs/positions.md has them",
    )
    parser.add_argument(
        "--chunks", type=items, default="2", metavar="NUMBERS", help="chunks of pose and stratified, e.g. 2,3"
    )
    parser.add_argument("--target", metavar="LENGTH", required=True, help="window that the model shall have, e.g. 64k")
    parser.add_argument("--train-length", metavar="LENGTH", default="2k", help="tokens in one example")
    parser.add_argument(
        "--examples", type=count, default=1000, metavar="N", help="examples whose rarest distance is counted"
    )
    parser.add_argument(
        "--probability", type=share, default=0.95, metavar="P", help="probability that all distances are seen"
    )
    parser.add_argument("--base", default="pose", metavar="NAME", help="sampler under curriculum")
    parser.add_argument(
        "--growth", type=count, default=400, metavar="N", help="examples over which curriculum's target grows"
    )
    add_page(parser)
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    """Summarise each sampler and print the table; write the page if asked to."""
    import json

    from skipwise.errors import SkipwiseError
    from skipwise.positions.coverage_summary import summary
    from skipwise.positions.sampler import Sampler

    target, length = length_option(args.target, "--target"), length_option(args.train_length, "--train-length")
    assert target is not None
    assert length is not None
    if args.probability == 1:
        raise SkipwiseError("--probability 1: no number of examples makes it certain; give one below 1, e.g. 0.95")
    samplers: list[Sampler] = []
    for name in args.sampler:
        for text in args.chunks:
            if not text.isdecimal():
                raise SkipwiseError(f"--chunks {text!r}: expected whole numbers with commas, e.g. 2,3")
            sampler = Sampler(name, length, target, chunks=int(text), base=args.base, growth=args.growth)
            if all(sampler.describe_positions() != other.describe_positions() for other in samplers):
                samplers.append(sampler)

    from skipwise.report import coverage_view as view
    from skipwise.report.render import SHEET, render
    from skipwise.utils.atomic_files import write_text

    rows = [summary(sampler, examples=args.examples, probability=args.probability) for sampler in samplers]
    if args.html:
        write_text(args.html, render(view.page(rows, args.probability), SHEET, "coverage"))
    if args.json:
        print(json.dumps([view.plain(row) for row in rows], indent=2))
    else:
        print(view.text(rows, args.probability))
