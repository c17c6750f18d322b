"""How often a sampler shows each relative distance 0..T-1, counted and as a probability. NumPy only.

An example shows distance d once for every query-key pair of its tokens whose positions differ by d; with the indicator
x of its positions that is the autocorrelation Σ_p x(p) x(p + d). T is the sampler's target_length, L its train_length.
`examples_showing` counts an example once, however many of its pairs have that distance.
"""

import bisect
import functools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from skipwise.errors import SkipwiseError
from skipwise.positions.layouts import Ints
from skipwise.positions.sampler import Sampler
from skipwise.positions.samplers.pose import skip_law

Counts = NDArray[np.float64]

# Tokens laid out at once while counting, and the most runs in an example whose edges are paired.
_BATCH_TOKENS = 2**16
_FEW_RUNS = 16


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
    edges = np.zeros(target + 1, dtype=np.int64)
    spectrum = np.zeros(target + 1)
    for position_ids in _batches(sampler, 0, examples, n_doc):
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


def _batches(sampler: Sampler, first: int, stop: int, n_doc: int | None = None) -> Iterator[Ints]:
    """Position ids (B, S) of the examples first..stop-1 of epoch 0, a batch at a time."""
    size = max(1, _BATCH_TOKENS // sampler.example_length)
    for start in range(first, stop, size):
        index = np.arange(start, min(start + size, stop))
        yield sampler.draw(0, index, sampler.document_length if n_doc is None else n_doc).position_ids


def _runs(position_ids: Ints, breaks: NDArray[np.bool_], runs: int) -> tuple[Ints, Ints]:
    """First positions of an example's runs, and the ones behind their ends, both (B, runs), in order.

    An example with fewer breaks is cut inside a run as well.
    """
    last = position_ids.shape[1] - 1
    cuts = np.argpartition(~breaks, runs - 2, axis=1)[:, : runs - 1] if runs > 1 else np.empty((len(breaks), 0), int)
    starts = np.take_along_axis(position_ids, np.insert(cuts + 1, 0, 0, axis=1), axis=1)
    ends = np.take_along_axis(position_ids, np.insert(cuts, 0, last, axis=1), axis=1) + 1
    return np.sort(starts, axis=1), np.sort(ends, axis=1)


def _edge_correlation(position_ids: Ints, breaks: NDArray[np.bool_], runs: int, target: int) -> Ints:
    """Autocorrelation (T + 1,) of the edges of `runs` runs in every example; position_ids (B, S), breaks (B, S - 1).

    An example with fewer breaks is cut inside a run as well, which changes nothing: the two new edges cancel.
    """
    places = np.concatenate(_runs(position_ids, breaks, runs), axis=1)  # (B, 2 runs)
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


def examples_showing(sampler: Sampler, *, examples: int, first: int = 0) -> Ints:
    """Count the examples that show each distance, among the examples `first`..`first + examples`-1 of epoch 0.

    Positions in few runs are counted through the intervals of distances inside a run and between two runs, whose union
    is taken for each example. Scattered positions are counted through their autocorrelation.

    Returns:
        Examples, (T,).
    """
    target = sampler.target_length
    changes = np.zeros(target + 1, dtype=np.int64)
    scattered = np.zeros(target, dtype=np.int64)
    for position_ids in _batches(sampler, first, first + examples):
        intervals = _intervals(position_ids)
        if intervals is not None:
            low, high = intervals
            new = low < high
            changes += np.bincount(low[new], minlength=target + 1) - np.bincount(high[new], minlength=target + 1)
        else:
            for positions in position_ids:
                scattered += _shown(positions, target)
    return np.cumsum(changes)[:target] + scattered


def is_scattered(sampler: Sampler) -> bool:
    """Whether an example has so many runs of positions that counting it takes a Fourier transform."""
    return any(_intervals(position_ids) is None for position_ids in _batches(sampler, 0, 1))


def _shown(positions: Ints, target: int) -> NDArray[np.bool_]:
    """The distances (T,) that one example's positions (S,) show, from their autocorrelation."""
    shown: NDArray[np.bool_] = np.fft.irfft(_power(positions, target), 2 * target)[:target] > 0.5
    return shown


def _intervals(position_ids: Ints) -> tuple[Ints, Ints] | None:
    """Disjoint intervals low..high-1 of the distances that each example (B, S) shows, two arrays (B, runs²).

    The distances inside a run and those between two runs are intervals; what an earlier one holds is cut off, which
    leaves some empty. None for positions in many runs.
    """
    breaks = np.diff(position_ids, axis=1) != 1  # (B, S - 1)
    runs = 1 + int(breaks.sum(axis=1).max(initial=0))
    if runs > _FEW_RUNS:
        return None
    starts, ends = _runs(position_ids, breaks, runs)
    nearest = starts[:, :, None] - ends[:, None, :] + 1  # (B, runs, runs): from the end of one run to a later one
    farthest = ends[:, :, None] - starts[:, None, :] - 1
    low, high = np.maximum(nearest, 0).reshape(len(starts), -1), farthest.reshape(len(starts), -1) + 1
    order = np.argsort(low, axis=1)
    low, high = np.take_along_axis(low, order, axis=1), np.take_along_axis(high, order, axis=1)
    low[:, 1:] = np.maximum(low[:, 1:], np.maximum.accumulate(high, axis=1)[:, :-1])
    return low, np.maximum(low, high)


def examples_counted(sampler: Sampler, shares: Sequence[float], *, most: int) -> list[int | None]:
    """Count after how many examples of epoch 0 shares of the distances were seen.

    Args:
        sampler: The sampler.
        shares: Shares of the distances 0..T-1, ascending.
        most: Examples to look at.

    Returns:
        A number for each share, or None where `most` examples are too few.
    """
    target = sampler.target_length
    wanted = [math.ceil(share * target - 1e-9) for share in shares]
    seen, done, size = np.zeros(target, dtype=np.bool_), 0, 16
    reached: list[int | None] = []
    while done < most:
        size = min(size, most - done)
        for position_ids in _batches(sampler, done, done + size):
            intervals = _intervals(position_ids)
            for i, positions in enumerate(position_ids):
                if intervals is None:
                    seen |= _shown(positions, target)
                else:
                    for low, high in zip(intervals[0][i].tolist(), intervals[1][i].tolist(), strict=True):
                        seen[low:high] = True
                count = np.count_nonzero(seen)
                while count >= wanted[len(reached)]:
                    reached.append(done + i + 1)
                    if len(reached) == len(shares):
                        return reached
            done += len(position_ids)
        size = min(2 * size, 4096)
    return [*reached, *[None] * (len(shares) - len(reached))]


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
    chances = seen_probability(sampler)
    if not chances.all():
        raise _never(sampler, chances)
    return _fewest(1 - chances, 1 - probability)


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
    chances = seen_probability(sampler)
    shown = chances[chances > 0]
    rest = (1 - share) * len(chances) - (len(chances) - len(shown))  # distances that may be missed, of those shown
    if rest <= 0:
        raise _never(sampler, chances)
    return _fewest(1 - shown, rest)


def _fewest(missed: Counts, rest: float) -> int:
    """The least n, 1 or more, with Σ missed^n ≤ rest."""
    if not missed.any():
        return 1
    plenty = math.ceil(math.log(rest / len(missed)) / math.log(missed.max()))  # here even the largest term is enough
    return bisect.bisect_left(range(plenty), True, key=lambda n: bool((missed**n).sum() <= rest))


def _never(sampler: Sampler, chances: Counts) -> SkipwiseError:
    some = chances[sampler.train_length :].any()
    never = "some distances" if some else f"a distance of {sampler.train_length} or more"
    return SkipwiseError(f"sampler {sampler.name!r} never shows {never}: use pose with 2 chunks")


@functools.lru_cache(maxsize=8)  # two numbers of one table ask for the same chances, a second's work at 131,072
def seen_probability(sampler: Sampler, *, exact: bool = False) -> Counts:
    """Compute q(d), the chance that one example has a pair at distance d.

    Args:
        sampler: The sampler.
        exact: Take no lower bound. Without it there is one for `pose` with three chunks or more, exact at T - 1.

    Returns:
        Chances, (T,), not to be written to.

    Raises:
        SkipwiseError: There is no formula for this sampler.
    """
    method = sampler.method
    for formula in (method.chances, None if exact else method.lower_bound):
        chances = None if formula is None else formula(sampler)
        if chances is not None:
            chances.setflags(write=False)
            return chances
    raise SkipwiseError(f"no formula for sampler {sampler.name!r}: use pose, or count with distance_counts")


def longest_distance_chance(sampler: Sampler) -> float:
    """Compute the chance that one example of `pose` shows distance T - 1: its last chunk must have the largest skip."""
    return float(skip_law(sampler.target_length - sampler.train_length, sampler.chunks - 1)[-1])
