"""Progress with its rate and the time left, on stderr so that results on stdout can be piped.

A terminal shows a live bar; a log gets a line every ten seconds.
"""

import contextlib
import sys
import time
from collections.abc import Iterator

from skipwise.utils import processes
from skipwise.utils.text import duration, quantity

PLAIN_INTERVAL = 10.0  # seconds between lines when stderr is not a terminal


class Bar:
    """Progress of one long piece of work. This base class shows nothing; its subclasses do.

    Args:
        description: What is done.
        total: Amount of work in `unit`s; None if unknown.
        unit: e.g. `step`, `B`.
        initial: What was done before, which the rate leaves out.
    """

    def __init__(self, description: str, total: float | None, unit: str, initial: float = 0) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self.initial = initial
        self.started = time.monotonic()
        self.text = ""

    def advance(self, amount: float = 1) -> None:
        """Add to what is done."""
        self.done += amount
        self.refresh()

    def note(self, text: str) -> None:
        """Set the text beside the bar."""
        self.text = text
        self.refresh()

    def rate(self) -> float:
        """Units a second since the start."""
        return (self.done - self.initial) / max(time.monotonic() - self.started, 1e-9)

    def status(self) -> str:
        """Describe rate, time left and note, e.g. `3.1 step/s · 1:20 left · loss 2.31`."""
        rate = self.rate()
        parts = [f"{quantity(rate, self.unit)}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s/{self.unit}"]
        if self.total and rate:
            parts.append(f"{duration((self.total - self.done) / rate)} left")
        return " · ".join([*parts, self.text] if self.text else parts)

    def refresh(self) -> None:
        """Show the present state."""

    def close(self) -> None:
        """Show the last state."""


class _PlainBar(Bar):
    """A line now and then, for logs."""

    def __init__(self, description: str, total: float | None, unit: str, initial: float = 0) -> None:
        super().__init__(description, total, unit, initial)
        self.printed = self.started

    def refresh(self) -> None:
        if time.monotonic() - self.printed >= PLAIN_INTERVAL:
            self.printed = time.monotonic()
            share = f" of {quantity(self.total, self.unit)}" if self.total else ""
            print(f"{self.description}: {quantity(self.done, self.unit)}{share} · {self.status()}", file=sys.stderr)

    def close(self) -> None:
        seconds = time.monotonic() - self.started
        done = quantity(self.done, self.unit)
        print(f"{self.description}: {done} in {duration(seconds)}", file=sys.stderr, flush=True)


class _RichBar(Bar):
    """A live bar on a terminal."""

    def __init__(self, description: str, total: float | None, unit: str, initial: float = 0) -> None:
        super().__init__(description, total, unit, initial)
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        self.live = Progress(*columns, TextColumn("{task.fields[status]}"), console=Console(stderr=True))
        self.live.start()
        self.task = self.live.add_task(description, total=total, completed=int(initial), status="")

    def refresh(self) -> None:
        self.live.update(self.task, completed=int(self.done), total=self.total, status=self.status())

    def close(self) -> None:
        self.live.stop()


@contextlib.contextmanager
def bar(description: str, *, total: float | None, unit: str, initial: float = 0, quiet: bool = False) -> Iterator[Bar]:
    """Show progress while the block runs, in the first process of a job.

    Args:
        description: As `Bar`.
        total: As `Bar`.
        unit: As `Bar`.
        initial: As `Bar`.
        quiet: Show nothing.

    Yields:
        The bar, whose `advance` and `note` the block calls.
    """
    kind: type[Bar] = Bar if quiet or not processes.first() else (_RichBar if sys.stderr.isatty() else _PlainBar)
    shown = kind(description, total, unit, initial)
    try:
        yield shown
    finally:
        shown.close()


def say(text: str) -> None:
    """Print one line for the user, on stderr. The first process of a job does it for all."""
    if processes.first():
        print(text, file=sys.stderr, flush=True)
