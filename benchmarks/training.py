"""Compare a training step of Skipwise with a plain `transformers.Trainer`: same model, batch, dtype and optimiser.

    python benchmarks/training.py [--model smollm2] [--steps 4] [--pairs 3] [--variants plain skipwise]

The variants take turns, every other round in the reverse order. Each runs in its own process, to measure its peak
memory. The output is tokens/s and peak resident memory (or GPU memory) of each, its ratios to the plain Trainer round
by round (median and range), and the share of a step that drawing the examples takes.

Variants between the two show what each part brings: `loss` has only the loss in slices, `memory` also keeps freed
memory in the process, and `skipwise` also has fused decoder layers. `layers` recomputes whole decoder layers.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VARIANTS = ("plain", "loss", "memory", "skipwise", "layers")


def step_times(
    variant: str,
    model: Any,
    examples: Any,
    *,
    steps: int,
    batch: int,
    precision: str,
    clock: Callable[[], float] = time.perf_counter,
    **settings: Any,
) -> list[float]:
    """Train with a variant and return when the first step began and when each step ended, in seconds.

    Args:
        variant: One of VARIANTS.
        model: A causal model of transformers.
        examples: A dataset.
        steps: Steps to train.
        batch: Examples in a step.
        precision: "bfloat16" or "float32".
        clock: Tells the time in seconds.
        settings: Further settings of the training.
    """
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from skipwise.config import TrainingConfig
    from skipwise.training.arguments import training_arguments
    from skipwise.training.trainer import SkippedLoss, SkippedTrainer, light_layers
    from skipwise.utils.allocator import kept_memory

    stamps: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not type-checked
        def on_step_begin(self, *args: object, **kwargs: object) -> None:
            if not stamps:
                stamps.append(clock())

        def on_step_end(self, *args: object, **kwargs: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stamps.append(clock())

    recompute = {} if variant == "skipwise" else {"recompute_elementwise": False}
    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(steps=steps, batch_size=batch, save_every=10**6, validate_every=10**6)
        config = config.model_copy(update={**recompute, "gradient_checkpointing": variant == "layers", **settings})
        arguments = TrainingArguments(**{
            **training_arguments(config, Path(folder), model, precision).to_dict(),
            "eval_strategy": "no", "eval_on_start": False, "save_strategy": "no",
        })  # fmt: skip
        model.train()
        kind, module = (Trainer, model) if variant == "plain" else (SkippedTrainer, SkippedLoss(model))
        keeps = variant not in ("plain", "loss") and model.device.type == "cpu"
        with kept_memory() if keeps else contextlib.nullcontext(), light_layers(model, config):
            kind(model=module, args=arguments, train_dataset=examples, callbacks=[Clock()]).train()
    return stamps


def measure(variant: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds a step (the first one, which warms up, left out), peak memory and share of drawing, in this process."""
    import numpy as np
    import torch
    from transformers import logging

    from skipwise.config import ModelConfig, ScalingConfig
    from skipwise.data.skipped_positions import SkippedPositions
    from skipwise.models.device import arithmetic
    from skipwise.models.load import load
    from skipwise.runs.environment import peak_memory

    logging.set_verbosity_error()
    batch, steps = args.batch, args.steps
    clock = time.process_time if args.cpu_time else time.perf_counter
    scaling = ScalingConfig(method="yarn")
    loaded = load(ModelConfig(path=args.model), target_length=32768, scaling=scaling, dtype=torch.float32)
    model = loaded.model
    used = str(arithmetic(args.precision, model.device)).removeprefix("torch.")
    documents = [np.random.default_rng(0).integers(100, 4000, size=100_000)]
    examples = SkippedPositions(documents, target_length=32768, train_length=args.length, examples=batch * steps)
    stamps = step_times(variant, model, examples, steps=steps, batch=batch, precision=used, clock=clock)
    seconds = (stamps[-1] - stamps[1]) / (steps - 1)
    started = time.perf_counter()
    for i in range(batch * steps):
        examples[i]
    drawing = (time.perf_counter() - started) / steps
    return {"seconds": seconds, "memory": peak_memory(), "drawing": drawing / seconds, "bf16": used == "bfloat16"}


def in_process(variant: str, args: argparse.Namespace) -> dict[str, float]:
    """`measure` in a new process."""
    words = [sys.executable, __file__, "--variant", variant, "--model", args.model, "--steps", str(args.steps)]
    words += ["--precision", args.precision, "--batch", str(args.batch), "--length", str(args.length)]
    words += ["--cpu-time"] if args.cpu_time else []
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{variant}: {done.stderr[-2000:]}")
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["plain", "skipwise"])
    parser.add_argument("--cpu-time", action="store_true", help="count CPU seconds; for one thread on a busy machine")
    parser.add_argument("--variant", choices=VARIANTS, help="measure one here and print JSON")
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args)))
        return
    variants = ["plain", *(name for name in args.variants if name != "plain")]
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in variants}
    for pair in range(args.pairs):
        for name in variants if pair % 2 == 0 else variants[::-1]:
            rows[name].append(in_process(name, args))
        last = {name: results[-1] for name, results in rows.items()}
        print(f"round {pair + 1}: " + ", ".join(
            f"{name} {args.batch * args.length / row['seconds']:.0f} tok/s {row['memory'] / 1e9:.2f} GB"
            for name, row in last.items()
        ), flush=True)  # fmt: skip
    for name in variants[1:]:
        pairs = list(zip(rows[name], rows["plain"], strict=True))
        print(f"speed, {name} / plain: {spread([b['seconds'] / a['seconds'] for a, b in pairs])}")
        print(f"memory, {name} / plain: {spread([a['memory'] / b['memory'] for a, b in pairs])}")
    print(f"drawing examples: {100 * max(row['drawing'] for row in rows[variants[-1]]):.3f} % of a step")
    print(f"arithmetic: {'bf16' if rows['plain'][0]['bf16'] else 'fp32'}")


if __name__ == "__main__":
    main()
