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

from skipwise.evals.intervals import TAIL, Interval, share_interval
from skipwise.evals.rows import Row
from skipwise.evals.task import Cell, Inputs, Question, Task
from skipwise.evals.tasks import passkey
from skipwise.utils import progress
from skipwise.utils.text import length_text

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
    measured = [k for k in spaced if k >= minimum]
    if len(measured) < len(spaced):
        progress.say(
            f"k_max: distances under {length_text(minimum)} tokens cannot hold a prompt; "
            f"{length_text(measured[0])} is the first measured"
        )
    return [Cell(length, settings.trials, passkey.ANSWER_TOKENS, 1 - k / length, distance=k) for k in measured]


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The prompt about the key of one trial, at the distance of the cell."""
    assert cell.distance is not None
    generator = np.random.default_rng([inputs.settings.seed, cell.length, trial])
    asked = passkey.ask(inputs, str(generator.integers(10_000, 100_000)), 0.0, cell.distance)
    return asked._replace(unit=f"key {trial}")


def k_max(shares: npt.NDArray[np.float64], spaced: Sequence[int]) -> int:
    """The largest distance up to which every one has a share of at least 20 %; 0 where the first has less.

    Args:
        shares: Share of the keys that the model found at each distance, (D,).
        spaced: The distances in tokens, ascending, (D,).
    """
    enough = np.append(shares >= SHARE - 1e-9, False)
    reached = int(enough.argmin())
    return spaced[reached - 1] if reached else 0


def interval(scores: npt.NDArray[np.float64], spaced: Sequence[int]) -> Interval:
    """Interval of `k_max` that holds for at least 95 % of draws of the keys, whatever they have in common.

    The lower end is the last distance, from the first on, at which the exact interval of the share found lies at 20 %
    or above: tests in a fixed order, which stop at the first that fails, need no correction (Maurer, Hothorn &
    Lehmacher 1995). The upper end is the distance before the first one at which it lies below 20 %, each test at 2.5 %
    over the number of distances. Few keys set no upper end: of ten, none found is no proof of less than 20 %. A
    bootstrap over keys covers 56 % for ten keys whose share falls from 95 to 5 % over the target.

    Args:
        scores: 0 or 1 for each distance and key (D, T).
        spaced: The distances (D,) in tokens, ascending.
    """
    right, keys = scores.sum(axis=1).round().astype(int).tolist(), scores.shape[1]
    ends = {
        count: (share_interval(count, keys), share_interval(count, keys, TAIL / len(spaced))) for count in set(right)
    }
    low = k_max(np.array([ends[count][0].low for count in right]), spaced)
    high = k_max(np.array([ends[count][1].high for count in right]), spaced)
    return Interval(low, high, "exact tests, at least 95%")


def summarise(inputs: Inputs, rows: Sequence[Row]) -> list[Row]:
    """The row with k_max, from the rows of all distances and the one over all of them."""
    cells = sorted((row for row in rows if row.depth is not None), key=lambda row: row.distance or 0)
    [whole] = [row for row in rows if row.depth is None]
    spaced = [row.distance or 0 for row in cells]
    scores = np.array([row.scores for row in cells], dtype=np.float64)  # (D, T)
    ends = interval(scores, spaced)
    figures = {"value": k_max(scores.mean(axis=1), spaced), "low": ends.low, "high": ends.high, "interval": ends.name}
    return [whole.replace(metric="k_max", **figures, distances=spaced, scores=[], units=[], depths=None)]


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
