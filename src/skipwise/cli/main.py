"""The command line: parse, call, print. What a user did wrong ends in one line on stderr and exit code 2."""

import argparse
import os
import sys

from skipwise import __version__
from skipwise.cli import assets, evaluate, export, extend, inspect, plan, report, search, verify
from skipwise.cli.codes import USER_ERROR
from skipwise.errors import SkipwiseError, is_out_of_memory
from skipwise.utils.os_errors import is_disk_full, path_error

COMMANDS = [extend, evaluate, inspect, search, plan, report, export, verify, assets]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipwise",
        description="Extend the context window of RoPE language models by training on short, skipped positions.",
    )
    parser.add_argument("--version", action="version", version=f"skipwise {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _explain(error: BaseException, args: argparse.Namespace) -> str | None:
    """One line for what a user can mend; None for a fault of ours."""
    again = "; to go on, run the same command with --resume" if args.command == "extend" else ""
    if isinstance(error, SkipwiseError):
        return f"{error}{again}" if is_disk_full(error) else str(error)
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{again or '; finished rows are kept, run the same command to go on'}"
    if is_disk_full(error):
        return f"the disk is full; make room{again}"
    if is_out_of_memory(error):
        smaller = "a smaller training.batch_size or " if args.command == "extend" else ""
        return f"out of memory; use {smaller}shorter lengths{again}"
    if isinstance(error, OSError) and error.filename is not None:
        return str(path_error(error, os.fsdecode(error.filename), "use"))
    return None


def _quiet() -> None:
    """The libraries' own messages and bars stay out of ours."""
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TQDM_DISABLE", "1")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code comes back: 0, 1 for a failed check, or 2 for what the user can mend."""
    args = _parser().parse_args(argv)
    _quiet()
    try:
        return args.action(args) or 0
    except BrokenPipeError:
        return 0
    except (Exception, KeyboardInterrupt) as error:
        line = _explain(error, args)
        if line is None:
            raise
        print(f"skipwise: {line}", file=sys.stderr)
        return USER_ERROR
