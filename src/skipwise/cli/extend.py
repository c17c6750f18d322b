"""`skipwise extend`: its options and its action."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipwise.cli.options import mapping
from skipwise.cli.parsing import add_command, add_set
from skipwise.errors import SkipwiseError
from skipwise.utils.termination import Terminated, terminable

if TYPE_CHECKING:
    from skipwise.config import RunConfig


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "extend",
        "extend a model's window: train, evaluate before and after, report",
        examples=[
            "skipwise extend --model bundled --target 1k --data stdlib --out runs/first --set training.steps=50",
            "skipwise extend --config recipes/smollm2.yaml --resume",
        ],
    )
    parser.add_argument(
        "--model", completes="file", help="folder, hub id, .gguf file or packaged name (see `skipwise assets list`)"
    )
    parser.add_argument("--target", metavar="LENGTH", help="window that the model shall have, e.g. 32k")
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="PATH",
        completes="file",
        help="texts to train on: files, folders, datasets ids, packaged names",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="RECIPE.yaml",
        completes="file",
        help="recipe; the other options and --set replace its values",
    )
    add_set(parser, "training.steps=200")
    parser.add_argument("--out", metavar="FOLDER", completes="folder", setting="out", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out, if there is one")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    """Check what needs no model, then import what does and do the job."""
    with terminable():
        try:
            _run(args)
        except Terminated as end:
            where = f" {end.state}" if end.state else ""
            print(f"skipwise: ended by SIGTERM{where}; to go on, run the same command with --resume", file=sys.stderr)
            raise


def _run(args: argparse.Namespace) -> None:
    config = _run_config(args)
    from skipwise.runs.folder import check_folder
    from skipwise.runs.processes import refuse_several_processes

    refuse_several_processes()
    check_folder(Path(config.out), args.resume)
    from skipwise.evals import rows
    from skipwise.evals.tables import change_table, summary_table
    from skipwise.jobs.extend import extend

    folder = extend(config, resume=args.resume)
    # The page shows the stretches between lengths too; here the table stays short.
    shown = [row for row in rows.read(folder / "results.jsonl") if row.task != "perplexity_by_position"]
    print("\n".join(f"\n{table}" for table in (summary_table(shown), change_table(shown)) if table))
    print(f"\nmodel   {folder / 'model'}\nreport  {folder / 'report.html'}")


def _run_config(args: argparse.Namespace) -> "RunConfig":
    """Defaults < recipe < options < --set. With --resume and nothing else said, the run's own configuration."""
    from skipwise.config import RunConfig, merge, parse_settings, read_yaml, validate

    values: dict[str, Any] = read_yaml(args.config) if args.config else {}
    options: dict[str, Any] = {"model": {"path": args.model}} if args.model else {}
    options |= {"data": {"paths": args.data}} if args.data else {}
    options |= {"target_length": args.target} if args.target else {}
    options |= {"out": args.out} if args.out else {}
    own = Path(args.out, "config.yaml") if args.out else None
    said = args.config or args.model or args.target or args.data or args.set
    if args.resume and not said and own and own.exists():
        values = read_yaml(own)
    elif args.resume and not said:
        raise SkipwiseError("--resume: give the run's folder with --out, which must hold its config.yaml")
    values = merge(merge(values, options), parse_settings(args.set))
    if not args.config and not args.resume and "path" not in mapping(values, "model"):
        raise SkipwiseError("no model: give one with --model, e.g. --model smollm2")
    if "target_length" not in values:
        raise SkipwiseError("no target length: give one with --target, e.g. --target 32k")
    return validate(RunConfig, values)
