"""`skipwise search`: its options and its action."""

import argparse
from pathlib import Path
from typing import Any

from skipwise.cli.options import check_sections, mapping, model_path
from skipwise.cli.parsing import add_command, add_model, add_set


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "search",
        "search RoPE factors for a longer window, without training",
        examples=[
            "skipwise search bundled --target 1k --data stdlib --out factors.json --set search.population=24",
            "skipwise search smollm2 --target 32k --data BOOKS/ --set search.fitness=answers",
        ],
        sections=["search"],
    )
    add_model(parser)
    parser.add_argument("--target", metavar="LENGTH", required=True, help="window that the factors are for, e.g. 32k")
    parser.add_argument(
        "--data", nargs="+", metavar="PATH", required=True, completes="file", help="texts of at least that length"
    )
    add_set(parser, "search.fitness=answers")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("factors.json"),
        metavar="FACTORS.json",
        completes="file",
        help="file of the factors",
    )
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    from skipwise.config import ModelConfig, RunConfig, SearchConfig, parse_settings, validate

    values = parse_settings(args.set)
    check_sections(values, "search", "model")
    model = validate(ModelConfig, {**mapping(values, "model"), "path": model_path(args.model)}, "model")
    settings = validate(SearchConfig, mapping(values, "search"), "search")
    target = validate(RunConfig, {"target_length": args.target}).target_length

    from skipwise.jobs.search import search

    best = search(model, settings, target_length=target, data=args.data, out=args.out)
    for name, value in sorted(best["perplexity_of_seeds"].items(), key=lambda item: item[1]):
        print(f"{name:>14}  {value:.3f}")
    print(f"{'searched':>14}  {best['perplexity']:.3f}   perplexity, untrained, {best['candidates']} candidates")
    given = f" --set scaling.attention_factor={settings.attention_factor}" if settings.attention_factor else ""
    print(f"\nuse it with  --set scaling.method=longrope --set scaling.factors={args.out}{given}")
