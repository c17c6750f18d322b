"""What keeping the short window costs: a training step with plain examples, and with the original model as a teacher.

    python benchmarks/keeping.py [--model smollm2] [--steps 3] [--pairs 2] [--length 1024] [--precision auto]

The variants take turns, each in its own process: PoSE alone; every example at plain positions; a second copy of the
weights as a teacher of every token; and the first and the last with LoRA, where the base teaches. The output is seconds
a step and peak memory, and the ratios to PoSE alone (with LoRA: to LoRA alone) in the same round.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VARIANTS = ["pose", "plain", "distill", "lora", "lora distill"]


def measure(variant: str, args: argparse.Namespace) -> dict[str, float]:
    """Seconds a step, the first one left out, and peak memory, in this process."""
    import numpy as np
    import torch
    from transformers import TrainerCallback, TrainingArguments, logging

    from skipwise.config import AdapterConfig, ModelConfig, ScalingConfig, TrainingConfig
    from skipwise.data.skipped_positions import SkippedPositions
    from skipwise.models import configuration, sources
    from skipwise.models.device import arithmetic
    from skipwise.models.load import load
    from skipwise.runs.environment import peak_memory
    from skipwise.training import adapters
    from skipwise.training.arguments import training_arguments
    from skipwise.training.teacher import Teacher
    from skipwise.training.trainer import SkippedLoss, SkippedTrainer

    logging.set_verbosity_error()
    lora, distill, chosen = "lora" in variant, "distill" in variant, ModelConfig(path=args.model)
    target = 65536
    dtype = None if lora else torch.float32
    loaded = load(chosen, target_length=target, scaling=ScalingConfig(method="yarn"), dtype=dtype)
    model, used = loaded.model, str(arithmetic(args.precision, loaded.model.device)).removeprefix("torch.")
    if lora:
        adapters.attach(model, AdapterConfig(method="lora"))
    teacher = None
    if distill:
        plain = configuration.read(sources.find(chosen)) if lora else None
        teacher = Teacher(model if lora else load(chosen).model, 0.5, plain=plain)
    text = np.random.default_rng(0).integers(100, 4000, size=100_000)
    shares: dict[str, Any] = {"plain_share": float(variant == "plain"), "mark_taught": distill, "text": "contiguous"}
    lengths = {"target_length": target, "train_length": args.length}
    examples = SkippedPositions([text], **lengths, examples=2 * args.steps, **shares)
    stamps: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is not type-checked
        def on_step_end(self, *args: object, **kwargs: object) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        config = TrainingConfig(steps=args.steps, batch_size=2, save_every=10**6, validate_every=10**6)
        arguments = TrainingArguments(**{
            **training_arguments(config, Path(folder), model.train(), used).to_dict(),
            "eval_strategy": "no", "eval_on_start": False, "save_strategy": "no",
        })  # fmt: skip
        loss = SkippedLoss(model, teacher)
        SkippedTrainer(model=loss, args=arguments, train_dataset=examples, callbacks=[Clock()]).train()
    return {"seconds": (stamps[-1] - stamps[0]) / (args.steps - 1), "memory": peak_memory()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--variant", choices=VARIANTS, help="measure one here and print JSON")
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args)))
        return
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in args.variants}
    for _ in range(args.pairs):
        for variant, results in rows.items():
            command = [
                sys.executable,
                __file__,
                "--variant",
                variant,
                "--model",
                args.model,
                "--steps",
                f"{args.steps}",
            ]
            command += ["--length", f"{args.length}", "--precision", args.precision]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{variant}: {results[-1]['seconds']:.2f} s, {results[-1]['memory'] / 1e9:.2f} GB", flush=True)
    for variant, results in rows.items():
        base = rows.get("lora" if "lora" in variant else "pose", results)
        time_ratios, memory_ratios = (
            sorted(one[key] / other[key] for one, other in zip(results, base, strict=True))
            for key in ("seconds", "memory")
        )
        middle = len(results) // 2
        print(
            f"{variant}: time ×{time_ratios[middle]:.2f} ({time_ratios[0]:.2f} to {time_ratios[-1]:.2f}), "
            f"memory ×{memory_ratios[middle]:.2f} ({memory_ratios[0]:.2f} to {memory_ratios[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
