"""`skipwise extend`: its options and its action."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipwise.cli.options import mapping
from skipwise.cli.parsing import add_command, add_processes, add_set
from skipwise.errors import SkipwiseError

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
    add_processes(parser, "train and evaluate")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> int | None:
    config = _run_config(args)
    from skipwise.runs.folder import check_folder
    from skipwise.utils import processes

    here = processes.place()
    if here.rank == 0:  # before the imports below, which take seconds
        check_folder(Path(config.out), args.resume)
    if args.processes and not here.launched:
        from skipwise.utils.launch import launch

        return launch(args.words, args.processes)
    from skipwise.evals import rows
    from skipwise.evals.tables import change_table, summary_table
    from skipwise.jobs.extend import extend

    folder = extend(config, resume=args.resume)
    if not processes.first():
        return None
    # The page shows the stretches between lengths too; here the table stays short.
    shown = [row for row in rows.read(folder / "results.jsonl") if row.task != "perplexity_by_position"]
    print("\n".join(f"\n{table}" for table in (summary_table(shown), change_table(shown)) if table))
    print(f"\nmodel   {folder / 'model'}\nreport  {folder / 'report.html'}")
    return None


def _run_config(args: argparse.Namespace) -> "RunConfig":
    """Defaults < recipe < options < --set. With --resume and no recipe, the run's own configuration is the recipe."""
    from skipwise.config import RunConfig, merge, parse_settings, read_yaml, validate

    values: dict[str, Any] = read_yaml(args.config) if args.config else {}
    options: dict[str, Any] = {"model": {"path": args.model}} if args.model else {}
    options |= {"data": {"paths": args.data}} if args.data else {}
    options |= {"target_length": args.target} if args.target else {}
    options |= {"out": args.out} if args.out else {}
    written = Path(args.out, "config.yaml") if args.out else None
    if args.resume and not args.config:
        if written and written.exists():
            values = read_yaml(written)
        elif not (args.model or args.target or args.data or args.set):
            raise SkipwiseError("--resume: give the run's folder with --out, which must hold its config.yaml")
    values = merge(merge(values, options), parse_settings(args.set))
    if "target_length" not in values:
        raise SkipwiseError("no target length: give one with --target, e.g. --target 32k")
    config = validate(RunConfig, values)
    if "path" not in mapping(values, "model"):  # the default of the setting would train the packaged model
        raise SkipwiseError("no model: give one with --model, e.g. --model smollm2")
    return config
