"""The command line: parse, call, print. A user's mistake ends in one line on stderr and exit code 2."""

import contextlib
import os
import sys

from skipwise import __version__
from skipwise.cli import assets, coverage, evaluate, export, extend, inspect, plan, report, search, settings, verify
from skipwise.cli.codes import USER_ERROR
from skipwise.cli.completion import SHELLS, PrintCompletion
from skipwise.cli.parsing import Command
from skipwise.errors import SkipwiseError, is_out_of_memory
from skipwise.utils import processes
from skipwise.utils.os_errors import is_disk_full, path_error
from skipwise.utils.termination import EXIT_CODE, Terminated, terminable

COMMANDS = [extend, evaluate, inspect, search, plan, coverage, report, export, verify, assets, settings]
LONGEST_LINE = 1400
"""Characters of an error that are shown. A longer one repeats a very long value."""


def build_parser() -> Command:
    """The parser of the command line, with all commands."""
    parser = Command(
        prog="skipwise",
        description="Extend the context window of RoPE language models by training on short, skipped positions.",
        examples=["skipwise inspect smollm2", "skipwise extend --config recipes/bundled.yaml --resume"],
    )
    parser.add_argument("--version", action="version", version=f"skipwise {__version__}")
    parser.add_argument(
        "--print-completion", action=PrintCompletion, choices=SHELLS, help="print a completion script for a shell"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


def _again(command: str | None) -> str:
    """Say how an interrupted command is continued."""
    if command == "extend":
        return "; to go on, run the same command with --resume"
    return "; finished rows are kept, run the same command to go on" if command in ("eval", "search") else ""


def _explain(error: BaseException, command: str | None) -> str | None:
    """Describe in one line what a user can mend. None for a fault of ours."""
    resume = _again(command) if command == "extend" else ""
    if isinstance(error, SkipwiseError):
        return f"{error}{resume}" if is_disk_full(error) else str(error)
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{_again(command)}"
    if is_disk_full(error):
        return f"the disk is full; make room{resume}"
    if is_out_of_memory(error):
        smaller = "a smaller training.batch_size or " if command == "extend" else ""
        return f"out of memory; use {smaller}shorter lengths{resume}"
    if isinstance(error, OSError):
        if error.filename is not None:
            return str(path_error(error, os.fsdecode(error.filename), "use"))
        return f"the system or a library could not read or write: {error}"
    return None


def _quiet() -> None:
    """Keep the messages and progress bars of libraries out of ours."""
    import logging
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("DATASETS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("LOGLEVEL", "ERROR")  # lm-eval's
    if "WORLD_SIZE" in os.environ:  # a lost connection between processes is described in one line of ours
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    for name in ("datasets", "huggingface_hub", "lm_eval", "lm-eval", "urllib3", "httpx", "filelock", "fsspec"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning)


def _print_error(line: str) -> None:
    """Print what ended the command. One process of a job does it for all."""
    if processes.first():
        print(f"skipwise: {' '.join(line.split())}", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after `skipwise`; those of the process when absent.

    Returns:
        The exit code: 0, 1 for a failed check, 2 for what the user can mend, or 75 after SIGTERM.
    """
    _quiet()
    command = None
    try:
        with terminable():
            args = build_parser().parse_args(argv)
            command = args.command
            args.words = sys.argv[1:] if argv is None else argv
            args.is_process = argv is None  # nothing runs in this process after the command
            code: int = args.action(args) or 0
            sys.stdout.flush()
            return code
    except Terminated as end:
        _print_error(f"ended by SIGTERM{f' {end.state}' if end.state else ''}{_again(command)}")
        return EXIT_CODE
    except BrokenPipeError:  # the reader of our output, such as `head`, has ended
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails once more at its end
        return 0
    except (Exception, KeyboardInterrupt) as error:
        line = _explain(error, command)
        if line is None:
            raise
        line = " ".join(line.split())
        line = line if len(line) <= LONGEST_LINE else f"{line[:900]} … {line[-400:]}"
        _print_error(line)
        return USER_ERROR
