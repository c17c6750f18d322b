"""The place of this process among those of one job, as a launcher wrote it into the environment.

`torchrun`, `accelerate launch` and `skipwise extend --processes N` start the same command several times. All processes
train; the first one alone does everything else, and it alone prints.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from skipwise.errors import SkipwiseError

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which launchers write the number of processes, as accelerate reads them."""
NEEDED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables beside WORLD_SIZE that torch needs to find the other processes."""
HIDDEN = ("WORLD_SIZE", "LOCAL_RANK")
"""Variables by which libraries notice a launcher."""


@dataclass(frozen=True)
class Place:
    """A process of a job.

    Attributes:
        rank: Its number, from 0.
        size: Number of processes.
        launched: Whether a launcher started it, be it as the only one.
    """

    rank: int = 0
    size: int = 1
    launched: bool = False


class _State:
    """What this process knows about itself while the environment does not say it."""

    hidden: Place | None = None
    speaking = False


def place() -> Place:
    """Return the place of this process.

    Raises:
        SkipwiseError: The environment announces several processes, and does not say how to find them.
    """
    if _State.hidden is not None:
        return _State.hidden
    sizes = {name: os.environ.get(name, "").strip() or "1" for name in SIZES}
    several = next((name for name, size in sizes.items() if size != "1"), None)
    launched = all(os.environ.get(name, "").strip() for name in ("WORLD_SIZE", *NEEDED))
    if not launched:
        if several is None:
            return Place()
        raise SkipwiseError(
            f"{several}={sizes[several]} in the environment announces several processes, and {', '.join(NEEDED)} are "
            f"not all set; start with torchrun, accelerate launch or --processes, or unset {several}"
        )
    try:
        return Place(int(os.environ["RANK"]), int(sizes["WORLD_SIZE"]), launched=True)
    except ValueError as error:
        raise SkipwiseError("WORLD_SIZE and RANK in the environment: expected whole numbers; unset them") from error


def first() -> bool:
    """Tell whether this process prints: it is the first one of its job, the only one, or was asked to `speak`."""
    try:
        return _State.speaking or place().rank == 0
    except SkipwiseError:
        return True


def speak() -> None:
    """Let this process print, whatever its place: it has an error that the others do not know."""
    _State.speaking = True


@contextlib.contextmanager
def alone() -> Iterator[dict[str, str]]:
    """Hide the launcher from libraries in the block, so that none of them waits for the other processes.

    Yields:
        The hidden variables.
    """
    here = place()
    variables = {name: os.environ.pop(name) for name in HIDDEN if name in os.environ}
    _State.hidden = here
    try:
        yield variables
    finally:
        _State.hidden = None
        os.environ.update(variables)
