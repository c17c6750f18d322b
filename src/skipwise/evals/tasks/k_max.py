"""The effective window as Position Interpolation measures it (arXiv 2306.15595, section 3.3).

A passkey stands k tokens from the end of the input, for k evenly spaced in the target window; k_max is the largest k
such that the key is found at least 20 % of the time at every k' ≤ k. Here the key stands at the start of the filler and
the input grows with k: k counts the whole input with the task description before the key and the room for the answer
behind it, so that k = target is the last input that the target window holds.

For every k the keys are independent draws. The same keys serve all distances, so that the inputs of a key are
beginnings of each other, but for the question: all distances cost one reading a key.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from skipwise.evals.intervals import RESAMPLES, Interval
from skipwise.evals.rows import Row
from skipwise.evals.task import Cell, Inputs, Question, Task
from skipwise.evals.tasks import passkey
from skipwise.utils import progress

SHARE = 0.2
"""Of the keys that must be found, by definition."""


def distances(length: int, number: int) -> list[int]:
    """`number` distances evenly spaced in the window `length`, which is the last one."""
    return sorted({round(i * length / number) for i in range(1, number + 1)} - {0})


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """One cell a distance: `depth` is 1 - k / length, the key's place in a document of the whole length."""
    settings, minimum = inputs.settings.k_max, passkey.minimum_length(inputs)
    passkey.cells(inputs, length)  # refuses a length that is too short
    spaced = distances(length, settings.distances)
    kept = [k for k in spaced if k >= minimum]
    if len(kept) < len(spaced):
        progress.say(f"k_max: distances under {minimum} tokens cannot hold a prompt; {kept[0]} is the first measured")
    return [Cell(length, settings.trials, passkey.ANSWER_TOKENS, 1 - k / length, distance=k) for k in kept]


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    assert cell.distance is not None
    generator = np.random.default_rng([inputs.settings.seed, cell.length, trial])
    return passkey.ask(inputs, str(generator.integers(10_000, 100_000)), 0.0, cell.distance)


def k_max(found: npt.NDArray[np.float64], spaced: Sequence[int]) -> int:
    """The largest distance up to which every one has a share of at least 20 %; 0 where the first has less.

    `found` (D,) is the share of keys found at each of the distances `spaced`, which ascend.
    """
    enough = np.append(found >= SHARE - 1e-9, False)
    reached = int(enough.argmin())
    return spaced[reached - 1] if reached else 0


def interval(scores: npt.NDArray[np.float64], spaced: Sequence[int], seed: Sequence[int]) -> Interval:
    """95 % percentile bootstrap of `k_max` over keys, each drawn with all its distances. `scores` (D, T) are 0 or 1."""
    keys = scores.shape[1]
    weights = np.random.default_rng(list(seed)).multinomial(keys, np.full(keys, 1 / keys), size=RESAMPLES)  # (R, T)
    values = [k_max(found, spaced) for found in weights @ scores.T / keys]
    low, high = np.quantile(values, [0.025, 0.975], method="inverted_cdf")
    return Interval(float(low), float(high), "bootstrap 95%")


def summarise(inputs: Inputs, rows: Sequence[Row]) -> list[Row]:
    """The row with k_max, from the rows of all distances and the one over all of them."""
    cells = sorted((row for row in rows if row.depth is not None), key=lambda row: row.distance or 0)
    [whole] = [row for row in rows if row.depth is None]
    spaced = [row.distance or 0 for row in cells]
    scores = np.array([row.scores for row in cells], dtype=np.float64)  # (D, T)
    ends = interval(scores, spaced, [whole.seed or 0, whole.length or 0])
    figures = {"value": k_max(scores.mean(axis=1), spaced), "low": ends.low, "high": ends.high, "interval": ends.name}
    return [whole.replace(metric="k_max", **figures, distances=spaced, scores=[], depths=None)]


TASK = Task(
    name="k_max",
    version=1,
    metric="accuracy",
    cells=cells,
    question=question,
    score=passkey.TASK.score,
    ended=passkey.TASK.ended,
    summarise=summarise,
    largest_only=True,
)
