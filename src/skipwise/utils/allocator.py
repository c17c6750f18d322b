"""Keep freed memory in the process while a model trains on a CPU.

By default the C library gives large freed blocks back to the system, which fills them with zeros when they are asked
for again. Every temporary tensor of a training step pays for that. `python benchmarks/training.py` measures what it
costs.
"""

import contextlib
import ctypes
import os
import platform
from collections.abc import Iterator

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Parameters of glibc's `mallopt` (malloc.h)."""
_GROW_BYTES = 64 * 2**20
_USERS = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Variables with which a user has chosen already."""


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory for the next tensors inside the block, and give it back at its end.

    It changes nothing where the C library is not glibc, and where the user's environment sets it up.
    """
    if platform.libc_ver()[0] != "glibc" or any(name in os.environ for name in _USERS):
        yield
        return
    library = ctypes.CDLL(None)
    library.mallopt(_MMAP_MAX, 0)
    library.mallopt(_TRIM_THRESHOLD, -1)
    library.mallopt(_TOP_PAD, _GROW_BYTES)
    try:
        yield
    finally:
        library.malloc_trim(0)
