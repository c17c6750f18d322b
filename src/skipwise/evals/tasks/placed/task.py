"""Short multiple-choice questions at the start, in the middle and at the end of long filler, and without any.

After the question of "context rot": how much of what a long prompt costs comes from its length and how much from the
place of what matters, difficulty held fixed. The same questions stand at every length and place, so their difficulty
is the same everywhere, and the case without filler beside them says what it is.

A model in this process chooses the likeliest answer text, as `harness` does. A served one, and every one under
`evaluation.placed.answer: letter`, sees the answers with letters and writes the letter.
"""

import dataclasses
import re
import string
from pathlib import Path

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import filler
from skipwise.evals.filler import Haystack
from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.evals.tasks.harness.questions import Choice, read_questions
from skipwise.evals.tasks.placed.plain_questions import QUESTIONS
from skipwise.utils.text import length_text

SETTING = "evaluation.placed.filler"
DESCRIPTION = "One question stands in the following text. Answer it after the text."
LEADS = {"likelihood": "\n\nAnswer to the question:", "letter": "\n\nLetter of the right answer to the question:"}
ALONE = ", no filler"
"""Ends the variant of the prompts without filler."""
LETTER_TOKENS = 8


def questions(settings: EvaluationConfig) -> list[Choice]:
    """The questions of the settings.

    Raises:
        SkipwiseError: The file is missing, or a line holds no question.
    """
    if settings.placed.questions is None:
        chosen = QUESTIONS
    else:
        path = Path(settings.placed.questions).expanduser()
        if not path.is_file():
            raise SkipwiseError(f"evaluation.placed.questions: {path}: no such file")
        chosen = read_questions(path, settings.harness.model_copy(update={"prompt": "{question}"}))
    if any(len(one.choices) > len(string.ascii_uppercase) for one in chosen):
        raise SkipwiseError("evaluation.placed.questions: a question has more than 26 choices")
    return chosen[: settings.placed.limit]


def check(settings: EvaluationConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        SkipwiseError: There are no depths, or the questions or the prose are missing.
    """
    if not settings.placed.depths:
        raise SkipwiseError("evaluation.placed.depths is empty: expected shares such as [0, 0.5, 1]")
    questions(settings)
    filler.check(settings.placed.filler, SETTING)


def haystack(inputs: Inputs) -> Haystack:
    """The prose that the settings name."""
    return filler.haystack(inputs, inputs.settings.placed.filler, SETTING)


def asked(inputs: Inputs) -> list[Choice]:
    """The questions, read once."""
    return inputs.once("placed questions", lambda: questions(inputs.settings))


def question_text(one: Choice, kind: str) -> str:
    """A question as it stands in the text, with its choices where a letter is asked for."""
    if kind == "likelihood":
        return f"Question: {one.prompt}"
    lines = [f"{letter}. {choice}" for letter, choice in zip(string.ascii_uppercase, one.choices, strict=False)]
    return "\n".join([f"Question: {one.prompt}", *lines])


def prompt(inputs: Inputs, one: Choice, kind: str, depth: float, sentences: int) -> list[int]:
    """The prompt about one question, as token ids.

    Args:
        inputs: What prompts are made from.
        one: The question.
        kind: `likelihood` or `letter`.
        depth: Share of the filler's characters before the question, 0 to 1.
        sentences: Sentences of filler.
    """
    hay = haystack(inputs)
    border = hay.border(sentences, depth)
    text = hay.cut(sentences)
    before, after = text[: hay.end(border)].rstrip(), text[hay.end(border) :].strip()
    parts = [DESCRIPTION, before, question_text(one, kind), after]
    return inputs.encode("\n\n".join(part for part in parts if part), LEADS[kind])


def choice_tokens(inputs: Inputs, one: Choice) -> list[list[int]]:
    """The choices as they follow the prompt, as token ids."""
    return [inputs.draft(LEADS["likelihood"], f" {choice}") for choice in one.choices]


def cells_of(kind: str, inputs: Inputs, length: int) -> list[Cell]:
    """A cell for the prompts without filler, and one for each place.

    Raises:
        TooShortError: The length does not hold the longest question.
    """
    check(inputs.settings)
    every, depths = asked(inputs), inputs.settings.placed.depths
    room = LETTER_TOKENS if kind == "letter" else max(len(ids) for one in every for ids in choice_tokens(inputs, one))
    needed = max(len(prompt(inputs, one, kind, 0.0, 0)) for one in every) + room
    if needed > length:
        raise TooShortError(
            f"a placed prompt of {length_text(length)} tokens is too short: with this tokenizer the longest question "
            f"and its answer take {length_text(needed)}; give longer evaluation.retrieval_lengths"
        )
    alone = Cell(length, len(every), room, variant=kind + ALONE)
    return [alone, *(Cell(length, len(every), room, depth, i, kind) for i, depth in enumerate(depths))]


def question_of(kind: str, inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The longest prompt about a question that leaves room for the answer; the shortest where there is no filler."""
    one, depth, hay = asked(inputs)[trial], cell.depth or 0.0, haystack(inputs)
    ids = prompt(inputs, one, kind, depth, 0)
    if cell.depth is not None:
        room = cell.length - cell.answer_tokens
        hint = hay.sentences((room - len(ids)) * hay.characters)
        _, ids = fit(lambda n: prompt(inputs, one, kind, depth, n), room, hint)
    unit, chance = f"question {trial}", 1 / len(one.choices)
    if kind == "letter":
        letters = string.ascii_uppercase[: len(one.choices)]
        draft = inputs.draft(LEADS[kind], f" {letters[one.answer]}.")
        return Question(ids, draft, [letters[one.answer], one.prompt], letters, unit, chance=chance)
    choices = choice_tokens(inputs, one)
    truth = [inputs.decode(choices[one.answer]).strip(), one.prompt]
    return Question(ids, choices[one.answer], truth, None, unit, chance=chance, choices=choices)


def _letter(answer: str, question: Question) -> re.Match[str] | None:
    """The first letter that stands alone and names a choice."""
    return re.search(rf"\b[{question.variant}]\b", answer)


def letter_score(answer: str, question: Question) -> float:
    """1 where the first letter that names a choice is the right one."""
    named = _letter(answer, question)
    return float(named is not None and named[0] == question.truth[0])


def letter_ended(answer: str, question: Question) -> bool:
    """Whether a letter is complete: something follows it."""
    named = _letter(answer, question)
    return named is not None and named.end() < len(answer)


def _cells(inputs: Inputs, length: int) -> list[Cell]:
    return cells_of(inputs.settings.placed.answer, inputs, length)


def _question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    return question_of(inputs.settings.placed.answer, inputs, cell, trial)


def _score(answer: str, question: Question) -> float:
    return float(answer.strip() == question.truth[0]) if question.choices else letter_score(answer, question)


def _ended(answer: str, question: Question) -> bool:
    return not question.choices and letter_ended(answer, question)


TASK = Task(
    name="placed",
    version=1,
    metric="accuracy",
    cells=_cells,
    question=_question,
    score=_score,
    ended=_ended,
    check=check,
)
TASK = dataclasses.replace(
    TASK,
    served=dataclasses.replace(
        TASK,
        cells=lambda inputs, length: cells_of("letter", inputs, length),
        question=lambda inputs, cell, trial: question_of("letter", inputs, cell, trial),
    ),
)
