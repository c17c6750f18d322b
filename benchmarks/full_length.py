"""Compare training with PoSE on short examples with training at full length: time and memory of a step by target.

    python benchmarks/full_length.py --out FOLDER [--model bundled smollm2] [--targets 4096 8192 16384]

It is figure 3 of the PoSE paper (arXiv 2309.10400): flat for PoSE, growing for full length. A step has one example. The
short examples have the length that the recipes of the model use. Each case runs in its own process, to measure its
peak memory. A case that would take longer than `--seconds` is computed from the shorter ones, with a parabola through
the three longest times and a line through the two largest memories, and marked so.

FOLDER/full_length.json, .txt and .svg are written anew after each case.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SHORT = {"bundled": 256, "smollm2": 1024}
"""Tokens of a PoSE example."""


def measure(path: str, length: int, target: int, steps: int) -> dict[str, float]:
    """Seconds of a step (the least, of several without the first) and peak memory, in this process."""
    import itertools

    import numpy as np
    import torch

    from skipwise.config import ModelConfig, ScalingConfig
    from skipwise.data.skipped_positions import SkippedPositions
    from skipwise.models.device import arithmetic
    from skipwise.models.load import load
    from skipwise.runs.environment import peak_memory
    from training import step_times

    scaling = ScalingConfig(method="yarn")
    model = load(ModelConfig(path=path), target_length=32_768, scaling=scaling, dtype=torch.float32).model
    precision = str(arithmetic("auto", model.device)).removeprefix("torch.")
    documents = [np.random.default_rng(0).integers(100, 4000, size=2 * target)]
    examples = SkippedPositions(
        documents,
        sampler="pose" if length < target else "full",
        target_length=target,
        train_length=length,
        examples=steps,
    )
    stamps = step_times("skipwise", model, examples, steps=steps, batch=1, precision=precision)
    between = [after - before for before, after in itertools.pairwise(stamps)]
    return {"seconds": min(between[1:] or between), "memory": peak_memory()}


def in_process(path: str, length: int, target: int, steps: int) -> dict[str, float]:
    words = [sys.executable, __file__, "--case", path, str(length), str(target), str(steps)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{path}, {length} tokens: {done.stderr[-2000:]}")
    row: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return row


def computed(rows: list[dict[str, Any]], length: int) -> dict[str, float] | None:
    """What a longer full-length example takes, from the measured ones; None where they are fewer than two."""
    import numpy as np

    known = sorted((row["length"], row["seconds"], row["memory"]) for row in rows)[-3:]
    if len(known) < 2:
        return None
    lengths, seconds, memory = (np.array(column, dtype=float) for column in zip(*known, strict=True))
    curve = np.polyfit(lengths, seconds, len(known) - 1)
    line = np.polyfit(lengths[-2:], memory[-2:], 1)
    return {"seconds": max(float(np.polyval(curve, length)), seconds[-1]), "memory": float(np.polyval(line, length))}


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'model':9} {'target':>7} {'trained with':>24} {'s a step':>10} {'GB':>7} {'time':>7} {'memory':>7}"]
    for row in rows:
        base = next(
            r for r in rows if r["model"] == row["model"] and r["kind"] == "pose" and r["target"] == row["target"]
        )
        kind = f"PoSE at {row['length']:,}" if row["kind"] == "pose" else "full length"
        ratios = f"{row['seconds'] / base['seconds']:6.1f}x {row['memory'] / base['memory']:6.2f}x"
        mark = "  computed" if row.get("computed") else ""
        figures = f"{row['seconds']:10.2f} {row['memory'] / 1e9:7.2f} {ratios}{mark}"
        lines.append(f"{row['model']:9} {row['target']:7,} {kind:>24} {figures}")
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], targets: list[int]) -> str:
    """An SVG with a panel for each model and figure: PoSE flat, full length growing; hollow points are computed."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    width, height, parts = 320, 220, []
    panels = [(model, key) for model in models for key in ("seconds", "memory")]
    for index, (model, key) in enumerate(panels):
        left, top = 60 + (index % 2) * (width + 80), 40 + (index // 2) * (height + 80)
        mine = [row for row in rows if row["model"] == model]
        scale = 1e9 if key == "memory" else 1.0
        most = max(row[key] for row in mine) / scale
        unit = "GB at peak" if key == "memory" else "seconds a step"
        parts.append(f'<text x="{left}" y="{top - 12}">{model}: {unit}</text>')
        parts.append(f'<path d="M{left} {top}V{top + height}H{left + width}" fill="none" stroke="#888"/>')
        for mark in (0.0, 0.5, 1.0):
            y = top + height * (1 - mark)
            parts.append(f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{most * mark:.3g}</text>')
        for target in targets:
            x = left + width * target / targets[-1]
            parts.append(f'<text x="{x:.0f}" y="{top + height + 18}" text-anchor="middle">{target // 1024}k</text>')
        for kind, colour in (("pose", "#0a7"), ("full", "#c40")):
            chosen = sorted((row for row in mine if row["kind"] == kind), key=lambda row: int(row["target"]))
            points = [
                (left + width * row["target"] / targets[-1], top + height * (1 - row[key] / scale / most), row)
                for row in chosen
            ]
            line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
            for x, y, row in points:
                fill = "white" if row.get("computed") else colour
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{fill}" stroke="{colour}"/>')
            if points:
                x, y, _ = points[-1]
                label = "PoSE" if kind == "pose" else "full length"
                parts.append(f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="end" fill="{colour}">{label}</text>')
    size = f'width="{2 * (width + 80) + 40}" height="{40 + (len(panels) // 2) * (height + 80)}"'
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(parts) + "\n</svg>\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("full-length"))
    parser.add_argument("--model", nargs="+", default=list(SHORT), choices=list(SHORT))
    parser.add_argument("--targets", nargs="+", type=int, default=[4096, 8192, 16_384])
    parser.add_argument("--seconds", type=float, default=150, help="longest full-length step that is measured")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        path, *numbers = args.case
        print(json.dumps(measure(path, *map(int, numbers))))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []

    def add(**row: Any) -> None:
        rows.append(row)
        (args.out / "full_length.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        (args.out / "full_length.txt").write_text(table(rows), encoding="utf-8")
        (args.out / "full_length.svg").write_text(plot(rows, sorted(args.targets)), encoding="utf-8")

    for path in args.model:
        short = SHORT[path]
        same = in_process(path, short, short, 3)
        full = [{"length": short, **same}]
        for target in sorted(args.targets):
            add(model=path, kind="pose", target=target, length=short, **in_process(path, short, target, 3))
            guess = computed(full, target) or {"seconds": same["seconds"] * (target / short) ** 1.3}
            if guess["seconds"] > args.seconds and "memory" in guess:
                add(model=path, kind="full", target=target, length=target, **guess, computed=True)
                continue
            steps = 2 if 2 * guess["seconds"] < args.seconds else 1
            full.append({"length": target, **in_process(path, target, target, steps)})
            add(model=path, kind="full", target=target, **full[-1])
    print(table(rows), end="")


if __name__ == "__main__":
    main()
