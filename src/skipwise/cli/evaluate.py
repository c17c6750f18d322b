"""`skipwise eval`: its options and its action."""

import argparse
from pathlib import Path
from typing import Any

from skipwise.cli.options import check_sections, check_server_options, mapping, server_config
from skipwise.cli.parsing import add_command, add_model, add_processes, add_server, add_set, items
from skipwise.errors import SkipwiseError


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "eval",
        "evaluate models at several lengths, and compare them",
        examples=[
            "skipwise eval bundled --tasks passkey --lengths 256,512",
            "skipwise eval smollm2 runs/smollm2 --suite standard --data book.txt",
            "skipwise eval runs/first http://localhost:8000/v1 --tokenizer runs/first/model --tasks passkey",
            "skipwise eval smollm2 runs/smollm2 --lengths 4k,16k --data book.txt --set evaluation.trials=5",
        ],
    )
    add_model(
        parser,
        "run folder, model folder, hub id, .gguf file, packaged name or URL of a server",
        metavar="MODEL_OR_RUN",
        nargs="*",
    )
    add_server(parser)
    parser.add_argument(
        "--tasks",
        type=items,
        setting="evaluation.tasks",
        metavar="TASK,…",
        help="what to measure; `skipwise settings evaluation.tasks` lists the tasks",
    )
    parser.add_argument(
        "--lengths",
        type=items,
        metavar="LENGTH,…",
        help="e.g. 2k,4k,8k; when absent they double from a quarter of the window to the window",
    )
    parser.add_argument("--data", nargs="+", metavar="PATH", completes="file", help="documents for perplexity")
    parser.add_argument(
        "--preset",
        choices=["h2ogpt", "h2ogpt-papers"],
        help="settings of a published test: h2ogpt, its key/value lines at 5,000 and 6,000 tokens, depth 0.2; "
        "h2ogpt-papers, the titles of long papers in --data; both with dynamic scaling by 2 and 4 beside",
    )
    parser.add_argument(
        "--scaling",
        type=items,
        metavar="METHOD:FACTOR,…",
        help="measure models in process with these scalings too, untrained, e.g. dynamic:2,dynamic:4",
    )
    parser.add_argument(
        "--suite",
        choices=["quick", "standard", "thorough"],
        help="a set of tasks and numbers of prompts; `skipwise plan` says how long each takes",
    )
    parser.add_argument(
        "--config",
        type=Path,
        metavar="RECIPE.yaml",
        completes="file",
        help="recipe whose model and evaluation sections are used",
    )
    add_set(parser, "evaluation.trials=5")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results.jsonl"),
        metavar="ROWS.jsonl",
        completes="file",
        help="file that rows are appended to",
    )
    add_processes(parser, "evaluate")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> int | None:
    from skipwise.config import (
        EvaluationConfig,
        ModelConfig,
        ServerConfig,
        is_url,
        merge,
        parse_settings,
        read_yaml,
        validate,
    )
    from skipwise.config.presets import PRESETS, SCALINGS

    recipe = read_yaml(args.config) if args.config else {}
    preset = {"evaluation": PRESETS[args.preset]} if args.preset else {}
    values = merge(preset, {key: recipe[key] for key in ("model", "evaluation") if key in recipe})
    values = merge(values, parse_settings(args.set))
    check_sections(values, "evaluation", "model")
    options: dict[str, Any] = {"data": args.data} if args.data else {}
    if args.preset == "h2ogpt-papers":
        if not args.data:
            raise SkipwiseError("--preset h2ogpt-papers asks for the titles of papers; give their folder with --data")
        options = {"document_qa": {"data": args.data}}
    options |= {"suite": args.suite} if args.suite else {}
    options |= {"tasks": args.tasks} if args.tasks else {}
    options |= {"lengths": args.lengths} if args.lengths else {}
    config = validate(EvaluationConfig, merge(mapping(values, "evaluation"), options), "evaluation")
    shared = mapping(values, "model")
    models = [
        server_config(args, path) if is_url(path) else validate(ModelConfig, {**shared, "path": path}, "model")
        for path in [*args.model, *([args.server] if args.server else [])]
    ]
    check_server_options(args, any(isinstance(model, ServerConfig) for model in models))

    from skipwise.utils import processes

    if args.processes and not processes.place().launched:
        from skipwise.utils.launch import launch

        return launch(args.words, args.processes, again="run the same command")
    from skipwise.evals.tables import change_table, served_table, summary_table
    from skipwise.jobs.evaluate import evaluate

    measured = evaluate(
        models, config, args.out, scalings=args.scaling or (), usual_scalings=SCALINGS.get(args.preset, ())
    )
    if not processes.first():
        return None
    tables = [make(measured) for make in (summary_table, change_table, served_table)]
    print("\n".join(f"\n{table}" for table in tables if table))
    print(f"\nrows    {args.out}")
    return None
