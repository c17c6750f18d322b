"""SIGTERM as an orderly end of the program: clusters send it before they take a machine away."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

EXIT_CODE = os.EX_TEMPFAIL
"""75, "try again later" in sysexits.h."""


class Terminated(SystemExit):
    """SIGTERM arrived. Ends the program with `EXIT_CODE` unless caught.

    Args:
        state: What was saved, for the message to the user; may be empty.
    """

    def __init__(self, state: str = "") -> None:
        super().__init__(EXIT_CODE)
        self.state = state


class _Signal:
    """What the handler knows. One object, as a process has one handler."""

    arrived = False
    deferred = False


def _handler(number: int, frame: Any) -> None:
    _Signal.arrived = True
    if not _Signal.deferred:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # cleaning up is not interrupted by a second signal
        raise Terminated


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM arrives.

    Does nothing outside the main thread, and where the program handles or ignores SIGTERM already.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    _Signal.arrived = False
    signal.signal(signal.SIGTERM, _handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def deferred() -> Iterator[Callable[[], bool]]:
    """Hold `Terminated` back until the block ends.

    Yields:
        A function that says whether SIGTERM has arrived, so that the block can save its work and end early.
    """
    _Signal.deferred = True
    try:
        yield lambda: _Signal.arrived
    finally:
        _Signal.deferred = False
    if _Signal.arrived:
        raise Terminated
