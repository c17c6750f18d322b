"""`pose_reference`: two chunks as the published code of PoSE draws them (arXiv 2309.10400).

With L = train_length and T = target_length the first chunk has r ~ U{1..floor((L+1)/2)} tokens, so it is never the
longer one by more than a token. The second is the rest, skipped by u ~ U{0..T-L}. The text of the first chunk is the
start of the document; that of the second comes from v ~ U{0..m-L} tokens further on, where m is the length of the
document cut to its first 5·L tokens.
"""

import numpy as np

from skipwise.positions.layouts import Chances, Draws, Layouts, Method, lay_out, two_chunk_chances, uniform
from skipwise.positions.sampler import Sampler
from skipwise.positions.samplers.pose import across_two_chunks

SLICE = 5
"""The text of an example comes from this many times its tokens."""


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    length = sampler.train_length
    word = draws.words(3)
    lengths = np.empty((len(word), 2), dtype=np.int64)
    lengths[:, 0] = uniform(word[:, 0], 1, (length + 1) // 2)
    lengths[:, 1] = length - lengths[:, 0]
    skips, text_skips = np.zeros_like(lengths), np.zeros_like(lengths)
    skips[:, 1] = uniform(word[:, 1], 0, sampler.target_length - length)
    text_skips[:, 1] = uniform(word[:, 2], 0, np.minimum(draws.n_doc, SLICE * length) - length)
    return lay_out(lengths, skips, text_skips, length)


def _chances(sampler: Sampler) -> Chances:
    length, target = sampler.train_length, sampler.target_length
    return two_chunk_chances(length, target, (length + 1) // 2, across_two_chunks(length, target))


METHOD = Method(_draw, least_length=2, chances=_chances)
