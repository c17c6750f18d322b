"""log.jsonl of a run: losses, learning rate and time by step."""

import math
import re
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from skipwise.utils.atomic_files import append_jsonl
from skipwise.utils.progress import Bar

VALIDATION = ("skipped", "plain")
"""The validation losses of one row: at skipped positions, and at positions as in inference."""


class TrainingLog(TrainerCallback):  # type: ignore[misc]
    """Appends a row for every logged step and every validation to log.jsonl, and moves the progress bar.

    Args:
        path: The file.
        bar: Progress in steps.
        tokens_per_step: Tokens that one optimiser step learns from.
        seconds: Time that the training took before it was resumed.
        write: Whether this process writes the file; one of several does.
    """

    def __init__(self, path: Path, bar: Bar, tokens_per_step: int, seconds: float, *, write: bool = True) -> None:
        self.path, self.bar, self.tokens_per_step, self.write = path, bar, tokens_per_step, write
        self.seconds_before, self.started = seconds, time.monotonic()
        self.validation: dict[str, float] = {}

    def seconds(self) -> float:
        """Return the time of the training so far, without pauses between runs."""
        return round(self.seconds_before + time.monotonic() - self.started, 2)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar. Log the last step; ask for a last validation, so that what diverges at its end is not saved."""
        self.bar.advance(1)
        if state.global_step >= state.max_steps:
            control.should_log = control.should_evaluate = True

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Show that a step of many batches is under way."""
        self.bar.refresh()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write a row once its figures are complete: the two validation losses arrive one by one."""
        logs = logs or {}
        if "loss" in logs:
            figures = {key: logs[key] for key in ("loss", "learning_rate", "grad_norm") if key in logs}
            self._append(state.global_step, "train", figures | {"tokens": state.global_step * self.tokens_per_step})
            self.bar.note(f"loss {logs['loss']:.3f}")
        self.validation |= {key: value for key, value in logs.items() if re.fullmatch(r"eval_\w+_loss", key)}
        if len(self.validation) == len(VALIDATION):
            losses = {f"loss_{name}": self.validation[f"eval_{name}_loss"] for name in VALIDATION}
            self.validation = {}
            if all(map(math.isfinite, losses.values())):  # the trainer reports the others
                self._append(state.global_step, "validation", losses)

    def _append(self, step: int, kind: str, figures: dict[str, Any]) -> None:
        if self.write:
            append_jsonl(self.path, {"step": step, "kind": kind, **figures, "seconds": self.seconds()})
