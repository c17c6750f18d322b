"""The command line: parses, calls, prints. What a user did wrong ends in one line on stderr and exit code 2."""

import argparse
import errno
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skipwise import __version__
from skipwise.errors import SkipwiseError, is_out_of_memory

if TYPE_CHECKING:
    from skipwise.config import ModelConfig, RunConfig

CHECK_FAILED = 1
USER_ERROR = 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="skipwise",
        description="Extend the context window of RoPE language models by training on short, skipped positions.",
    )
    parser.add_argument("--version", action="version", version=f"skipwise {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    extend = commands.add_parser("extend", help="extend a model's window: train, evaluate before and after, report")
    extend.add_argument("--model", help="folder, hub id, .gguf file or packaged name (see `skipwise assets list`)")
    extend.add_argument("--target", help="window that the model shall have, e.g. 32k")
    extend.add_argument("--data", nargs="+", metavar="PATH", help="text files, folders, datasets ids, packaged names")
    extend.add_argument("--config", type=Path, metavar="RECIPE.yaml", help="configuration that the options are laid on")
    extend.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. training.steps=200")
    extend.add_argument("--out", metavar="FOLDER", help="folder of the run")
    extend.add_argument("--resume", action="store_true", help="go on with the run in --out, if there is one")
    extend.set_defaults(action=_extend)

    evaluate = commands.add_parser("eval", help="evaluate models at several lengths")
    evaluate.add_argument("model", nargs="+", metavar="MODEL", help="folder, hub id, .gguf file or packaged name")
    evaluate.add_argument("--tasks", help="e.g. perplexity,passkey,k_max,key_value,needle,ruler (docs/evaluation.md)")
    evaluate.add_argument("--lengths", help="e.g. 2k,4k,8k; from a quarter of the window to the window when absent")
    evaluate.add_argument("--data", nargs="+", metavar="PATH", help="documents for perplexity")
    evaluate.add_argument(
        "--config", type=Path, metavar="RECIPE.yaml", help="its model and evaluation sections are used"
    )
    evaluate.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. evaluation.trials=5")
    evaluate.add_argument("--out", type=Path, default=Path("results.jsonl"), help="rows are appended (results.jsonl)")
    evaluate.set_defaults(action=_eval)

    look = commands.add_parser("inspect", help="what a model's positions allow, before its weights are loaded")
    look.add_argument("model", metavar="MODEL", help="folder, hub id, .gguf file, config.json or packaged name")
    look.add_argument(
        "--target", metavar="LENGTH", help="window to look at, e.g. 64k; four times the model's when absent"
    )
    look.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. model.original_length=4k")
    look.add_argument("--html", type=Path, metavar="PAGE.html", help="write a page with plots")
    look.add_argument("--json", action="store_true", help="print JSON instead of text")
    look.set_defaults(action=_inspect)

    search = commands.add_parser("search", help="search RoPE factors for a longer window, without training")
    search.add_argument("model", metavar="MODEL", help="folder, hub id, .gguf file or packaged name")
    search.add_argument("--target", required=True, help="window that the factors are for, e.g. 32k")
    search.add_argument("--data", nargs="+", metavar="PATH", required=True, help="texts of at least that length")
    search.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. search.fitness=answers")
    search.add_argument("--out", type=Path, default=Path("factors.json"), help="factors.json unless given")
    search.set_defaults(action=_search)

    ahead = commands.add_parser("plan", help="what training and evaluation will cost, before anything is loaded")
    ahead.add_argument("model", metavar="MODEL", help="folder, hub id, .gguf file, config.json or packaged name")
    ahead.add_argument("--target", metavar="LENGTH", required=True, help="window that the model shall have, e.g. 64k")
    ahead.add_argument("--device", default="here", metavar="NAME", help="here (measured), or a100, h100, rtx4090 …")
    ahead.add_argument("--devices", type=int, default=1, metavar="N", help="how many of them")
    ahead.add_argument("--train-length", metavar="LENGTH", help="tokens in one example, e.g. 2k")
    ahead.add_argument("--batch", type=int, default=2, metavar="N", help="examples in one forward pass on a device (2)")
    ahead.add_argument("--examples", type=int, default=800, metavar="N", help="of the whole training (800)")
    ahead.add_argument("--chunks", type=int, default=2, metavar="N", help="of PoSE, for the distances seen (2)")
    ahead.add_argument("--rank", type=int, default=16, metavar="N", help="of LoRA adapters (16)")
    ahead.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    ahead.add_argument(
        "--probability", type=float, default=0.95, metavar="P", help="that all distances are seen (0.95)"
    )
    ahead.add_argument("--utilisation", type=float, default=0.4, metavar="SHARE", help="of a named GPU's rate (0.4)")
    ahead.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. model.original_length=4k")
    ahead.add_argument("--html", type=Path, metavar="PAGE.html", help="write a page with plots")
    ahead.add_argument("--json", action="store_true", help="print JSON instead of text")
    ahead.set_defaults(action=_plan)

    report = commands.add_parser("report", help="write one HTML page about runs, or about models that `eval` measured")
    report.add_argument("run", nargs="+", type=Path, metavar="RUN", help="run folders, files of rows (.jsonl)")
    report.add_argument("--out", type=Path, help="the page; report.html in the run folder (one), else here")
    report.set_defaults(action=_report)

    export = commands.add_parser("export", help="write a model for other loaders: Hugging Face folder or GGUF file")
    export.add_argument("model", metavar="MODEL_OR_RUN", help="run folder, model folder, hub id, .gguf file or name")
    export.add_argument("--format", choices=["hf", "gguf"], default="hf", help="hf (safetensors) unless given")
    export.add_argument("--out", type=Path, required=True, help="new folder; for gguf also a file name in .gguf")
    export.add_argument("--dtype", help="float32, float16, bfloat16 or, for gguf, q8_0; as stored when absent")
    export.add_argument("--shard-size", default="5GB", help="hf: split the weights into files of this size (5GB)")
    export.add_argument("--push", metavar="REPO", help="hf: also upload to this hub repository, private when new")
    export.set_defaults(action=_export)

    verify = commands.add_parser("verify", help="check an export with plain transformers in a clean process")
    verify.add_argument("model", metavar="MODEL_OR_RUN", help="model folder or run folder")
    verify.add_argument("--against", metavar="MODEL_OR_RUN", help="whose logits it must have; its run's when absent")
    verify.add_argument("--length", help="tokens of the passkey prompts; the window when absent")
    verify.add_argument("--json", action="store_true", help="print the checks as JSON")
    verify.set_defaults(action=_verify)

    assets = commands.add_parser("assets", help="models and texts that public packages carry")
    what = assets.add_subparsers(dest="what", required=True, metavar="list|get")
    what.add_parser("list", help="what there is")
    get = what.add_parser("get", help="fetch one and print where it is")
    get.add_argument("name", metavar="NAME")
    assets.set_defaults(action=_assets)
    return parser


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


def _extend(args: argparse.Namespace) -> None:
    config = _run_config(args)
    from skipwise import runs
    from skipwise.evals.tables import change_table, summary_table
    from skipwise.files import read_jsonl

    folder = runs.extend(config, resume=args.resume)
    # The page shows the stretches between lengths too; here the table stays short.
    rows = [row for row in read_jsonl(folder / "results.jsonl") if row["task"] != "perplexity_by_position"]
    print("\n".join(f"\n{table}" for table in (summary_table(rows), change_table(rows)) if table))
    print(f"\nmodel   {folder / 'model'}\nreport  {folder / 'report.html'}")


def _eval(args: argparse.Namespace) -> None:
    from skipwise.config import EvaluationConfig, ModelConfig, merge, parse_settings, read_yaml, validate

    recipe = read_yaml(args.config) if args.config else {}
    values = merge({key: recipe[key] for key in ("model", "evaluation") if key in recipe}, parse_settings(args.set))
    unknown = sorted(set(values) - {"model", "evaluation"})
    if unknown:
        raise SkipwiseError(f"--set {unknown[0]}: expected evaluation.KEY=VALUE or model.KEY=VALUE")
    options: dict[str, Any] = {"data": args.data} if args.data else {}
    options |= {"tasks": args.tasks.split(",")} if args.tasks else {}
    options |= {"lengths": args.lengths.split(",")} if args.lengths else {}
    config = validate(EvaluationConfig, merge(_section(values, "evaluation"), options), "evaluation")
    models = [validate(ModelConfig, {**_section(values, "model"), "path": path}, "model") for path in args.model]
    if "perplexity" in config.tasks and not config.data:
        raise SkipwiseError("perplexity needs documents: give them with --data, or choose --tasks passkey")

    from skipwise import rope, source
    from skipwise.evals import run
    from skipwise.evals.tables import change_table, summary_table
    from skipwise.files import read_jsonl
    from skipwise.model import load

    read_jsonl(args.out)  # what is no file of rows is told before anything is loaded
    lengths = list(config.lengths or [])
    if not lengths:  # the same for all models, so that they can be compared
        windows = [rope.window(source.configuration(source.find(model))) for model in models]
        lengths = run.default_lengths(min(windows), max(windows))
    rows = []
    for model in models:
        loaded = load(model)
        limit, needed = config.documents, max(lengths)
        chosen = "perplexity" in config.tasks
        found = run.load_documents(config.data, loaded.tokenizer, minimum=needed, limit=limit) if chosen else []
        label = loaded.name if sum(Path(m.path).name == loaded.name for m in models) < 2 else model.path
        rows += run.evaluate(loaded, config, found, label=label, out=args.out, lengths=lengths)
        del loaded
    print("\n".join(f"\n{table}" for table in (summary_table(rows), change_table(rows)) if table))
    print(f"\nrows    {args.out}")


def _section(values: dict[str, Any], name: str) -> dict[str, Any]:
    """One section of a configuration, empty when absent. Errors: SkipwiseError for anything but a mapping."""
    found = values.get(name)
    if found is not None and not isinstance(found, dict):
        raise SkipwiseError(f"{name} = {found!r}: expected a mapping; on the command line --set {name}.KEY=VALUE")
    return found or {}


def _length(text: str | None, option: str) -> int | None:
    """`64k` → 65536. Errors: SkipwiseError for what is no length."""
    from skipwise.config import parse_length

    value = None if text is None else parse_length(text)
    if isinstance(value, int) and value > 0:
        return value
    if text is None:
        return None
    raise SkipwiseError(f"{option} {text}: expected a number of tokens such as 32k or 32768")


def _model_config(args: argparse.Namespace) -> "ModelConfig":
    """MODEL with the `--set model.KEY=VALUE` of a command that reads a configuration alone."""
    from skipwise.config import ModelConfig, parse_settings, validate

    values = parse_settings(args.set)
    if unknown := sorted(set(values) - {"model"}):
        raise SkipwiseError(f"--set {unknown[0]}: expected model.KEY=VALUE")
    return validate(ModelConfig, {**_section(values, "model"), "path": args.model}, "model")


def _inspect(args: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    model, target = _model_config(args), _length(args.target, "--target")
    from skipwise.files import write_text
    from skipwise.inspection import inspect
    from skipwise.page import inspection as shown
    from skipwise.page.render import SHEET, render

    facts = inspect(model, target)
    if args.html:
        write_text(args.html, render(shown.page(facts), SHEET, "inspect"))
    print(json.dumps(asdict(facts), indent=2) if args.json else shown.text(facts))


def _search(args: argparse.Namespace) -> None:
    from skipwise.config import ModelConfig, RunConfig, SearchConfig, parse_settings, validate

    values = parse_settings(args.set)
    unknown = sorted(set(values) - {"model", "search"})
    if unknown:
        raise SkipwiseError(f"--set {unknown[0]}: expected search.KEY=VALUE or model.KEY=VALUE")
    model = validate(ModelConfig, {**_section(values, "model"), "path": args.model}, "model")
    settings = validate(SearchConfig, _section(values, "search"), "search")
    target = validate(RunConfig, {"target_length": args.target}).target_length

    from skipwise.search import search

    found = search(model, settings, target_length=target, data=args.data, out=args.out)
    for name, value in sorted(found["perplexity_of_seeds"].items(), key=lambda item: item[1]):
        print(f"{name:>14}  {value:.3f}")
    print(f"{'searched':>14}  {found['perplexity']:.3f}   perplexity, untrained, {found['candidates']} candidates")
    given = f" --set scaling.attention_factor={settings.attention_factor}" if settings.attention_factor else ""
    print(f"\nuse it with  --set scaling.method=longrope --set scaling.factors={args.out}{given}")


def _plan(args: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict, fields

    model, target = _model_config(args), _length(args.target, "--target")
    for name in ("devices", "batch", "examples", "chunks", "rank"):
        if getattr(args, name) < 1:
            raise SkipwiseError(f"--{name} {getattr(args, name)}: expected 1 or more")
    from skipwise.files import write_text
    from skipwise.page import plan as shown
    from skipwise.page.render import SHEET, render
    from skipwise.plan import Options, plan

    given = {field.name: getattr(args, field.name) for field in fields(Options)}
    assert target is not None
    found = plan(model, target, Options(**given | {"train_length": _length(args.train_length, "--train-length")}))
    if args.html:
        write_text(args.html, render(shown.page(found), SHEET, "plan"))
    print(json.dumps(asdict(found), indent=2) if args.json else shown.text(found))


def _report(args: argparse.Namespace) -> None:
    from skipwise.report import write_report

    out = args.out or (
        args.run[0] / "report.html" if len(args.run) == 1 and not args.run[0].is_file() else Path("report.html")
    )
    print(write_report(args.run, out))


# Each type under the names of both formats.
_FLOATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def _export(args: argparse.Namespace) -> None:
    short = _FLOATS.get(args.dtype, args.dtype)
    allowed = [*_FLOATS.values(), *(["q8_0"] if args.format == "gguf" else [])]
    if short is not None and short not in allowed:
        raise SkipwiseError(
            f"--dtype {args.dtype}: for {args.format} expected one of {', '.join([*_FLOATS, *allowed])}"
        )
    if args.push and args.format != "hf":
        raise SkipwiseError("--push uploads what --format hf writes; leave it out")
    from skipwise import export

    if args.format == "gguf":
        print(export.to_gguf(args.model, args.out, dtype=short))
        return
    long = next((name for name in _FLOATS if _FLOATS[name] == short), None)
    print(export.to_hf(args.model, args.out, dtype=long, shard_size=args.shard_size))
    if args.push:
        print(export.push(args.out, args.push))


def _verify(args: argparse.Namespace) -> int:
    import json

    from skipwise import verify
    from skipwise.config import parse_length

    length = parse_length(args.length) if args.length else None
    if length is not None and not (isinstance(length, int) and length > 0):
        raise SkipwiseError(f"--length {args.length}: expected tokens, e.g. 8k")
    checks = verify.verify(args.model, against=args.against, length=length)
    print(json.dumps([check._asdict() for check in checks], indent=2) if args.json else verify.table(checks))
    return CHECK_FAILED if any(check.state == "failed" for check in checks) else 0


def _assets(args: argparse.Namespace) -> None:
    from skipwise import assets

    if args.what == "get":
        print(assets.get(args.name))
        return
    for asset in assets.describe():
        print("  ".join(str(part) for part in asset))


def _explain(error: BaseException, args: argparse.Namespace) -> str | None:
    """One line for what a user can mend; None for a fault of ours."""
    again = "; to go on, run the same command with --resume" if args.command == "extend" else ""
    if isinstance(error, SkipwiseError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{again or '; finished rows are kept, run the same command to go on'}"
    text = " ".join(str(error).split())
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(
        sign in text for sign in ("No space left", "os error 28", "File too large", "PytorchStreamWriter failed")
    ):
        return f"the disk is full; make room{again}"
    if is_out_of_memory(error):
        smaller = "a smaller training.batch_size or " if args.command == "extend" else ""
        return f"out of memory; use {smaller}shorter lengths{again}"
    if isinstance(error, PermissionError | IsADirectoryError | NotADirectoryError | FileExistsError):
        return f"cannot use {error.filename}: {error.strerror}"
    return None


def _quiet() -> None:
    """The libraries' own messages and bars stay out of ours."""
    import os
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


if __name__ == "__main__":
    sys.exit(main())
