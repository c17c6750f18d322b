"""`cream`: a head, a middle whose place follows a Gaussian, and a tail that ends the target (arXiv 2406.07138).

With L = train_length, T = target_length and f = T / L, an example is a head of h tokens at 0..h-1, a tail of h tokens
at T-h..T-1, and the L - 2h = m tokens between them as one run that ends at position e. With equal chance h is
floor(L / 3) (continuity: long runs) or floor(4·f) (relativity: the middle sees the ends from everywhere), but never
above floor(L / 3). The place of the middle is drawn in two steps: r = floor(x) with x ~ Normal(1 + f, 3), moved into
2..2f, and k = r / 2; then e ~ U{h + floor((m-1)·k)..floor(L·k) - h - 1}. The Gaussian prefers the middle of the window,
which models otherwise read worst. As in the published code, what the Gaussian has outside of 2..2f falls on the ends.

`text` chooses the text of the three runs as for `pose`; `aligned` is nearest to the paper, which cuts long documents at
the positions themselves.
"""

import math

import numpy as np

from skipwise.positions.layouts import Chances, Draws, Ints, Layouts, Method, Words, chosen_text, lay_out, uniform
from skipwise.positions.sampler import Sampler

SIGMA = 3.0
"""Standard deviation of the Gaussian, half train lengths."""


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    length, target = sampler.train_length, sampler.target_length
    word = draws.words(3)
    ends = np.asarray(_ends(length, target))[(word[:, 0] >> np.uint64(63)).astype(np.int64)]  # (B,): h
    middle = length - 2 * ends
    r = 2 + np.searchsorted(_thresholds(length, target), word[:, 1], side="right")  # (B,)
    low, high = _range(length, ends, r)
    skip = uniform(word[:, 2], low, high) - (middle - 1) - ends
    lengths = np.stack([ends, middle, ends], axis=1)
    skips = np.stack([np.zeros_like(skip), skip, np.full_like(skip, target - length)], axis=1)
    return lay_out(lengths, skips, chosen_text(sampler, draws, skips), length)


def _ends(length: int, target: int) -> tuple[int, int]:
    return length // 3, min(length // 3, 4 * target // length)


def _range(length: int, ends: Ints, r: Ints) -> tuple[Ints, Ints]:
    """Least and largest e."""
    return ends + (length - 2 * ends - 1) * r // 2, length * r // 2 - ends - 1


def _cumulated(length: int, target: int) -> list[float]:
    """P(r ≤ 2), P(r ≤ 3), … without the last, which is 1."""
    mean, last = 1 + target / length, 2 * target // length
    return [0.5 * (1 + math.erf((r + 1 - mean) / (SIGMA * math.sqrt(2)))) for r in range(2, last)]


def _thresholds(length: int, target: int) -> Words:
    most = 2**64 - 1  # a chance may be 1 to the last digit
    return np.array([min(int(chance * 2**64), most) for chance in _cumulated(length, target)], dtype=np.uint64)


def _chances(sampler: Sampler) -> Chances:
    """Exact: a sum over both kinds of ends, with the law of e as a vector over the window."""
    length, target = sampler.train_length, sampler.target_length
    distance, total = np.arange(target), np.zeros(target)
    places = np.diff([0.0, *_cumulated(length, target), 1.0])
    for ends in _ends(length, target):
        middle, law = length - 2 * ends, np.zeros(target)
        for r, chance in enumerate(places, 2):
            low, high = (int(value) for value in _range(length, np.asarray(ends), np.asarray(r)))
            law[low : high + 1] += chance / (high - low + 1)
        below = np.concatenate([[0.0], np.cumsum(law)])  # P(e < k), k = 0..T

        def between(low: Ints, high: Ints, below: Chances = below) -> Chances:
            low, high = np.clip(low, 0, target), np.clip(high + 1, 0, target)
            return np.maximum(below[high] - below[low], 0)

        # Head to middle for these e, middle to tail for those.
        head = distance, distance + ends + middle - 2
        tail = target - ends - distance, target + middle - 2 - distance
        both = between(np.maximum(head[0], tail[0]), np.minimum(head[1], tail[1]))
        seen = between(*head) + between(*tail) - both
        seen[(distance < max(ends, middle)) | (distance > target - 2 * ends)] = 1
        total += seen / 2
    total[total < 1e-12] = 0  # differences of sums near 1 hold no more digits
    return np.minimum(total, 1)


METHOD = Method(_draw, uses=frozenset({"text"}), least_length=3, chances=_chances)
