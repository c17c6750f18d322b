"""`skipwise search`: its options and its action."""

import argparse
from pathlib import Path
from typing import Any

from skipwise.cli.options import mapping
from skipwise.errors import SkipwiseError


def add(commands: Any) -> None:
    parser = commands.add_parser("search", help="search RoPE factors for a longer window, without training")
    parser.add_argument("model", metavar="MODEL", help="folder, hub id, .gguf file or packaged name")
    parser.add_argument("--target", required=True, help="window that the factors are for, e.g. 32k")
    parser.add_argument("--data", nargs="+", metavar="PATH", required=True, help="texts of at least that length")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. search.fitness=answers")
    parser.add_argument("--out", type=Path, default=Path("factors.json"), help="factors.json unless given")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    from skipwise.config import ModelConfig, RunConfig, SearchConfig, parse_settings, validate

    values = parse_settings(args.set)
    unknown = sorted(set(values) - {"model", "search"})
    if unknown:
        raise SkipwiseError(f"--set {unknown[0]}: expected search.KEY=VALUE or model.KEY=VALUE")
    model = validate(ModelConfig, {**mapping(values, "model"), "path": args.model}, "model")
    settings = validate(SearchConfig, mapping(values, "search"), "search")
    target = validate(RunConfig, {"target_length": args.target}).target_length

    from skipwise.jobs.search import search

    found = search(model, settings, target_length=target, data=args.data, out=args.out)
    for name, value in sorted(found["perplexity_of_seeds"].items(), key=lambda item: item[1]):
        print(f"{name:>14}  {value:.3f}")
    print(f"{'searched':>14}  {found['perplexity']:.3f}   perplexity, untrained, {found['candidates']} candidates")
    given = f" --set scaling.attention_factor={settings.attention_factor}" if settings.attention_factor else ""
    print(f"\nuse it with  --set scaling.method=longrope --set scaling.factors={args.out}{given}")
