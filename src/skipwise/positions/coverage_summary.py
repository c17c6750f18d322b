"""One row of a table of coverage: what a sampler shows, exact where there is a formula, else sampled with its error.

NumPy only.
"""

import math
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from skipwise.errors import SkipwiseError
from skipwise.positions import coverage
from skipwise.positions.coverage import Counts
from skipwise.positions.layouts import Ints
from skipwise.positions.sampler import Sampler

SHARE = 0.99
"""Share of the distances that `Summary.most_seen` asks for."""
SEEDS = 72
"""Seeds of a simulation, the fewest that give the 0.95 quantile an upper end: from the 64th of them to the last."""
FEW_SEEDS = 5
"""Seeds of a simulation of scattered positions, which take long. They bound no quantile from above."""

# Tokens that a sampled chance and one run of a simulation may lay out. Scattered positions are dearer.
_SAMPLE, _RUN, _DEARER = 2**23, 2**20, 4
# Distances that one run of a simulation may look at, over all its examples.
_LOOKS = 2**31


@dataclass(frozen=True)
class Number:
    """A number of examples: exact without `low` and `high`, otherwise simulated with an interval of 95 %.

    `high` is infinite where there were too few runs for an upper end.
    """

    value: float
    """Infinite where no number of examples is enough."""
    low: float | None = None
    high: float | None = None
    at_least: bool = False
    """The simulation ended there: the number is larger."""


@dataclass(frozen=True)
class Summary:
    """What a sampler shows of the distances 0..T-1. L is its train_length, T its target_length."""

    sampler: Sampler
    chances: Counts
    """q(d), (T,): chance that one example shows distance d."""
    error: Counts | None
    """Half of the 95 % interval of each chance, (T,). None where they are exact."""
    origin: str
    """`exact` or `sampled`: where the chances come from."""
    most_seen: Number
    """Examples until a share `SHARE` of the distances was seen: of the mean share for a formula, else a median run."""
    all_seen: Number
    """Examples until all were seen with the probability asked for."""
    counted: int
    """Examples that `least` and `most` count."""
    least: int
    """Times that the least-seen distance of L or more was seen in them; 0 without such distances."""
    most: int
    """Times that the most-seen distance of L or more was seen in them."""


def summary(sampler: Sampler, *, examples: int = 1000, probability: float = 0.95) -> Summary:
    """Work out what a sampler shows.

    Args:
        sampler: The sampler.
        examples: Examples in which the least- and the most-seen distance are counted; fewer where they are long.
        probability: Probability that all distances are seen.

    Raises:
        SkipwiseError: A number that cannot work.
    """
    scattered = coverage.is_scattered(sampler)
    size = _DEARER * sampler.target_length if scattered else sampler.example_length
    counted = max(1, min(examples, _SAMPLE // size))
    times = coverage.examples_showing(sampler, examples=counted)
    chances, error = _chances(sampler, times, counted, max(16, min(20_000, _SAMPLE // size)))
    most_seen, all_seen = examples_needed(sampler, probability)
    beyond = times[sampler.train_length :]
    return Summary(
        sampler,
        chances,
        error,
        "exact" if error is None else "sampled",
        most_seen,
        all_seen,
        counted,
        int(beyond.min(initial=counted)) if len(beyond) else 0,
        int(beyond.max(initial=0)),
    )


def _chances(sampler: Sampler, times: Ints, counted: int, examples: int) -> tuple[Counts, Counts | None]:
    """q(d) and the half-width of its interval (Agresti and Coull's, which no count of 0 makes zero).

    `times` (T,) holds how many of the first `counted` examples show each distance.
    """
    try:
        return coverage.seen_probability(sampler, exact=True), None
    except SkipwiseError:
        pass
    n = max(examples, counted)
    more = coverage.examples_showing(sampler, examples=n - counted, first=counted) if n > counted else 0
    share = (times + more) / n
    centre = (share * n + 2) / (n + 4)
    return share, 1.96 * np.sqrt(centre * (1 - centre) / (n + 4)) + np.abs(centre - share)


def examples_needed(sampler: Sampler, probability: float = 0.95) -> tuple[Number, Number]:
    """Work out how many examples show a share `SHARE` of the distances, and all of them with a probability.

    The first is that of the mean share where there is a formula, else of a median run.

    Args:
        sampler: The sampler.
        probability: Probability that all distances are seen, between 0 and 1.
    """
    if sampler.method.independent:
        try:
            chances = coverage.seen_probability(sampler)
        except SkipwiseError:
            pass
        else:
            reached = float((chances > 0).mean())
            return (
                Number(coverage.examples_until_share(sampler, SHARE) if reached > SHARE else math.inf),
                Number(coverage.examples_until_seen(sampler, probability) if reached == 1 else math.inf),
            )
    scattered = coverage.is_scattered(sampler)
    size = _DEARER * sampler.target_length if scattered else sampler.example_length
    most = max(16, min(_RUN // size, _LOOKS // sampler.target_length))
    return _simulated(sampler, probability, most, FEW_SEEDS if scattered else SEEDS)


def _simulated(sampler: Sampler, probability: float, most: int, seeds: int) -> tuple[Number, Number]:
    """The median, over seeds, of the examples until most were seen, and the `probability` quantile of all seen.

    Three runs that do not see all in `most` examples end it.
    """
    runs: list[list[int | None]] = []
    for k in range(seeds):
        other = replace(sampler, seed=(sampler.seed + k) % 2**64)
        runs.append(coverage.examples_counted(other, [SHARE, 1.0], most=most))
        if sum(run[1] is None for run in runs) == 3:
            break
    return _quantile([run[0] for run in runs], 0.5, most), _quantile([run[1] for run in runs], probability, most)


def _quantile(runs: list[int | None], probability: float, most: int) -> Number:
    """A quantile of the runs, and its interval by order statistics: the ranks that the quantile has with 95 %.

    With K the number of runs below the quantile, which is binomial, the end of rank r is above it where K < r and below
    it where K ≥ r; each end is the closest one for which that has a chance of 2.5 % or less. Where no rank has, the
    interval has no such end: of the 0.95 quantile 72 runs have an upper one.
    """
    n, values = len(runs), sorted(math.inf if run is None else run for run in runs)
    value = values[math.ceil(probability * n) - 1]
    if value == math.inf:
        return Number(most, at_least=True)
    law = [math.comb(n, k) * probability**k * (1 - probability) ** (n - k) for k in range(n + 1)]
    fewer = [0.0, *accumulate(law)]  # P(K < r), r = 0..n + 1
    low = max(r for r in range(n + 1) if fewer[r] <= 0.025)
    high = min(r for r in range(1, n + 2) if 1 - fewer[r] <= 0.025)
    return Number(value, values[low - 1] if low else 1, values[high - 1] if high <= n else math.inf)
