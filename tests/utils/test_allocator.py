"""Memory that training keeps: fewer pages are asked of the system, and it is given back at the end."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import contextlib, ctypes, resource, sys
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a huge page is asked for once, too, but is one page
import torch
from skipwise.utils.allocator import kept_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 * 2**20)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.ones(4)
plain = faults()
with kept_memory():
    kept = min(faults() for _ in range(5))  # the first rounds make holes that fit, and the heap may move once more
pages = int(open("/proc/self/statm").read().split()[1])
print(plain, kept, pages * 4096 / 2**20)
"""


def figures(**variables: str) -> list[float]:
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=True, env={**os.environ, **variables}
    )
    return [float(word) for word in done.stdout.split()]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or not Path("/proc/self/statm").exists(), reason="Linux, glibc")
def test_pages_are_asked_for_once() -> None:
    plain, kept, resident = figures()
    assert plain > 10 * 16_000, "each tensor of 64 MiB has 16,384 pages"
    assert kept < plain / 20
    chosen_plain, chosen_kept, before = figures(MALLOC_TOP_PAD_="0")  # the user has set up the allocator
    assert chosen_kept > 0.9 * chosen_plain
    assert resident < before + 40, "the memory was given back"
