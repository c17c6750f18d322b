"""Compare the speed of drawing PoSE layouts: the vectorised sampler and plain Python, one example at a time.

Both draw two chunks with skipping text and return arrays (B, L) of positions, text offsets and seams. They take turns
in one process, so other load on the machine affects both.

    python benchmarks/layouts.py --repeats 7

"""

import argparse
import random
import statistics
import time
from collections.abc import Callable

import numpy as np

from skipwise.positions.sampler import Layouts, Sampler


def plain_layouts(sampler: Sampler, epoch: int, index: range, n_doc: int) -> Layouts:
    """Draw the same kind of layouts with Python lists and one seeded `random.Random` for each example."""
    length, target = sampler.train_length, sampler.target_length
    positions, offsets, seams = [], [], []
    for example in index:
        generator = random.Random(f"{sampler.seed} {epoch} {example}")
        border = generator.randint(1, length - 1)
        skip = generator.randint(0, target - length)
        first = generator.randint(0, n_doc - length)
        second = generator.randint(first, n_doc - length)
        positions.append([*range(border), *range(border + skip, length + skip)])
        offsets.append([*range(first, border + first), *range(border + second, length + second)])
        seams.append([False] * border + [second > first] + [False] * (length - border - 1))
    return Layouts(np.array(positions), np.array(offsets), np.array(seams))


def seconds(draw: Callable[[range], Layouts], batch: int, batches: int) -> float:
    start = time.perf_counter()
    for first in range(0, batch * batches, batch):
        draw(range(first, first + batch))
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-length", type=int, default=2048)
    parser.add_argument("--target-length", type=int, default=131072)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=50, help="batches in one repeat")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    batch, batches, n_doc = arguments.batch, arguments.batches, 4 * arguments.target_length
    sampler = Sampler("pose", arguments.train_length, arguments.target_length)

    ways = {
        "vectorised": lambda index: sampler.draw(0, index, n_doc),
        "plain Python": lambda index: plain_layouts(sampler, 0, index, n_doc),
    }
    for draw in ways.values():
        seconds(draw, batch, 2)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, draw in ways.items():
            times[name].append(seconds(draw, batch, batches) / (batch * batches))

    print(f"L = {arguments.train_length}, T = {arguments.target_length}, B = {batch}, {arguments.repeats} repeats")
    for name, values in times.items():
        middle = statistics.median(values)
        print(
            f"{name:>12}: {1 / middle:9,.0f} layouts/s, {1e6 * middle:7.1f} µs an example "
            f"({1e6 * min(values):.1f} to {1e6 * max(values):.1f})"
        )
    ratios = [plain / fast for fast, plain in zip(*times.values(), strict=True)]
    print(f"       ratio: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
