"""`skipalign`: skips at the borders of a conversation's turns, after SkipAlign (arXiv 2405.03939).

SkipAlign makes short instruction data long by positions: it skips where the data has structure, so that an answer
refers to an instruction far before it, while instruction and answer each stay whole. With L = train_length, T =
target_length, N = chunks, and K borders (tokens with which a turn begins), m = min(N - 1, K) of the borders are chosen,
every set of m with the same chance. They divide the example into m + 1 chunks, which are skipped as those of `pose`:
u_0 = 0, u_i ~ U{u_(i-1)..T-L}. Text never skips.

Where no turns are known, as in plain text, a chunk may begin with any token: these are the chunks of `pose` over
contiguous text. `skipwise coverage` shows that case, because turns differ from conversation to conversation.
"""

import numpy as np

from skipwise.positions.layouts import Draws, Ints, Layouts, Method, Words, ascending, chunk_lengths, lay_out, uniform
from skipwise.positions.sampler import Sampler
from skipwise.positions.samplers import pose


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    n, length, batch = sampler.chunks, sampler.train_length, len(draws.index)
    most = np.full(batch, sampler.target_length - length)
    choices, skip_words = draws.words(n - 1), draws.words(n - 1)
    if draws.borders is None:
        lengths = chunk_lengths(choices, length)  # (B, N)
        return _laid_out(lengths, ascending(skip_words, most), length)
    rows = []
    for i, borders in enumerate(draws.borders):
        ends = np.concatenate([[0], _chosen(choices[i], np.asarray(borders, dtype=np.int64)), [length]])
        skips = ascending(skip_words[i : i + 1, : len(ends) - 2], most[:1])
        rows.append(_laid_out(np.diff(ends)[None], skips, length))
    return Layouts(*(np.concatenate(part) for part in zip(*rows, strict=True)))


def _laid_out(lengths: Ints, later_skips: Ints, length: int) -> Layouts:
    skips = np.concatenate([np.zeros((len(lengths), 1), dtype=np.int64), later_skips], axis=1)
    return lay_out(lengths, skips, np.zeros_like(skips), length)


def _chosen(words: Words, borders: Ints) -> Ints:
    """As many borders as there are words, or all, ascending: the first steps of a shuffle, then a sort."""
    borders, count = borders.copy(), min(len(words), len(borders))
    for i in range(count):
        j = int(uniform(words[i], i, len(borders) - 1))
        borders[[i, j]] = borders[[j, i]]
    return np.sort(borders[:count])


METHOD = Method(_draw, uses=frozenset({"chunks"}), chances=pose.METHOD.chances, lower_bound=pose.METHOD.lower_bound)
