"""Read what a report shows: a run folder (config.yaml, environment.json, log.jsonl, results.jsonl), or rows alone.

Of a run only the configuration must be there. A file that is there must be whole: the first bad line is an error that
names it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from skipwise.config import DEFAULT_TRAIN_LENGTH, RunConfig, read_yaml, validate
from skipwise.errors import SkipwiseError
from skipwise.evals import rows
from skipwise.evals.rows import Row


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Environment(_Read):
    """environment.json; the costs are missing while a run is still going."""

    skipwise: str | None = None
    torch: str | None = None
    transformers: str | None = None
    python: str | None = None
    device: str | None = None
    commit: str | None = None
    dirty: bool = False
    train_seconds: float | None = None
    train_tokens: int | None = None
    peak_memory_bytes: int | None = None
    parameters: int | None = None
    trained_parameters: int | None = None
    original_length: int | None = None
    quantised_from: str | None = None
    rope: dict[str, Any] = {}
    layers: list[str] = []
    """What the extension does not reach or change in the model's layers."""
    conversations: list[str] = []
    """What the run learned from beside text, one line for each store of conversations."""


class LogRow(_Read):
    """A line of log.jsonl: after which step it was written, and seconds of training by then."""

    step: int
    seconds: float


L = TypeVar("L", bound=LogRow)


class TrainRow(LogRow):
    """What training has come to: the loss (nats a label), the learning rate and the tokens met so far."""

    loss: float
    learning_rate: float | None = None
    tokens: int


class ValidationRow(LogRow):
    """Losses of held-out examples (nats a label), at skipped positions and at plain ones."""

    loss_skipped: float
    loss_plain: float


@dataclass(frozen=True)
class Run:
    """A run folder, read.

    The results are those of results.jsonl, the training that of log.jsonl.
    """

    folder: Path
    name: str
    config: RunConfig
    environment: Environment | None
    train: list[TrainRow]
    """By step."""
    validation: list[ValidationRow]
    """By step."""
    results: list[Row]
    """Of each task and variant those that were measured as the last one was."""
    outdated: int
    """How many other results there are."""

    @property
    def original_length(self) -> int | None:
        """Window before the extension, tokens; None where it is not written."""
        known = self.environment.original_length if self.environment else None
        measured = self.results[0].original_length if self.results else None
        return known or measured or self.config.model.original_length

    @property
    def train_length(self) -> int:
        """Tokens of a training example."""
        target = self.config.target_length
        return self.config.training.train_length or min(self.original_length or target, target, DEFAULT_TRAIN_LENGTH)

    @property
    def steps_done(self) -> int:
        """Steps that the log holds."""
        return self.train[-1].step if self.train else 0

    @property
    def finished(self) -> bool:
        """Whether all steps are done or the model is written."""
        return (self.folder / "model").is_dir() or self.steps_done >= self.config.training.steps

    @property
    def cost(self) -> dict[str, Any]:
        """Steps, tokens, seconds and peak memory of training; None where unknown."""
        environment = self.environment or Environment()
        last = self.train[-1] if self.train else None
        return {
            "steps": self.steps_done,
            "planned_steps": self.config.training.steps,
            "tokens": environment.train_tokens or (last.tokens if last else None),
            "seconds": environment.train_seconds or (last.seconds if last else None),
            "peak_memory_bytes": environment.peak_memory_bytes,
        }

    def latest(self, model: str) -> list[Row]:
        """Rows of one model in the state in which it was measured last."""
        rows = [row for row in self.results if row.model == model]
        return [row for row in rows if row.fingerprint == rows[-1].fingerprint]

    def totals(self, task: str, model: str) -> dict[int, Row]:
        """Rows over all depths by length, of the last measured fingerprint and variant of that model."""
        whole = [row for row in self.results if (row.task, row.model, row.depth) == (task, model, None)]
        alike = [r for r in whole if (r.fingerprint, r.variant) == (whole[-1].fingerprint, whole[-1].variant)]
        return {row.length or 0: row for row in sorted(alike, key=lambda row: row.length or 0)}

    def at_target(self, task: str) -> tuple[Row | None, Row] | None:
        """(before, after) at the longest measured length up to the target; None where the extended has no row."""
        after = self.totals(task, "extended")
        length = max((length for length in after if length <= self.config.target_length), default=None)
        if length is None:
            return None
        before = self.totals(task, "original").get(length)
        return before if before and before.variant == after[length].variant else None, after[length]


@dataclass(frozen=True)
class Rows:
    """A file of rows alone, as `skipwise eval --out` writes it, of any models."""

    path: Path
    name: str
    results: list[Row]
    """As in `Run`."""
    outdated: int


def read_rows(path: Path, name: str) -> Rows:
    """Read a file of rows.

    Args:
        path: File that `skipwise eval --out` wrote.
        name: What the page calls it.

    Raises:
        SkipwiseError: for a file without rows, or with a line that holds none.
    """
    results, outdated = _results(path, one_text=False)
    if not results:
        raise SkipwiseError(f"{path} holds no rows; expected a file that `skipwise eval --out` wrote")
    return Rows(path, name, results, outdated)


def _results(path: Path, *, one_text: bool) -> tuple[list[Row], int]:
    """(rows, how many others): of each task and variant those that were measured as the last one was.

    `one_text`: on the same texts too, as the models of a run are; those of a file of rows may have other tokenizers.
    """
    every = [rows.parse(values, place) for place, values in _lines(path)]
    settings = {(row.task, row.variant): _settings(row) for row in every}
    texts = {(row.task, row.variant, one_text or row.model): _texts(row) for row in every}
    current = [
        row
        for row in every
        if _settings(row) == settings[row.task, row.variant]
        and _texts(row) == texts[row.task, row.variant, one_text or row.model]
    ]
    return list({row.key: row for row in current}.values()), len(every) - len(current)


def _settings(row: Row) -> tuple[Any, ...]:
    """How a row was measured; rows in which this differs are not compared."""
    return (row.task_version, row.seed, row.chat, row.answer_tokens, row.stride, row.fewshot, row.limit)


def _texts(row: Row) -> tuple[Any, ...]:
    """What a row was measured on, which may differ with a model's tokenizer."""
    return (tuple(row.documents), row.bos, row.span)


def read_run(folder: Path, name: str) -> Run:
    """The run in `folder`. Errors: SkipwiseError for a folder that holds no run, or a file that cannot be read."""
    if not (folder / "config.yaml").is_file():
        missing = "has no config.yaml" if folder.is_dir() else "is no folder"
        raise SkipwiseError(f"{folder} {missing}; expected the folder of a run or a file of rows")
    results, outdated = _results(folder / "results.jsonl", one_text=True)
    return Run(
        folder=folder,
        name=name,
        config=validate(RunConfig, read_yaml(folder / "config.yaml"), str(folder / "config.yaml")),
        environment=_environment(folder / "environment.json"),
        train=_log(folder / "log.jsonl", "train", TrainRow),
        validation=_log(folder / "log.jsonl", "validation", ValidationRow),
        results=results,
        outdated=outdated,
    )


def _lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of every whole line; a last line that a killed process left unfinished is passed over."""
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [(f"{path} line {i}", _object(line, f"{path} line {i}")) for i, line in enumerate(lines, 1) if line.strip()]


def _object(text: bytes, place: str) -> dict[str, Any]:
    shown = text[:40].decode(errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SkipwiseError(f"{place} is not JSON ({shown!r}); remove it and write the report again") from error
    if not isinstance(value, dict):
        raise SkipwiseError(f"{place} is {shown!r}, expected a JSON object; remove it and write the report again")
    return value


def _log(path: Path, kind: str, model: type[L]) -> list[L]:
    """Rows of one kind by step; a resumed run wrote some steps twice, of which the later counts."""
    rows = [validate(model, row, place) for place, row in _lines(path) if row.get("kind") == kind]
    return sorted({row.step: row for row in rows}.values(), key=lambda row: row.step)


def _environment(path: Path) -> Environment | None:
    return validate(Environment, _object(path.read_bytes(), str(path)), str(path)) if path.exists() else None
