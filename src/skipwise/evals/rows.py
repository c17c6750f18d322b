"""The rows of results.jsonl: one frozen type, what identifies a row, reading and writing.

Light enough for a report: nothing here needs torch or NumPy.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from skipwise.config import validate
from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import append_jsonl, read_jsonl_lines


class Row(BaseModel):
    """One result: which model, what was measured and how, and its figures.

    A task first makes a row without figures and without a model, the header. `identity` of that header, with the
    model's columns, finds a finished row; only what is missing is measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    # Which model
    model: str = ""
    """Label of the model, unique among the models of one evaluation."""
    path: str = ""
    fingerprint: str = ""
    """Digest of the weights."""
    window: int = 0
    """Tokens that the model is configured for."""
    original_length: int = 0
    """Tokens of the window that it was pre-trained with."""
    scaling: dict[str, Any] | None = None
    """RoPE scaling; None for plain RoPE."""
    quantised_from: str | None = None
    """Type of the GGUF weights that the model was dequantised from."""
    dtype: str | None = None
    served: str | None = None
    """Name and version of the server that answered, as far as it tells; None for a model in this process."""

    # What was measured
    task: str
    task_version: int | None = None
    variant: str | None = None
    """Variant of the task: `prefix` or `sliding` of perplexity, `niah_single_1` of RULER, a benchmark of lm-eval."""
    length: int | None = Field(default=None, ge=1)
    """Tokens, room for an answer included; None for a row that has no one length, such as a short benchmark."""
    start: int | None = Field(default=None, ge=0)
    """Perplexity between two lengths: the shorter of them. The row scores the tokens from `start` to `length`."""
    depth: float | None = None
    """Where what is asked for stands, 0 (start) to 1 (end); None for a row over all depths."""
    distance: int | None = Field(default=None, ge=1)
    """k_max: tokens from the key to the end of the answer."""
    metric: str
    n: int = Field(ge=0)
    """Prompts, documents or questions."""

    # How
    seed: int | None = None
    bos: bool | None = None
    chat: bool | None = None
    answer_tokens: int | None = None
    stride: int | None = None
    span: int | None = None
    fewshot: int | None = None
    limit: int | None = None
    benchmark_version: str | None = None
    threshold: float | None = None
    """RULER's effective length: the average that a length must reach."""
    depths: list[float | None] | None = None
    """Depths that a row over all of them was made from."""
    distances: list[int] | None = None
    """k_max: distances that it was made from."""
    tasks: list[str] | None = None
    """An average or a difference: the variants that it was made from."""
    documents: list[str] = []
    """Names of the documents of a perplexity."""
    evaluator: str | None = None
    """longppl: the model that chose the key tokens, as given."""
    data: str | None = None
    """Digest of the prompts and right answers, or of the texts, as tokens."""
    overlap: float | None = None
    """Share of the passages of the task's texts that stand in the training text too; None where nobody looked."""

    # Figures
    value: float = float("nan")
    low: float | None = None
    high: float | None = None
    interval: str | None = None
    """Name of the 95 % interval from `low` to `high`; None where there is none."""
    chance: float | None = None
    """What guessing would score; None where there is no such level."""
    tokens: float | None = None
    """Mean length of the prompts or, for a perplexity, how many tokens were scored."""
    seconds: float | None = None
    beyond_window: bool = False
    """Whether more tokens were read than the model is configured for."""
    cut: int = 0
    """Prompts that a server did not read whole. They count as wrong."""
    scores: list[float] = []
    """Score of each prompt, which comparisons are paired on."""
    units: list[str] = []
    """What each prompt is about, such as `list 0`, where several share a text; intervals and changes are over these."""
    sums: list[float] = []
    """Loss (nats) of each document, or block of one."""
    counts: list[int] = []
    """Tokens of each document, or block of one."""
    block_sums: list[list[float]] = []
    """Loss (nats) of the blocks of each document, where there are several documents."""
    block_counts: list[list[int]] = []
    """Tokens of the blocks of each document."""
    answers: list[Any] = []
    """(right answers, answer) of each prompt."""

    @field_validator("value")
    @classmethod
    def _positive_perplexity(cls, value: float, info: ValidationInfo) -> float:
        if value < 0 and info.data.get("metric") == "perplexity":
            raise ValueError("a perplexity is not negative")
        return value

    def replace(self, **changes: Any) -> "Row":
        """The row with other values in some fields."""
        return Row(**{**self.__dict__, **changes})

    @property
    def identity(self) -> str:
        """All that is known of a row before it is measured, as text. Two rows of one identity have one value."""
        return json.dumps([getattr(self, column) for column in (*MODEL, *SETUP)])

    def setup(self, without: Sequence[str] = ()) -> str:
        """What was measured and how, as text; rows of two models are paired where it is the same."""
        return json.dumps([getattr(self, column) for column in SETUP if column not in without])

    @property
    def place(self) -> tuple[str, str | None, str, int, int]:
        """(task, variant, metric, start, length): the place of a row in a table, 0 for no start or length."""
        return self.task, self.variant, self.metric, self.start or 0, self.length or 0

    @property
    def key(self) -> tuple[Any, ...]:
        """Model, place and depth; of rows with one key the last one counts."""
        return (self.model, self.fingerprint, *self.place, self.depth)

    @property
    def plain(self) -> dict[str, Any]:
        """The row as it is written: fields that have their default are left out, but for those of every row."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name in ALWAYS or value != Row.model_fields[name].default
        }


MODEL = ("model", "fingerprint", "window", "original_length", "scaling", "quantised_from", "dtype")
"""Columns that say which model was measured."""
SETUP = (
    *("task", "task_version", "variant", "length", "depth", "distance", "metric", "n", "seed"),
    *("bos", "chat", "answer_tokens", "data", "start", "stride", "span", "depths"),
)
"""Columns that say what was measured and how; rows in which one of them differs are not paired."""
REQUIRED = ("model", "window", "original_length", "task", "metric", "value", "n")
"""Columns without which a line of a file is refused."""
ALWAYS = (
    *("model", "path", "fingerprint", "window", "original_length", "scaling", "dtype", "task", "task_version"),
    *("variant", "length", "depth", "metric", "value", "low", "high", "interval", "n", "tokens", "seed", "seconds"),
    "beyond_window",
)
"""Columns that every written row has."""


def digest(rows: Sequence[Row]) -> str:
    """Digest of the `data` of several rows, for a row that is made of them."""
    return digest_of([row.data for row in rows])


def digest_of(data: Sequence[str | None]) -> str:
    """Digest of digests."""
    return hashlib.sha256(json.dumps(list(data)).encode()).hexdigest()[:16]


def append(path: Path, row: Row) -> None:
    """Append a row to a file of rows; a line that a killed process left unfinished is cut off first."""
    append_jsonl(path, row.plain)


def read(path: Path) -> list[Row]:
    """All rows of a file, those of earlier versions too; an unfinished last line is left out. A missing file is empty.

    Raises:
        SkipwiseError: for a line that holds no row, naming it.
    """
    return [parse(values, place) for place, values in read_jsonl_lines(path)]


def parse(values: dict[str, Any], place: str) -> Row:
    """The row that one line holds. Unknown columns are ignored.

    Args:
        values: The columns as they were written.
        place: File and line, for the error.

    Raises:
        SkipwiseError: for a column that is missing or has a value that it cannot have.
    """
    values = _current(values)
    if missing := [column for column in REQUIRED if column not in values]:
        raise SkipwiseError(f"{place}: {missing[0]!r} is missing; expected a row that `skipwise eval --out` wrote")
    return validate(Row, {column: value for column, value in values.items() if column in Row.model_fields}, place)


def _current(values: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of an earlier version.

    `protocol` is now `variant`, a length of 0 is None, and k_max's distance is no longer in `depth_index`.
    """
    values = dict(values)
    if "protocol" in values:
        values.setdefault("variant", values.pop("protocol"))
    if values.get("length") == 0:
        values["length"] = None
    if values.get("task") == "k_max" and values.get("depth_index") is not None:
        values.setdefault("distance", values["depth_index"])
    return values
