"""`stratified`: the chunks of `pose`, with lengths and skips from a low-discrepancy sequence. Ours.

PoSE draws the skip u of the last chunk evenly from 0..S, S = T - L. An example then shows the distances u+1..u+L-1
between its chunks, so T - 1 needs u = S, one draw of S + 1, while those of the middle are shown by L - 1 values of u.
Two changes make the coverage even:

- u = min(w, S) with w even over 0..T-2. Each distance d of L-1..S is shown by L - 1 values of w and every larger one by
  as many or more. No distribution of u shows the least-seen distance more often, up to the two ends of the window:
  T-1, T-L, T-2L+1, … are shown by disjoint sets of u.
- w and the other draws are not independent from example to example. Draw number k of example i is
  frac(x_k + i·a_k) (Richtmyer's sequence): the shift x_k is random, a pure function of (seed, epoch); a_0 is the golden
  section and a_k (k ≥ 1) the square root of a prime, less its whole part. After any n examples the gaps between the n
  values of w are about 1/n, so the number of examples that show a distance differs little between distances.

For one example the shift makes all draws even and independent. What PoSE asks for stays: all distances up to the
target, and N long unbroken runs, of lengths drawn by the rule of `pose`. The skips of chunks between the first and the
last are even over 0..u, in order. `text` chooses the text as for `pose`, by independent draws.
"""

import functools
import math

import numpy as np

from skipwise.positions.layouts import (
    SHIFT,
    Chances,
    Draws,
    Layouts,
    Method,
    Words,
    chosen_text,
    chunk_lengths,
    keyed,
    lay_out,
    two_chunk_chances,
    uniform,
    words,
)
from skipwise.positions.sampler import Sampler


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    n, length, target = sampler.chunks, sampler.train_length, sampler.target_length
    shifts = words(keyed(SHIFT, sampler.seed, draws.epoch), 2 * n - 2)  # (1, 2N - 2)
    word = shifts + draws.index.astype(np.uint64)[:, None] * _steps(2 * n - 2)  # (B, 2N - 2), modulo 2^64
    skips = np.zeros((len(draws.index), n), dtype=np.int64)
    if n > 1:
        skips[:, -1] = np.minimum(uniform(word[:, 0], 0, target - 2), target - length)
        skips[:, 1:-1] = np.sort(uniform(word[:, 1 : n - 1], 0, skips[:, -1:]), axis=1)
    lengths = chunk_lengths(word[:, n - 1 :], length)
    return lay_out(lengths, skips, chosen_text(sampler, draws, skips), length)


@functools.cache
def _steps(count: int) -> Words:
    """The first `count` of a_0, a_1, … in units of 2^-64: integers, the same on every machine."""
    golden = (math.isqrt(5 << 128) - (1 << 64)) // 2
    primes = (p for p in range(2, 99 * count + 99) if p != 5 and all(p % q for q in range(2, math.isqrt(p) + 1)))
    roots = (math.isqrt(p << 128) % 2**64 for p in primes)
    return np.array([golden, *(next(roots) for _ in range(count - 1))][:count], dtype=np.uint64)


def _chances(sampler: Sampler) -> Chances | None:
    """Exact for one and two chunks."""
    length, target, distance = sampler.train_length, sampler.target_length, np.arange(sampler.target_length)
    if sampler.chunks == 1 or length == target:
        return (distance < length).astype(np.float64)
    if sampler.chunks > 2:
        return None
    # w < d, and min(w, S) > d - L
    least = np.maximum(0, distance - length + 1)
    shown = np.where(distance > target - length, target - 1 - least, distance - least)
    return two_chunk_chances(length, target, length - 1, shown / (target - 1))


METHOD = Method(_draw, uses=frozenset({"chunks", "text"}), chances=_chances, independent=False)
