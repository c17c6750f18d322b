"""The evaluation of one model: who answers, its settings and the rows that are already finished."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from skipwise.config import EvaluationConfig
from skipwise.evals import rows, speculative_decoding
from skipwise.evals.choice_likelihood import ChoicePrompt, log_likelihoods
from skipwise.evals.rows import Row
from skipwise.evals.speculative_decoding import Prompt
from skipwise.evals.task import Inputs, Question
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import LoadedModel


class AnswerSession(ABC):
    """What a task of prompts and answers needs of a model, wherever that runs.

    Args:
        inputs: What prompts are made from.
        columns: The columns of the model in every row; `window` (tokens) among them.
        label: Name of the model in the rows.
        out: File that finished rows are read from and appended to; None keeps them in memory.
        documents: (name, tokens without BOS) of the documents for perplexity, the best ones first.
    """

    def __init__(
        self,
        inputs: Inputs,
        columns: dict[str, Any],
        *,
        label: str = "",
        out: Path | None = None,
        documents: Sequence[tuple[str, Any]] = (),
    ) -> None:
        self.inputs = inputs
        self.label = label
        self.documents = documents
        self.window: int = columns["window"]
        self._out = out
        self._columns = {"model": label, **columns}
        self.overlaps: Mapping[str, float] = {}
        self._finished = {row.identity: row for row in rows.read(out)} if out else {}
        self._collected: dict[str, Row] = {}
        """Rows that several processes measured and that are not in the file yet."""

    def of_model(self, row: Row) -> Row:
        """A row with the columns of the model."""
        return row.replace(**self._columns)

    def finished(self, row: Row) -> Row | None:
        """The finished row that measures the same as `row`, which has the model's columns."""
        identity = row.identity
        if identity in self._collected:
            return self.append(self._collected.pop(identity))
        return self._finished.get(identity)

    def order(self, cells: Sequence[Sequence[Question]]) -> list[int]:
        """Places of cells, given by their questions, in the order in which their rows are written."""
        return list(range(len(cells)))

    def append(self, row: Row) -> Row:
        """Write a row that is measured, with the overlap of its task's texts with the training text."""
        if row.task in self.overlaps:
            row = row.replace(overlap=self.overlaps[row.task])
        if self._out:
            rows.append(self._out, row)
        self._finished[row.identity] = row
        return row

    def once(self, row: Row) -> Row:
        """The finished row of this identity; `row` itself, written, where there is none."""
        return self.finished(row) or self.append(row)

    @abstractmethod
    def tokens_to_read(self, questions: Sequence[Question]) -> int:
        """Tokens that `answer` will report to `advance`, for its progress."""

    @abstractmethod
    def answer(
        self, questions: Sequence[Question], limit: int, ended: Callable[[int, list[int]], bool], advance: Any
    ) -> Iterator[tuple[int, list[int]]]:
        """Greedy answers as (index of the question, tokens), which end with the text at the latest."""

    def cut(self, questions: Sequence[Question]) -> int:
        """How many of these prompts were not read whole. Their answers are empty."""
        return 0


class Session(AnswerSession):
    """What every task of one model in this process needs.

    Args:
        loaded: The model.
        settings: Settings of the evaluation.
        label: Name of the model in the rows.
        out: File that finished rows are read from and appended to; None keeps them in memory.
        documents: (name, tokens without BOS) of the documents for perplexity, the best ones first.
        inputs: What prompts are made from, where some were made with it already; new when absent.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        settings: EvaluationConfig,
        *,
        label: str = "",
        out: Path | None = None,
        documents: Sequence[tuple[str, Any]] = (),
        inputs: Inputs | None = None,
    ) -> None:
        self.loaded = loaded
        columns = {
            "path": loaded.path,
            "fingerprint": loaded.fingerprint,
            "window": loaded.window,
            "original_length": loaded.original_length,
            "scaling": loaded.scaling,
            "quantised_from": loaded.quantised_from,
            "dtype": str(loaded.model.dtype).removeprefix("torch."),
        }
        inputs = inputs or Inputs(loaded.tokenizer, settings)
        super().__init__(inputs, columns, label=label, out=out, documents=documents)
        self.shared: Path | None = None
        """Folder in which several processes leave what they measured for the first one."""

    def leave_in(self, folder: Path, rank: int) -> None:
        """Write what is measured from now on into a folder that all processes of the job read."""
        self.shared, self._file = folder, self._out
        self._out = folder / f"rows-{rank}.jsonl"

    def collect(self) -> None:
        """Take the rows that all processes have left, and write to the file of rows again."""
        assert self.shared is not None
        self._out = self._file
        parts = [row for path in sorted(self.shared.glob("rows-*.jsonl")) for row in rows.read(path)]
        self._collected = {row.identity: row for row in parts}
        for identity in self._collected:
            self._finished.pop(identity, None)

    def order(self, cells: Sequence[Sequence[Question]]) -> list[int]:
        """Places of cells in the order in which their last prompt is answered; see `speculative_decoding.answer`."""
        places = list(range(len(cells)))
        if not self._collected or self.reader.whole:
            return places
        return sorted(places, key=lambda place: max((q.ids + q.draft for q in cells[place]), default=[]))

    @functools.cached_property
    def reader(self) -> Reader:
        """Reads long texts in chunks; made once, because it finds out what the model's code allows."""
        return Reader(self.loaded.model)

    def tokens_to_read(self, questions: Sequence[Question]) -> int:
        """Tokens that `answer` will read at least, what prompts share once; see `speculative_decoding`."""
        if questions and questions[0].choices:
            return speculative_decoding.tokens_to_read(self.reader, [Prompt(q.ids, []) for q in questions])
        return speculative_decoding.tokens_to_read(self.reader, [Prompt(q.ids, q.draft) for q in questions])

    def answer(
        self, questions: Sequence[Question], limit: int, ended: Callable[[int, list[int]], bool], advance: Any
    ) -> Iterator[tuple[int, list[int]]]:
        """Greedy answers as (index of the question, tokens), which end with the text at the latest.

        Of questions with `choices` the likeliest one is the answer.
        """
        if questions and questions[0].choices:
            prompts = [ChoicePrompt(question.ids, question.choices) for question in questions]
            for i, values in log_likelihoods(self.reader, prompts, advance):
                yield i, questions[i].choices[values.index(max(values))]
            return
        ends = self._end_ids()
        drafted = [Prompt(question.ids, question.draft) for question in questions]
        yield from speculative_decoding.answer(
            self.reader, drafted, limit, lambda i, new: new[-1] in ends or ended(i, new), advance
        )

    def _end_ids(self) -> set[int]:
        """Tokens that end a text: the tokenizer's EOS and those of the model's generation settings."""
        settings = getattr(self.loaded.model.generation_config, "eos_token_id", None)
        listed = settings if isinstance(settings, list) else [settings]
        return {token for token in [*listed, self.loaded.tokenizer.eos_token_id] if token is not None}
