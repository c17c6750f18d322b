"""Closed forms of the pairs that an example shows at each distance, to compare counted ones with."""

import numpy as np
from numpy.typing import NDArray

from skipwise.positions.coverage import distance_counts
from skipwise.positions.sampler import Sampler

Counts = NDArray[np.float64]


def expected_counts(sampler: Sampler, *, examples: int = 4096) -> Counts:
    """Mean number of pairs (T,) that one example shows at each distance.

    Closed form for `full` (T - d), `original` and one chunk (L - d), `randpos` and `pose` with two chunks, whatever the
    text; for more chunks the mean of the first `examples` examples.

    `pose`, N = 2, with l = l_0 and S = T - L: the L - m pairs of plain distance m lie inside a chunk
    Σ_l [(l - m)+ + (L - l - m)+] / (L - 1) = (L - m)(L - 1 - m) / (L - 1) times on average, so across the seam
    c(m) = m (L - m) / (L - 1) times. u ~ U{0..S} moves those to distance m + u, and with
    C(x) = Σ_{m ≤ x} c(m) the mean at d is (L - d)(L - 1 - d) / (L - 1) + [C(d) - C(d - S - 1)] / (S + 1):
    level at L (L + 1) / 6 (S + 1) from L to S.

    `randpos`: 0 is in and each of 1..T-1 with chance (L - 1) / (T - 1), a pair of those with that times
    (L - 2) / (T - 2); T - 1 - d pairs of distance d lie in 1..T-1, one starts at 0.
    """
    length, target = sampler.train_length, sampler.target_length
    distance = np.arange(target, dtype=np.float64)
    if sampler.name == "full":
        return target - distance
    if sampler.name == "original" or length in (1, target) or (sampler.name == "pose" and sampler.chunks == 1):
        return np.maximum(length - distance, 0)
    if sampler.name == "randpos":
        one = (length - 1) / (target - 1)
        mean = one * (1 + (target - 1 - distance) * (length - 2) / (target - 2))
        mean[0] = length
        return mean
    if sampler.chunks == 2:
        within = np.maximum(length - distance, 0) * np.maximum(length - 1 - distance, 0) / (length - 1)
        span = target - length + 1
        return within + (_crossing(distance, length) - _crossing(distance - span, length)) / span
    return distance_counts(sampler, examples=examples) / examples


def _crossing(x: Counts, length: int) -> Counts:
    """C(x) = Σ_{m=1..min(x, L)} m (L - m) / (L - 1), 0 for x ≤ 0."""
    x = np.clip(x, 0, length)
    total: Counts = x * (x + 1) * (3 * length - 2 * x - 1) / (6 * (length - 1))
    return total
