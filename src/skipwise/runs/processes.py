"""How many processes the environment announces."""

import os

from skipwise.errors import SkipwiseError

SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables in which launchers write the number of processes, as accelerate reads them."""


def refuse_several_processes() -> None:
    """Refuse to train where the environment announces several processes: torch would wait for the others without end.

    Raises:
        SkipwiseError: A launcher started this process as one of several, or a variable says so.
    """
    for name in SIZES:
        value = os.environ.get(name, "").strip() or "1"
        if value != "1":
            raise SkipwiseError(
                f"{name}={value} in the environment announces several processes, and Skipwise trains in one; "
                f"unset {name}, and start without torchrun, accelerate launch or mpirun"
            )
