"""A served model against the same model in this process, so that a broken deployment shows.

NumPy only, because a page needs it.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from skipwise.evals.paired_change import change, pairs
from skipwise.evals.rows import Row
from skipwise.utils.text import length_text

SUFFIX = " (served)"
"""What the label of a served model ends in."""

Key = TypeVar("Key", bound=Hashable)


def partner(served: Sequence[Row], models: Mapping[Key, Sequence[Row]]) -> Key | None:
    """Find the model in this process that a served one is compared with.

    Args:
        served: Rows of the served model.
        models: Rows of every model by a key.

    Returns:
        The key of a model that read the same prompts: the one of the same name, else of the same scaling, else the
        last; None where there is none.
    """
    row = served[0]

    def fitness(candidate: Row) -> tuple[bool, bool]:
        return candidate.model == row.model.removesuffix(SUFFIX), candidate.scaling == row.scaling

    known = [key for key, rows in models.items() if rows and not rows[0].served and any(pairs(rows, served))]
    return max(reversed(known), key=lambda key: fitness(models[key][0]), default=None)


def finding(local: Sequence[Row], served: Sequence[Row]) -> str:
    """Say in one sentence whether a deployment answers as the model in this process does.

    Args:
        local: Rows of the model in this process.
        served: Rows of the served model.

    Returns:
        Where the served model is worse, by length; or that it is nowhere.
    """
    paired = [(after.length, change(before, after)) for before, after in pairs(local, served) if after.depth is None]
    decided = [(length, one.verdict) for length, one in paired if length and one and not one.few]
    compared = sorted({length for length, _ in decided})
    worse = sorted({length for length, verdict in decided if verdict == "worse"})
    name, other = served[0].model.removesuffix(SUFFIX), local[0].model
    title = f"{name} served against in process" if name == other else f"{name} served against {other} in process"
    if not compared:
        return f"{title}: nothing was measured that decides"
    original = local[0].original_length
    if not worse:
        return f"{title}: no worse at any of {len(compared)} lengths up to {length_text(compared[-1])} tokens"
    where = ", ".join(length_text(length) for length in worse)
    line = f"{title}: worse at {where} tokens"
    beyond = [length for length in compared if length > original]
    if beyond and worse == beyond:
        line += f", all lengths beyond the original window of {length_text(original)}"
        line += ", as where a server does not read the scaling"
    elif worse == compared[-len(worse) :] and len(worse) < len(compared):
        line += f" and not at {length_text(compared[-len(worse) - 1])}, as with a shorter window"
    return line
