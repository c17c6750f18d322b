"""Start this program several times on one machine, as the processes of one job."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

from skipwise.utils.progress import say
from skipwise.utils.termination import EXIT_CODE, Terminated

GRACE_SECONDS = 10.0
"""Time in which the other processes notice that one is lost. One that waits for it in a GPU's library never does."""
SAVE_SECONDS = 600.0
"""Time to save and end after SIGTERM. Clusters kill a job much earlier."""
POLL_SECONDS = 0.1
LAUNCHER = "SKIPWISE_LAUNCHER"
"""Set in the processes of a job whose end this module reports."""


def launch(words: list[str], count: int, *, again: str = "run the same command with --resume") -> int:
    """Run `python -m skipwise` in several processes that can find each other, and wait for all of them.

    SIGTERM is passed on to them. When one fails, the others end by themselves or are killed.

    Args:
        words: The command line of each.
        count: Number of processes.
        again: How the user goes on after one was lost.

    Returns:
        The exit code: 0 when all succeeded, else that of the first that did not; 2 for one that a signal ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    threads = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // count)
    shared |= {"OMP_NUM_THREADS": threads, LAUNCHER: 1}
    workers: list[subprocess.Popen[bytes]] = []
    with _ended(workers):
        for rank in range(count):
            variables = {name: str(value) for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()}
            command = [sys.executable, "-m", "skipwise", *words]
            # A session of its own: Ctrl-C reaches this process, which passes it on once.
            workers.append(subprocess.Popen(command, env={**os.environ, **variables}, start_new_session=True))
        try:
            return _watch(workers, again)
        except (Terminated, KeyboardInterrupt) as end:
            _signal(workers, signal.SIGTERM if isinstance(end, Terminated) else signal.SIGINT)
            _wait(workers, SAVE_SECONDS)
            code = EXIT_CODE if isinstance(end, Terminated) else 2
            return code if any(worker.returncode for worker in workers) else 0


def _watch(workers: list[subprocess.Popen[bytes]], again: str) -> int:
    """Wait until all processes have ended well, or one has not."""
    while any(worker.poll() is None for worker in workers):
        failed = next((i for i, worker in enumerate(workers) if worker.poll()), None)
        if failed is not None:
            return _report(failed, workers, again)
        time.sleep(POLL_SECONDS)
    failed = next((i for i, worker in enumerate(workers) if worker.returncode), None)
    return 0 if failed is None else _report(failed, workers, again)


def _report(failed: int, workers: list[subprocess.Popen[bytes]], again: str) -> int:
    """Return the exit code of a process that failed, with a line about one that a signal ended."""
    code = workers[failed].returncode
    if code >= 0:
        return int(code)
    with contextlib.suppress(ValueError):
        say(
            f"skipwise: process {failed + 1} of {len(workers)} was ended by {signal.Signals(-code).name} (was the "
            f"memory full?); to go on, {again}"
        )
    return 2


@contextlib.contextmanager
def _ended(workers: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leave no process behind."""
    try:
        yield
    finally:
        _wait(workers, GRACE_SECONDS)
        _signal(workers, signal.SIGKILL)
        _wait(workers, GRACE_SECONDS)


def _signal(workers: list[subprocess.Popen[bytes]], number: int) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(number)


def _wait(workers: list[subprocess.Popen[bytes]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while any(worker.poll() is None for worker in workers) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
