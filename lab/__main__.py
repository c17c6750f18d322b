"""Reproduce the tables of the papers.

python -m lab list
python -m lab reproduce table1 figure5
python -m lab reproduce all --quick
"""

import argparse
import importlib
import pkgutil
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import torch
import transformers

import skipwise
from lab import recipe, recipe_space, reproductions, tables
from lab.bench import QUICK_FACTOR, Bench
from skipwise.errors import SkipwiseError
from skipwise.runs.environment import checkout
from skipwise.utils.os_errors import writing

HERE = Path(__file__).parent


def names() -> list[str]:
    """All reproductions."""
    return sorted(module.name for module in pkgutil.iter_modules(reproductions.__path__))


def reproduction(name: str) -> ModuleType:
    """The module of one. It has TITLE, SOURCE and `run(bench) -> Result`.

    Raises:
        SkipwiseError: for a name that there is not.
    """
    if name not in names():
        raise SkipwiseError(f"no reproduction is called {name!r}; there are {', '.join(names())}, or all")
    return importlib.import_module(f"{reproductions.__name__}.{name}")


def reproduce(name: str, bench: Bench, out: Path) -> None:
    """Run one, print it and write it to `out`."""
    module, started = reproduction(name), time.monotonic()
    print(f"\n{name}: {module.TITLE} ({module.SOURCE})", flush=True)
    result = module.run(bench)
    facts = {
        **bench.facts(),
        "seconds of the command, models that were there not counted": round(time.monotonic() - started),
        **checkout(),
        "skipwise": skipwise.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }
    result = replace(result, facts={**facts, **result.facts})
    print(tables.text(result), flush=True)
    if tables.write(out, name, module.TITLE, module.SOURCE, result):
        print(f"\nwritten to {out / name}.json and {out / 'index.html'}")
    else:
        print(f"not written: {out / name}.json holds a full result, which a quick one does not replace")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m lab", description=__doc__.split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="list the reproductions")
    command = commands.add_parser("page", help="write index.html anew from the results")
    command.add_argument("--out", type=Path, help="folder of results (lab/results)")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--quick", action="store_true", help="few steps and prompts, one seed: shows that it runs")
    shared.add_argument("--out", type=Path, help="folder of results (lab/results)")
    shared.add_argument("--runs", type=Path, help="folder of trained models; lab/runs/full or lab/runs/quick")
    command = commands.add_parser("reproduce", parents=[shared], help="reproduce tables and write them to lab/results")
    command.add_argument("names", nargs="+", metavar="NAME", help="reproductions, or all")
    command.add_argument("--seeds", type=int, default=3, help="seeds of each trained model (3)")
    command = commands.add_parser("recipe", parents=[shared], help="search settings by successive halving")
    command.add_argument("--candidates", type=int, default=30, help="drawn settings in the first rung (30)")
    command.add_argument("--rungs", help=f"steps of each rung ({','.join(map(str, recipe.RUNGS))})")
    command.add_argument("--factor", type=int, help=f"windows in the target ({recipe_space.FACTOR})")
    command.add_argument("--seeds", default="1", help="seeds of each candidate: one number, or one for each rung (1)")
    return top


def prepared(args: argparse.Namespace, seeds: int) -> tuple[Bench, Path]:
    """The bench and the folder of results. Raises SkipwiseError for a folder that cannot be used."""
    runs = args.runs or HERE / "runs" / ("quick" if args.quick else "full")
    out = args.out or HERE / "results"
    for folder in (runs, out):
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
    tables.read(out)  # refuse a folder of other files before the first runs
    return Bench(runs, quick=args.quick, seeds=seeds), out


def search(args: argparse.Namespace) -> None:
    """Search for a recipe. Raises SkipwiseError for a mistake in the command line."""
    steps = (
        recipe.numbers(args.rungs, "--rungs") if args.rungs is not None else recipe.RUNGS[: 2 if args.quick else None]
    )
    usual = QUICK_FACTOR if args.quick else recipe_space.FACTOR
    factor = usual if args.factor is None else args.factor
    plan = recipe.rungs(steps, recipe.numbers(args.seeds, "--seeds"), factor, quick=args.quick)
    recipe_space.candidates(args.candidates, 0, factor)  # refuse a wrong number before folders are made
    bench, out = prepared(args, 1)
    print(recipe.search(bench, out, plan, count=args.candidates))


def run(args: argparse.Namespace) -> None:
    """Do what the command line says. Raises SkipwiseError for a mistake in it."""
    if args.command == "page":
        print(tables.write_page(args.out or HERE / "results"))
        return
    if args.command == "list":
        for name in names():
            print(f"{name:18} {reproduction(name).TITLE} ({reproduction(name).SOURCE})")
        return
    if args.command == "recipe":
        search(args)
        return
    if args.seeds < 1:
        raise SkipwiseError(f"--seeds {args.seeds}: expected 1 or more")
    chosen = names() if args.names == ["all"] else args.names
    for name in chosen:
        reproduction(name)  # refuse an unknown one before the first runs
    bench, out = prepared(args, args.seeds)
    failed = []
    for name in chosen:
        try:
            reproduce(name, bench, out)
        except SkipwiseError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            failed.append(name)
    if failed:
        raise SkipwiseError(f"{', '.join(failed)} failed; the others are done. Mend the cause and run the same command")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. Returns the exit code: 2 for a mistake of the user."""
    try:
        run(parser().parse_args(arguments))
    except SkipwiseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
