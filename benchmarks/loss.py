"""Compare the loss in slices with transformers' own, on a model of SmolLM2-135M's shape with random weights.

    python benchmarks/loss.py [--rows 2] [--length 1024] [--repeats 5] [--precision bfloat16] [--device cpu]

Time: a forward and a backward pass. The variants take turns in one process. The output is the ratio to transformers'
loss in the same round, its median and range. Memory: the peak of one step in its own process, above the memory of the
model.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import LlamaConfig, LlamaForCausalLM

from skipwise.models import sliced_loss
from skipwise.models.forward import hidden_states, loss

Step = Callable[[LlamaForCausalLM, Tensor], Tensor]


def build(device: str, layers: int) -> LlamaForCausalLM:
    """SmolLM2-135M's shape; fp32 weights, as in training."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        vocab_size=49_152,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).to(device).train()


def transformers_loss(net: LlamaForCausalLM, ids: Tensor) -> Tensor:
    value: Tensor = net(ids, labels=ids, use_cache=False).loss
    return value


def sliced(net: LlamaForCausalLM, ids: Tensor) -> Tensor:
    return loss(net, ids, None, ids)


def recomputed(net: LlamaForCausalLM, ids: Tensor) -> Tensor:
    """Compute the loss in slices whose logits are recomputed in the backward pass."""
    hidden = hidden_states(net, ids).flatten(0, 1)
    labels = F.pad(ids[:, 1:], (0, 1), value=sliced_loss.IGNORED).flatten()
    size = sliced_loss.slice_tokens(net.config.vocab_size)

    def part(h: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net.lm_head(h).float(), y, reduction="sum", ignore_index=sliced_loss.IGNORED)

    parts = zip(hidden.split(size), labels.split(size), strict=True)
    return torch.stack([checkpoint(part, h, y, use_reentrant=False) for h, y in parts]).sum() / (labels >= 0).sum()


STEPS: dict[str, Step] = {"transformers": transformers_loss, "sliced": sliced, "recomputed": recomputed}


def step(name: str, net: LlamaForCausalLM, ids: Tensor, precision: str) -> float:
    """Return the seconds of one forward and backward pass. Gradients of the step before are dropped."""
    net.zero_grad(set_to_none=True)
    if ids.is_cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    with torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        value = STEPS[name](net, ids)
    value.backward()
    if ids.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(name: str, net: LlamaForCausalLM, ids: Tensor, precision: str) -> int:
    """Bytes that one step takes above what was there before it."""
    if ids.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(name, net, ids, precision)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak starts again from here
    before = memory("VmRSS")
    step(name, net, ids, precision)
    return memory("VmHWM") - before


def memory(kind: str) -> int:
    """Bytes of this process now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(kind))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--peak-of", choices=STEPS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    net = build(given.device, given.layers)
    ids = torch.randint(0, 49_152, (given.rows, given.length), device=given.device)
    if given.peak_of:
        print(peak(given.peak_of, net, ids, given.precision))
        return
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    for repeat in range(given.repeats + 1):
        for name in STEPS:
            value = step(name, net, ids, given.precision)
            if repeat:  # the first round warms up
                seconds[name].append(value)
    setting = f"{given.rows} x {given.length} tokens, {given.layers} layers, {given.precision}, {given.device}"
    print(f"{setting}, {torch.get_num_threads()} threads, torch {torch.__version__}, n = {given.repeats}")
    rows: list[dict[str, Any]] = []
    for name in STEPS:
        ratios = sorted(own / base for own, base in zip(seconds[name], seconds["transformers"], strict=True))
        run = subprocess.run([sys.executable, *sys.argv, "--peak-of", name], capture_output=True, text=True, check=True)
        rows.append(
            {
                "loss": name,
                "seconds": round(statistics.median(seconds[name]), 3),
                "time_ratio": round(statistics.median(ratios), 3),
                "range": [round(ratios[0], 3), round(ratios[-1], 3)],
                "peak_gib": round(int(run.stdout) / 2**30, 3),
            }
        )
        print(json.dumps(rows[-1]))


if __name__ == "__main__":
    main()
