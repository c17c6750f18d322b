"""`randpos`: a sorted random sample of L of the positions {0..T-1} (RandPos, arXiv 2305.16843).

The paper does not fix the first position. Here it is always 0 and the others are a uniform sample of L-1 of {1..T-1},
as RoPE sees differences only. The text is the start of the document, without gaps.
"""

import numpy as np

from skipwise.positions.layouts import Chances, Draws, Ints, Layouts, Method, Words, continuous, uniform, words
from skipwise.positions.sampler import Sampler


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    positions = np.zeros((len(draws.states), sampler.train_length), dtype=np.int64)  # (B, L)
    for row, state in zip(positions, draws.states[:, None], strict=True):
        row[1:] = 1 + subset(state, sampler.target_length - 1, sampler.train_length - 1)
    return continuous(positions)


def subset(state: Words, size: int, k: int) -> Ints:
    """A sorted uniform sample of k of {0..size-1} from one stream (1,): its first k distinct draws.

    A sample of more than half is the complement of a sample, so that distinct draws never become rare.
    """
    if k > size // 2:
        chosen = np.ones(size, dtype=np.bool_)
        chosen[subset(state, size, size - k)] = False
        return np.flatnonzero(chosen)
    count = k + k * k // max(size, 1) + 4  # the second term is about twice the repeats to expect
    while True:
        values = uniform(words(state, count)[0], 0, size - 1)
        first = np.unique(values, return_index=True)[1]
        if len(first) >= k:
            return np.sort(values[np.sort(first)[:k]])
        count *= 2


def _chances(sampler: Sampler) -> Chances | None:
    """Exact where the positions leave no choice; otherwise there is no short sum over the samples."""
    length, target = sampler.train_length, sampler.target_length
    return (np.arange(target) < length).astype(np.float64) if length in (1, target) else None


METHOD = Method(_draw, chances=_chances)
