"""`skipwise extend`: its options and its action."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipwise.errors import SkipwiseError

if TYPE_CHECKING:
    from skipwise.config import RunConfig


def add(commands: Any) -> None:
    parser = commands.add_parser("extend", help="extend a model's window: train, evaluate before and after, report")
    parser.add_argument("--model", help="folder, hub id, .gguf file or packaged name (see `skipwise assets list`)")
    parser.add_argument("--target", help="window that the model shall have, e.g. 32k")
    parser.add_argument("--data", nargs="+", metavar="PATH", help="text files, folders, datasets ids, packaged names")
    parser.add_argument("--config", type=Path, metavar="RECIPE.yaml", help="configuration that the options are laid on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. training.steps=200")
    parser.add_argument("--out", metavar="FOLDER", help="folder of the run")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    config = _run_config(args)
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
    if "target_length" not in values:
        raise SkipwiseError("no target length: give one with --target, e.g. --target 32k")
    return validate(RunConfig, values)
