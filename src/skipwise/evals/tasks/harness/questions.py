"""Read multiple-choice questions from files: prompts, choices and the place of the right one."""

import json
import string
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.config import HarnessConfig
from skipwise.data.row_files import read_rows, suffix
from skipwise.errors import SkipwiseError
from skipwise.utils import progress


class Choice(NamedTuple):
    """One question. The names are those under which lm-eval reads it."""

    prompt: str
    choices: list[str]
    answer: int


def read_questions(path: Path, settings: HarnessConfig) -> list[Choice]:
    """The questions of a .jsonl(.gz|.zst) file, or of a task.json of BIG-bench, whose fields are fixed.

    An answer is the place of a choice (from 0), its text, or its label: that of the file (`{"text": […], "label": […]}`
    as choices, which is ARC's form), else A, B, C … Errors: SkipwiseError that names the line.
    """
    if suffix(path) not in (".jsonl", ".ndjson", ".json"):
        raise SkipwiseError(f"{path.name} is no .jsonl file of questions, nor a task.json of BIG-bench")
    questions = _big_bench(path) if path.suffix.lower() == ".json" else _rows(path, settings)
    if not questions:
        raise SkipwiseError(f"{path.name} holds no multiple-choice questions")
    return [one._replace(prompt=settings.prompt.replace("{question}", one.prompt)) for one in questions]


def _rows(path: Path, settings: HarnessConfig) -> list[Choice]:
    fields = (settings.question_field, settings.choices_field, settings.answer_field)
    questions = []
    for number, row, _ in read_rows(path):
        place = f"{path.name}:{number}"
        missing = [field for field in fields if field not in row]
        if missing:
            there = ", ".join(map(repr, row)) or "none"
            raise SkipwiseError(f"{place} has no field {missing[0]!r}; its fields: {there}")
        question, choices, answer = (row[field] for field in fields)
        labels: list[Any] = list(string.ascii_uppercase)
        if isinstance(choices, dict):
            given, choices = choices.get("label"), choices.get("text")
            labels = given if isinstance(given, list) else labels
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(text, str) for text in choices):
            raise SkipwiseError(f"{place}: {settings.choices_field!r} must be a list of two or more texts")
        if not isinstance(question, str):
            raise SkipwiseError(f"{place}: {settings.question_field!r} holds {type(question).__name__}, expected text")
        questions.append(Choice(question, choices, _answer(answer, choices, labels, place)))
    return questions


def _answer(answer: Any, choices: list[str], labels: list[Any], place: str) -> int:
    """The place of the right choice."""
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    if answer in choices:
        return choices.index(answer)
    if answer in labels[: len(choices)]:
        return labels.index(answer)
    raise SkipwiseError(
        f"{place}: answer {answer!r} is none of the {len(choices)} choices; expected a place from 0, a text or a label"
    )


def _big_bench(path: Path) -> list[Choice]:
    """`examples` of `input` and `target_scores`; those with several right choices are left out, with a message."""
    try:
        task = json.loads(path.read_text(encoding="utf-8"))
        examples = [(str(one["input"]), dict(one["target_scores"])) for one in task["examples"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        expected = "a BIG-bench task with `examples` of `input` and `target_scores`, or a .jsonl file"
        raise SkipwiseError(f"{path.name}: expected {expected} ({type(error).__name__}: {error})") from error
    questions = [
        Choice(question, list(scores), list(scores.values()).index(1))
        for question, scores in examples
        if list(scores.values()).count(1) == 1 and len(scores) > 1
    ]
    if len(questions) < len(examples):
        progress.say(f"{path.name}: {len(examples) - len(questions)} questions with several right choices are left out")
    return questions
