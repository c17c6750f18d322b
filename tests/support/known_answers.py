"""Rows of a task whose answers a test writes, and the fit of its prompts."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from skipwise.evals import task as tasks
from skipwise.evals.averages import overall
from skipwise.evals.rows import Row
from skipwise.evals.task import Inputs, Question, Task


def rows_of(task: Task, inputs: Inputs, length: int, reply: Callable[[Question], str]) -> list[Row]:
    """The rows of all cells of a length, each prompt answered by `reply`, and what the task makes of them."""

    def answer(questions: Sequence[Question], limit: int, ended: Any, advance: Any) -> Iterator[tuple[int, list[int]]]:
        for i, question in enumerate(questions):
            ids = inputs.tokenizer(reply(question), add_special_tokens=False)["input_ids"]
            end = next((n for n in range(1, len(ids)) if ended(i, ids[:n])), len(ids))
            yield i, ids[:end]

    parts = []
    for cell in task.cells(inputs, length):
        questions = [task.question(inputs, cell, trial) for trial in range(cell.n)]
        assert all(len(question.ids) <= length - cell.answer_tokens for question in questions)
        parts.append((cell, tasks.header(task, inputs, cell, questions), questions))
    rows = [row for _, row in sorted(tasks.measure(task, inputs, parts, answer), key=lambda part: part[0])]
    rows += overall(rows)
    return rows + (task.summarise(inputs, rows) if task.summarise else [])
