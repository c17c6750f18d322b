"""`pose`: N chunks of consecutive positions with skips between them (PoSE, arXiv 2309.10400, eq. 3-5).

With L = train_length, T = target_length, N = chunks and n_doc the tokens of the document, the token with plain index j
in the example, in chunk i, has position u_i + j, where u_0 = 0 and u_i ~ U{u_(i-1)..T-L}. Its place in the document is
v_i + j with v_i ~ U{v_(i-1)..n_doc-L}. The paper only says that L is "randomly divided" into chunks. Ours is
l_0 ~ U{1..L-(N-1)}, l_1 ~ U{1..L-l_0-(N-2)}, …, and the last chunk takes the rest (N = 2: l_0 ~ U{1..L-1}). Paper and
code keep v_0 = 0; here v_0 ~ U{0..n_doc-L}, because a long document would otherwise always show its head as the first
chunk. `text` decides about the v_i: `skip` as above; `contiguous` v_i = 0; `aligned` v_i = u_i.
"""

import numpy as np

from skipwise.positions.layouts import (
    Chances,
    Draws,
    Layouts,
    Method,
    ascending,
    chosen_text,
    chunk_lengths,
    lay_out,
    two_chunk_chances,
)
from skipwise.positions.sampler import Sampler

# Distances looked at, over all sampled lengths of more than two chunks.
_LENGTH_SAMPLES = 2**25


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    n, length, batch = sampler.chunks, sampler.train_length, len(draws.index)
    lengths = chunk_lengths(draws.words(n - 1), length)  # (B, N)
    skips = np.zeros((batch, n), dtype=np.int64)
    skips[:, 1:] = ascending(draws.words(n - 1), np.full(batch, sampler.target_length - length))
    return lay_out(lengths, skips, chosen_text(sampler, draws, skips), length)


def _chances(sampler: Sampler) -> Chances | None:
    """Exact for one and two chunks."""
    length, target = sampler.train_length, sampler.target_length
    if sampler.chunks == 1 or length == target:
        return (np.arange(target) < length).astype(np.float64)
    if sampler.chunks > 2:
        return None
    return two_chunk_chances(length, target, length - 1, across_two_chunks(length, target))


def across_two_chunks(length: int, target: int) -> Chances:
    """P(u < d < u + L) with u ~ U{0..T-L}, (T,): the chance that distance d lies between two chunks."""
    distance, most = np.arange(target), target - length
    skips = np.minimum(most, distance - 1) - np.maximum(0, distance - length + 1) + 1
    across: Chances = np.maximum(skips, 0) / (most + 1)
    return across


def _lower_bound(sampler: Sampler) -> Chances | None:
    """A bound for more chunks, exact at T - 1.

    Given the chunks' lengths, a distance inside the longest chunk is seen for certain. Of the others only the likeliest
    pair of the first chunk and a later one is counted, through the exact law of that one's skip: pairs of the first
    chunk and chunk j, m tokens between, are u_j + m + 1 to u_j + m + l_0 + l_j - 1 apart. The lengths are averaged over
    a seeded sample. None where the laws would fill the memory.
    """
    length, target, chunks = sampler.train_length, sampler.target_length, sampler.chunks
    if target * (chunks - 1) > _LENGTH_SAMPLES:
        return None
    most, distance = target - length, np.arange(target)
    laws = [np.concatenate([[0.0], np.cumsum(skip_law(most, j))]) for j in range(1, chunks)]  # P(u < k), k = 0..S + 1
    samples = min(512, max(16, _LENGTH_SAMPLES // (target * (chunks - 1))))
    generator, total = np.random.default_rng(0), np.zeros(target)
    for _ in range(samples):
        lengths = _some_lengths(generator, length, chunks)
        best = np.zeros(target)
        for j, law in enumerate(laws, 1):
            between = sum(lengths[1:j])
            low = np.clip(distance - between - lengths[0] - lengths[j] + 1, 0, most + 1)
            high = np.clip(distance - between, 0, most + 1)
            np.maximum(best, law[high] - law[low], out=best)
        best[: max(lengths)] = 1
        total += best
    return total / samples


def _some_lengths(generator: np.random.Generator, length: int, chunks: int) -> list[int]:
    """l_i ~ U{1..what is left, less one token for every later chunk}."""
    lengths: list[int] = []
    for later in range(chunks - 1, 0, -1):
        lengths.append(int(generator.integers(1, length - sum(lengths) - later + 1)))
    return [*lengths, length - sum(lengths)]


def skip_law(most: int, chunk: int) -> Chances:
    """P(u = 0..most) of the skip of one chunk (0 is the first): u_0 = 0, u_i ~ U{u_(i-1)..most}."""
    law = np.zeros(most + 1)
    law[0] = 1
    for _ in range(chunk):
        law = np.cumsum(law / np.arange(most + 1, 0, -1))
    return law


METHOD = Method(_draw, uses=frozenset({"chunks", "text"}), chances=_chances, lower_bound=_lower_bound)
