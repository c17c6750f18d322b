"""Compare a training step of Skipwise with a plain `transformers.Trainer`: same model, batch and optimiser.

    python benchmarks/training.py [--model smollm2] [--steps 4] [--pairs 3] [--precision auto]

The variants take turns. Each runs in its own process, to measure its peak memory. The output is tokens/s and peak
resident memory (or GPU memory) of both, their ratios pair by pair, and the share of a step that drawing the examples
takes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def step_times(variant: str, model: Any, examples: Any, *, steps: int, batch: int, precision: str) -> list[float]:
    """Return when each step ended, in seconds, of training with the trainer of Skipwise or with a plain one."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from skipwise.config import TrainingConfig
    from skipwise.training.trainer import SkippedLoss, SkippedTrainer, _arguments

    stamps: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not type-checked
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(steps=steps, batch_size=batch, save_every=10**6, validate_every=10**6)
        arguments = TrainingArguments(**{
            **_arguments(config, Path(folder), model, precision).to_dict(),
            "eval_strategy": "no", "eval_on_start": False, "save_strategy": "no",
        })  # fmt: skip
        kind, module = (SkippedTrainer, SkippedLoss(model)) if variant == "skipwise" else (Trainer, model)
        kind(model=module, args=arguments, train_dataset=examples, callbacks=[Clock()]).train()
    return stamps


def measure(variant: str, path: str, steps: int, precision: str) -> dict[str, float]:
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
    scaling = ScalingConfig(method="yarn")
    loaded = load(ModelConfig(path=path), target_length=32768, scaling=scaling, dtype=torch.float32)
    model = loaded.model.train()
    used = str(arithmetic(precision, model.device)).removeprefix("torch.")
    documents = [np.random.default_rng(0).integers(100, 4000, size=100_000)]
    examples = SkippedPositions(documents, target_length=32768, train_length=1024, examples=2 * steps)
    stamps = step_times(variant, model, examples, steps=steps, batch=2, precision=used)
    seconds = (stamps[-1] - stamps[0]) / (steps - 1)
    started = time.perf_counter()
    for i in range(2 * steps):
        examples[i]
    drawing = (time.perf_counter() - started) / steps
    return {"seconds": seconds, "memory": peak_memory(), "drawing": drawing / seconds, "bf16": used == "bfloat16"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--variant", choices=["skipwise", "plain"], help="measure one here and print JSON")
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.model, args.steps, args.precision)))
        return
    rows: dict[str, list[dict[str, float]]] = {"skipwise": [], "plain": []}
    for pair in range(args.pairs):
        for variant, results in rows.items():
            command = [sys.executable, __file__, "--variant", variant, "--model", args.model]
            command += ["--steps", str(args.steps), "--precision", args.precision]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
        last = {name: results[-1] for name, results in rows.items()}
        print(f"pair {pair + 1}: " + ", ".join(
            f"{name} {2048 / row['seconds']:.0f} tok/s {row['memory'] / 1e9:.2f} GB" for name, row in last.items()
        ), flush=True)  # fmt: skip
    speed = sorted(p["seconds"] / s["seconds"] for s, p in zip(rows["skipwise"], rows["plain"], strict=True))
    memory = sorted(s["memory"] / p["memory"] for s, p in zip(rows["skipwise"], rows["plain"], strict=True))
    middle = len(speed) // 2
    print(f"speed, skipwise / plain: {speed[middle]:.2f} ({speed[0]:.2f} to {speed[-1]:.2f})")
    print(f"memory, skipwise / plain: {memory[middle]:.2f} ({memory[0]:.2f} to {memory[-1]:.2f})")
    print(f"drawing examples: {100 * max(row['drawing'] for row in rows['skipwise']):.3f} % of a step")
    print(f"arithmetic: {'bf16' if rows['plain'][0]['bf16'] else 'fp32'}")


if __name__ == "__main__":
    main()
