"""Measure a task of prompts and answers: its grid of cells, then a row for each cell, then rows over several cells."""

import functools
import itertools
from collections.abc import Sequence

from skipwise.evals.averages import overall
from skipwise.evals.division import Piece, split
from skipwise.evals.rows import Row
from skipwise.evals.session import AnswerSession
from skipwise.evals.task import Cell, Inputs, Task, TooShortError, header, measure
from skipwise.utils import progress
from skipwise.utils.text import length_text, value_text

HELD_TOKENS = 2**20
"""Most tokens of prompts that are held at once where variants share no text, unless one variant has more."""


class PromptedPlan:
    """The rows of one `Task` for one model.

    Raises:
        SkipwiseError: when made, for a length or a setting that cannot work.
    """

    def __init__(self, task: Task, session: AnswerSession, lengths: Sequence[int]) -> None:
        self._task = task
        self._session = session
        self._grid = grid(task, session.inputs, lengths)
        self.longest = max(self._grid, default=0)

    def rows(self) -> list[Row]:
        """At each length the rows of its cells, then those over all depths; at the end what the task makes of all."""
        session, task = self._session, self._task
        rows: list[Row] = []
        for length, cells in self._grid.items():
            at_length = [row for part in self._together(cells) for row in self._cells(part)]
            rows += at_length
            rows += [session.once(row) for row in overall(at_length)]
            progress.say(f"{session.label}: {task.name} at {length_text(length)}: {_mean(at_length)}")
        further = task.summarise(session.inputs, rows) if task.summarise else []
        return rows + [session.once(session.of_model(row)) for row in further]

    def pieces(self, processes: int) -> list[Piece]:
        """The cells of each length, in as many parts as there are processes: the cells of a part share what is read."""
        parts = [
            part
            for cells in self._grid.values()
            for together in self._together(cells)
            for part in split(together, processes)
        ]
        return [
            Piece(sum(cell.n * cell.length for cell in part), functools.partial(self._cells, part)) for part in parts
        ]

    def _together(self, cells: list[Cell]) -> list[list[Cell]]:
        """Cells of one length in parts that one process measures together."""
        return _parts(cells) if self._task.apart else [cells]

    def _cells(self, cells: list[Cell]) -> list[Row]:
        """The rows of the cells of one length, in their order; those that are missing are measured together."""
        session, task = self._session, self._task
        asked = [[task.question(session.inputs, cell, trial) for trial in range(cell.n)] for cell in cells]
        heads = [
            session.of_model(header(task, session.inputs, cell, questions))
            for cell, questions in zip(cells, asked, strict=True)
        ]
        finished = {place: session.finished(heads[place]) for place in session.order(asked)}
        rows = [finished[place] for place in range(len(cells))]
        missing = [(place, (cells[place], heads[place], asked[place])) for place, row in enumerate(rows) if row is None]
        if missing:
            total = session.tokens_to_read([q for _, (_, _, questions) in missing for q in questions])
            title = f"{session.label}: {task.name} at {length_text(cells[0].length)}"
            with progress.bar(title, total=total, unit="tok") as bar:
                parts = [part for _, part in missing]
                for i, row in measure(task, session.inputs, parts, session.answer, bar.advance):
                    cell, _, questions = missing[i][1]
                    needed = max(len(question.ids) for question in questions) + cell.answer_tokens
                    row = row.replace(beyond_window=needed > session.window, cut=session.cut(questions))
                    rows[missing[i][0]] = session.append(row)
        return [row for row in rows if row is not None]


def _parts(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Group the cells of variants that share no text into parts that are measured together.

    Many short prompts go together, because answers are decoded in batches. Long ones go a variant at a time, because
    all prompts of a part are held in memory.
    """
    parts: list[list[Cell]] = []
    held = 0
    for _, variant in itertools.groupby(cells, lambda cell: cell.variant):
        new = list(variant)
        tokens = sum(cell.n * cell.length for cell in new)
        if parts and held + tokens <= HELD_TOKENS:
            parts[-1] += new
            held += tokens
        else:
            parts.append(new)
            held = tokens
    return parts


def grid(task: Task, inputs: Inputs, lengths: Sequence[int]) -> dict[int, list[Cell]]:
    """The cells of each length, laid out once for one `inputs`.

    Of lengths not given for retrieval, those too short for a prompt are left out. Errors: SkipwiseError for the others.
    """
    return inputs.once(("grid", task.name, *lengths), lambda: _grid(task, inputs, lengths))


def _grid(task: Task, inputs: Inputs, lengths: Sequence[int]) -> dict[int, list[Cell]]:
    given = inputs.settings.retrieval_lengths
    cells, short = {}, []
    for length in sorted(set(given or lengths))[-1 if task.largest_only else 0 :]:
        try:
            cells[length] = task.cells(inputs, length)
        except TooShortError:
            if given or length == max(lengths):
                raise
            short.append(length_text(length))
    if short:
        progress.say(f"{task.name}: left out at {', '.join(short)} tokens, which cannot hold a prompt")
    return cells


def _mean(rows: Sequence[Row]) -> str:
    """`62% of 20`."""
    total = sum(row.n for row in rows)
    return f"{value_text('accuracy', sum(row.value * row.n for row in rows) / total)} of {total:,}"
