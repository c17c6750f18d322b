"""How often a sampler shows each relative distance 0..T-1, counted and as a probability. NumPy only.

An example shows distance d once for every query-key pair of its tokens whose positions differ by d; with the indicator
x of its positions that is the autocorrelation Σ_p x(p) x(p + d). T is the sampler's target_length, L its train_length.
"""

import bisect
import math

import numpy as np
from numpy.typing import NDArray

from skipwise.errors import SkipwiseError
from skipwise.positions.sampler import Ints, Sampler

Counts = NDArray[np.float64]

# Tokens laid out at once while counting, and the most runs in an example whose edges are paired.
_BATCH_TOKENS = 2**16
_FEW_RUNS = 16
# Distances looked at, over all sampled lengths of more than two chunks.
_LENGTH_SAMPLES = 2**25


def distance_counts(sampler: Sampler, *, examples: int, n_doc: int | None = None) -> Counts:
    """Count the pairs at each distance over examples 0..`examples`-1 of epoch 0.

    Positions in few runs are counted through the runs' edges: with e(p) = x(p) - x(p-1), which is +1 at a run's start
    and -1 behind its end, the second difference of the counts is minus the autocorrelation of e. Scattered positions
    are counted through the power spectrum of x, summed over the examples and transformed back once.

    Args:
        sampler: The sampler.
        examples: Number of examples.
        n_doc: Tokens of every document; long enough if absent. It is only checked: positions do not depend on it.

    Returns:
        Pairs, (T,), summed over the examples; exact whole numbers.

    Raises:
        SkipwiseError: There are no examples, or `n_doc` is too short.
    """
    if examples < 1:
        raise SkipwiseError(f"examples {examples}: expected at least 1; raise it")
    target = sampler.target_length
    size = max(1, _BATCH_TOKENS // sampler.example_length)
    edges = np.zeros(target + 1, dtype=np.int64)
    spectrum = np.zeros(target + 1)
    for start in range(0, examples, size):
        index = np.arange(start, min(start + size, examples))
        position_ids = sampler.draw(0, index, sampler.document_length if n_doc is None else n_doc).position_ids
        breaks = np.diff(position_ids, axis=1) != 1  # (B, S - 1)
        runs = 1 + int(breaks.sum(axis=1).max(initial=0))
        if runs <= _FEW_RUNS:
            edges += _edge_correlation(position_ids, breaks, runs, target)
        else:
            for positions in position_ids:
                spectrum += _power(positions, target)
    by_edges = np.cumsum(np.cumsum(edges[:0:-1]))[::-1]  # from distance T down, where every count is 0
    by_spectrum = np.rint(np.fft.irfft(spectrum, 2 * target)[:target]).astype(np.int64)
    return (by_spectrum - by_edges).astype(np.float64)


def _edge_correlation(position_ids: Ints, breaks: NDArray[np.bool_], runs: int, target: int) -> Ints:
    """Autocorrelation (T + 1,) of the edges of `runs` runs in every example; position_ids (B, S), breaks (B, S - 1).

    An example with fewer breaks is cut inside a run as well, which changes nothing: the two new edges cancel.
    """
    last = position_ids.shape[1] - 1
    cuts = np.argpartition(~breaks, runs - 2, axis=1)[:, : runs - 1] if runs > 1 else np.empty((len(breaks), 0), int)
    starts = np.take_along_axis(position_ids, np.insert(cuts + 1, 0, 0, axis=1), axis=1)  # (B, runs)
    ends = np.take_along_axis(position_ids, np.insert(cuts, 0, last, axis=1), axis=1) + 1  # (B, runs)
    places = np.concatenate([starts, ends], axis=1)  # (B, 2 runs)
    signs = np.repeat([1, -1], runs)
    distances = places[:, :, None] - places[:, None, :]  # (B, 2 runs, 2 runs)
    weights = np.broadcast_to(signs[:, None] * signs, distances.shape)
    ahead = distances >= 0
    sums = np.bincount(distances[ahead], weights=weights[ahead], minlength=target + 1)
    return np.rint(sums).astype(np.int64)


def _power(positions: Ints, target: int) -> Counts:
    """Power spectrum (T + 1,) of the indicator of one example's positions (S,), padded to 2T so that nothing wraps."""
    indicator = np.zeros(2 * target)
    indicator[positions] = 1
    transform = np.fft.rfft(indicator)
    power: Counts = transform.real**2 + transform.imag**2
    return power


def examples_until_seen(sampler: Sampler, probability: float = 0.95) -> int:
    """Find how many examples show every distance 0..T-1 at least once with this probability, or more.

    With the chances q(d) of `seen_probability`, the distances are joined by the union bound
    Σ_d (1 - q(d))^n ≤ 1 - probability, so n is never too small. It is close, as T - 1, which only the largest skip
    shows, decides almost alone.

    Args:
        sampler: The sampler.
        probability: Chance that no distance is missed, between 0 and 1.

    Raises:
        SkipwiseError: As `seen_probability`; the sampler never shows a distance of L or more; or the probability is
            outside (0, 1).
    """
    if not 0 < probability < 1:
        raise SkipwiseError(f"probability {probability}: expected a number between 0 and 1, both excluded")
    missed = 1 - _reaching(sampler)  # (T,)
    if not missed.any():
        return 1
    rest = 1 - probability
    plenty = math.ceil(math.log(rest / len(missed)) / math.log(missed.max()))  # here even T · max(1 - q)^n is enough
    return bisect.bisect_left(range(plenty), True, key=lambda n: bool((missed**n).sum() <= rest))


def examples_until_share(sampler: Sampler, share: float = 0.99) -> int:
    """Find how many examples show this share of the distances on average: the least n with mean (1 - q)^n ≤ 1 - share.

    Args:
        sampler: The sampler.
        share: Share of the distances, between 0 and 1.

    Raises:
        SkipwiseError: As `examples_until_seen`.
    """
    if not 0 < share < 1:
        raise SkipwiseError(f"share {share}: expected a number between 0 and 1, both excluded")
    missed = 1 - _reaching(sampler)
    if not missed.any():
        return 1
    plenty = math.ceil(math.log(1 - share) / math.log(missed.max()))
    return bisect.bisect_left(range(plenty), True, key=lambda n: bool((missed**n).mean() <= 1 - share))


def _reaching(sampler: Sampler) -> Counts:
    """The chances (T,) of `seen_probability`. Raises SkipwiseError for a sampler that never shows some distance."""
    chances = seen_probability(sampler)
    if not chances.all():
        raise SkipwiseError(
            f"sampler {sampler.name!r} never shows a distance of {sampler.train_length} or more: use pose with 2 chunks"
        )
    return chances


def seen_probability(sampler: Sampler) -> Counts:
    """Compute q(d), the chance that one example has a pair at distance d.

    Exact for `full`, `original` and `pose` with up to two chunks. With more chunks a lower bound, exact at T - 1: given
    the chunks' lengths, a distance inside the longest chunk is seen for certain, and of the others only the likeliest
    pair of the first chunk and a later one is counted, through the exact law of that one's skip; the lengths are
    averaged over a seeded sample.

    Returns:
        Chances, (T,).

    Raises:
        SkipwiseError: There is no formula for this sampler.
    """
    length, target = sampler.train_length, sampler.target_length
    if sampler.name == "full" or length == target:
        return np.ones(target)
    if sampler.name == "original" or length == 1 or (sampler.name == "pose" and sampler.chunks == 1):
        return (np.arange(target) < length).astype(np.float64)
    if sampler.name != "pose":
        raise SkipwiseError(f"no formula for sampler {sampler.name!r}: use pose, or count with distance_counts")
    return _two_chunks(length, target) if sampler.chunks == 2 else _many_chunks(sampler)


def _many_chunks(sampler: Sampler) -> Counts:
    """Pairs of the first chunk and chunk j, m tokens between, are u_j + m + 1 to u_j + m + l_0 + l_j - 1 apart."""
    length, target, chunks = sampler.train_length, sampler.target_length, sampler.chunks
    most, distance = target - length, np.arange(target)
    laws = [np.concatenate([[0.0], np.cumsum(_skip_law(most, j))]) for j in range(1, chunks)]  # P(u < k), k = 0..S + 1
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


def longest_distance_chance(sampler: Sampler) -> float:
    """Compute the chance that one example of `pose` shows distance T - 1: its last chunk must have the largest skip."""
    return float(_skip_law(sampler.target_length - sampler.train_length, sampler.chunks - 1)[-1])


def _skip_law(most: int, chunk: int) -> Counts:
    """P(u = 0..most) of the skip of one chunk (0 is the first): u_0 = 0, u_i ~ U{u_(i-1)..most}."""
    law = np.zeros(most + 1)
    law[0] = 1
    for _ in range(chunk):
        law = np.cumsum(law / np.arange(most + 1, 0, -1))
    return law


def _two_chunks(length: int, target: int) -> Counts:
    """q(d) (T,) for `pose` with two chunks: chance that one example has a pair at distance d; L ≥ 2."""
    distance, most = np.arange(target), target - length
    skips = np.minimum(most, distance - 1) - np.maximum(0, distance - length + 1) + 1  # u with u < d < u + L
    across = np.maximum(skips, 0) / (most + 1)
    # max(l, L - l) ≤ d leaves l = L - d..d.
    inside = 1 - np.clip(2 * distance - length + 1, 0, length - 1) / (length - 1)
    seen: Counts = 1 - (1 - across) * (1 - inside)
    return seen
