"""`skipwise export`: its options and its action."""

import argparse
from pathlib import Path
from typing import Any

from skipwise.cli.parsing import add_command, add_model
from skipwise.errors import SkipwiseError

# Each type under the names of both formats.
_FLOATS = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def add(commands: Any) -> None:
    parser = add_command(
        commands,
        "export",
        "write a model for other loaders: Hugging Face folder or GGUF file",
        examples=[
            "skipwise export runs/first --out exported/ --dtype float16",
            "skipwise export runs/first --format gguf --dtype q8_0 --out first.gguf",
        ],
    )
    add_model(parser, "run folder, model folder, hub id, .gguf file or packaged name", metavar="MODEL_OR_RUN")
    parser.add_argument("--format", choices=["hf", "gguf"], default="hf", help="hf (safetensors) or gguf")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="PLACE", completes="file", help="new folder; a .gguf file for gguf"
    )
    parser.add_argument(
        "--dtype", metavar="TYPE", help="float32, float16, bfloat16 or, for gguf, q8_0; as stored when absent"
    )
    parser.add_argument(
        "--shard-size", default="5GB", metavar="SIZE", help="hf: split the weights into files of this size"
    )
    parser.add_argument("--push", metavar="REPO", help="hf: also upload to this hub repository, private when new")
    parser.set_defaults(action=run)


def run(args: argparse.Namespace) -> None:
    short = _FLOATS.get(args.dtype, args.dtype)
    allowed = [*_FLOATS.values(), *(["q8_0"] if args.format == "gguf" else [])]
    if short is not None and short not in allowed:
        raise SkipwiseError(
            f"--dtype {args.dtype}: for {args.format} expected one of {', '.join([*_FLOATS, *allowed])}"
        )
    if args.push and args.format != "hf":
        raise SkipwiseError("--push uploads what --format hf writes; leave it out")
    from skipwise.export import hugging_face

    if args.format == "gguf":
        print(hugging_face.to_gguf(args.model, args.out, dtype=short))
        return
    long = next((name for name in _FLOATS if _FLOATS[name] == short), None)
    print(hugging_face.to_hf(args.model, args.out, dtype=long, shard_size=args.shard_size))
    if args.push:
        print(hugging_face.push(args.out, args.push))
