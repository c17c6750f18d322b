"""Divide the measurements of one evaluation among the processes of a job.

Every process takes the largest piece that nobody has taken, measures it, and writes its rows into a file of its own, in
a hidden folder beside the file of rows. When all pieces are measured, the first process writes the rows into that file,
in the order in which one process would have written them.
"""

import contextlib
import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from skipwise.evals import rows

if TYPE_CHECKING:
    from skipwise.evals.session import Session
    from skipwise.evals.task import LocalPlan
    from skipwise.training.processes import Team

T = TypeVar("T")


class Piece(NamedTuple):
    """What one process measures without the others."""

    tokens: int
    """About how many are read; the largest pieces are taken first."""
    measure: Callable[[], object]
    """Leaves its rows in the session. Does nothing where they are finished."""


def split(items: Sequence[T], count: int) -> list[list[T]]:
    """Cut a list into at most `count` parts of neighbours, none empty, whose sizes differ by one at most."""
    count = min(count, len(items))
    ends = [len(items) * i // count for i in range(count + 1)] if count else [0]
    return [list(items[start:stop]) for start, stop in itertools.pairwise(ends)]


def _folder(out: Path) -> Path:
    """Where processes leave what they measured until the first one has written it to `out`."""
    return out.with_name(f".{out.name}.parts")


def adopt(out: Path) -> None:
    """Move rows that an interrupted job left in files of its processes into the file of rows."""
    folder = _folder(out)
    if not folder.is_dir():
        return
    known = {row.identity for row in rows.read(out)}
    for path in sorted(folder.glob("*/rows-*.jsonl")):
        for row in rows.read(path):
            if row.identity not in known:
                known.add(row.identity)
                rows.append(out, row)
    shutil.rmtree(folder)


@contextlib.contextmanager
def divided(session: "Session", plans: Sequence["LocalPlan"], out: Path, team: "Team | None") -> Iterator[bool]:
    """Measure with the other processes of the job, before the block.

    Args:
        session: Of one model, in this process.
        plans: The same tasks in every process.
        out: File of rows.
        team: The processes; None for one.

    Yields:
        Whether this process goes on: it has all rows in its session. The others have left theirs in files.

    Raises:
        Ended: Another process ended with an error.
    """
    if team is None or team.place.size == 1:
        yield True
        return
    name = team.name("evaluation")
    folder = _folder(out) / name
    folder.mkdir(parents=True, exist_ok=True)
    session.leave_in(folder, team.place.rank)
    pieces = [piece for plan in plans for piece in plan.pieces(team.place.size)]
    order = sorted(pieces, key=lambda piece: -piece.tokens)  # stable: the same in every process
    while (i := team.take(name)) < len(order):
        order[i].measure()
    team.arrive(name)
    if not team.first:
        yield False
        return
    team.meet(name)
    session.collect()
    yield True
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # the others may be measuring the next model already
        folder.parent.rmdir()
