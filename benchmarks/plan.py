"""Compare what `skipwise plan` predicts for this machine with measurements, back to back.

    python benchmarks/plan.py [--model bundled smollm2] [--rounds 3] [--steps 4]

Each round predicts, trains a few steps with all weights and with adapters (LoRA), and reads one text. Each part runs
in its own process, to measure its peak memory. The output is predicted / measured for time and memory: the median and
the spread of the rounds. Run it on an idle machine, because the two sides of a ratio are measured one after the other.
"""

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time

from training import step_times

# Name: (examples in a step, tokens of one, tokens of the text that is read)
CASES = {"bundled": (8, 256, 4096), "smollm2": (2, 1024, 4096)}


def predict(path: str, batch: int, length: int, text: int) -> dict[str, float]:
    from skipwise.config import ModelConfig
    from skipwise.models import configuration, sources
    from skipwise.planning import operations_and_bytes, plan

    model = ModelConfig(path=path)
    config = configuration.read(sources.find(model, weights=False))
    options = plan.Options(batch=batch)
    started = time.perf_counter()
    device = plan.device_for(config, model, options, length)
    seconds = time.perf_counter() - started
    estimate = plan.Estimate(config, operations_and_bytes.work(config), device, options)
    step, lora = (estimate.training("", batch, length, rank=rank) for rank in (0, options.rank))
    read = estimate.evaluation(text)[0]
    return {
        "train_seconds": step.step_seconds,
        "train_memory": step.memory,
        "lora_seconds": lora.step_seconds,
        "lora_memory": lora.memory,
        "read_seconds": read.step_seconds,
        "read_memory": read.memory,
        "measuring": seconds,
    }


def train(path: str, batch: int, length: int, steps: int, *, adapted: bool = False) -> dict[str, float]:
    """Seconds of a step (the first one, which warms up, left out) and the peak of this process."""
    import numpy as np
    import torch

    from skipwise.config import AdapterConfig, ModelConfig, ScalingConfig
    from skipwise.data.skipped_positions import SkippedPositions
    from skipwise.models.device import arithmetic
    from skipwise.models.load import load
    from skipwise.runs.environment import peak_memory
    from skipwise.training import adapters

    target, scaling = 32768, ScalingConfig(method="yarn")
    stored = None if adapted else torch.float32
    model = load(ModelConfig(path=path), target_length=target, scaling=scaling, dtype=stored).model.train()
    if adapted:
        adapters.attach(model, AdapterConfig(method="lora"))
    precision = str(arithmetic("auto", model.device)).removeprefix("torch.")
    documents = [np.random.default_rng(0).integers(100, 4000, size=100_000)]
    examples = SkippedPositions(documents, target_length=target, train_length=length, examples=batch * steps)
    stamps = step_times("skipwise", model, examples, steps=steps, batch=batch, precision=precision)
    between = [after - before for before, after in itertools.pairwise(stamps[1:])]
    name = "lora" if adapted else "train"
    return {f"{name}_seconds": statistics.median(between), f"{name}_memory": peak_memory()}


def read(path: str, text: int) -> dict[str, float]:
    import torch

    import skipwise.training.trainer  # noqa: F401  as the process of a run has it
    from skipwise.config import ModelConfig
    from skipwise.models.forward import token_nll
    from skipwise.models.load import load
    from skipwise.runs.environment import peak_memory

    model = load(ModelConfig(path=path)).model
    seconds = []
    for _ in range(3):
        tokens = torch.randint(100, 4000, (1, text), device=model.device)
        started = time.perf_counter()
        token_nll(model, tokens).sum().item()
        seconds.append(time.perf_counter() - started)
    return {"read_seconds": min(seconds[1:]), "read_memory": peak_memory()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--part", choices=["predict", "train", "lora", "read"], help="run one part here and print JSON")
    args = parser.parse_args()
    if args.part:
        (path,) = args.model
        batch, length, text = CASES[path]
        figures = {
            "predict": lambda: predict(path, batch, length, text),
            "train": lambda: train(path, batch, length, args.steps),
            "lora": lambda: train(path, batch, length, args.steps, adapted=True),
            "read": lambda: read(path, text),
        }[args.part]()
        print(json.dumps(figures))
        return
    for path in args.model:
        batch, length, text = CASES[path]
        print(f"{path}: steps of {batch} x {length} tokens, a text of {text} tokens", flush=True)
        ratios: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            rows = {}
            for part in ("predict", "train", "lora", "read"):
                command = [sys.executable, __file__, "--part", part, "--model", path, "--steps", str(args.steps)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                rows[part] = json.loads(done.stdout.splitlines()[-1])
            predicted, measured = rows["predict"], rows["train"] | rows["lora"] | rows["read"]
            for key, value in measured.items():
                ratios.setdefault(key, []).append(predicted[key] / value)
            print(f"  measured for the plan in {predicted['measuring']:.0f} s; " + ", ".join(
                f"{key} {predicted[key]:.4g} / {value:.4g}" for key, value in measured.items()
            ), flush=True)  # fmt: skip
        for key, values in ratios.items():
            spread = f"({min(values):.2f} to {max(values):.2f})"
            print(f"  {key}, predicted / measured: {statistics.median(values):.2f} {spread}", flush=True)


if __name__ == "__main__":
    main()
