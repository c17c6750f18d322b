"""LongBench v2 (arXiv 2412.15204): multiple-choice questions about long texts, from the file that its authors publish.

`evaluation.longbench_v2.data` names their `data.json` (or the same rows as .jsonl or .parquet). What is taken over from
their code: the zero-shot prompt, a prompt that is too long loses its middle, at most 128 tokens of answer, and the
letter is read from "The correct answer is (X)", else from "The correct answer is X"; an answer without either is wrong.
The variants are theirs: `overall`, `easy` and `hard` (difficulty), `short`, `medium` and `long` (up to 32k words, to
128k, beyond). Every question is asked once, at the largest of the lengths.

What differs: decoding is greedy (theirs has a temperature of 0.1). Without `evaluation.chat` the words "The correct
answer is (" begin the answer, because a base model does not follow a format; with it the answer is the model's own, as
theirs. Chain of thought, retrieval and the run without the text are not there.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import published_files
from skipwise.evals.rows import Row, digest_of
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError, scored
from skipwise.utils.text import length_text

ANSWER_TOKENS = 128
FIELDS = ("context", "question", "choice_A", "choice_B", "choice_C", "choice_D", "answer", "difficulty", "length")
SUBSETS = {"easy": "difficulty", "hard": "difficulty", "short": "length", "medium": "length", "long": "length"}
"""Variants beside `overall`, and the field of a row that names them."""

PROMPT = """Please read the following text and answer the question below.

<text>
{context}
</text>

What is the correct answer to this question: {question}
Choices:
(A) {choice_A}
(B) {choice_B}
(C) {choice_C}
(D) {choice_D}

Format your response as follows: "The correct answer is (insert answer here)"."""
LEAD = "\n\nThe correct answer is ("


def check(settings: EvaluationConfig) -> None:
    """Refuse a missing file.

    Raises:
        SkipwiseError: No file is named, or it is not there.
    """
    _file(settings)


def _file(settings: EvaluationConfig) -> Path:
    if not settings.longbench_v2.data:
        raise SkipwiseError(
            "longbench_v2 needs LongBench v2's data.json: name it in evaluation.longbench_v2.data "
            "(docs/evaluation.md says where it is published)"
        )
    return published_files.existing_file(settings.longbench_v2.data, "evaluation.longbench_v2.data")


def examples(inputs: Inputs) -> list[dict[str, str]]:
    """The questions that are asked, in the file's order."""
    return inputs.once("longbench_v2", lambda: _read(inputs.settings))


def _read(settings: EvaluationConfig) -> list[dict[str, str]]:
    file = _file(settings)
    rows = published_files.rows_of(file, FIELDS)
    for number, row in enumerate(rows, 1):
        if row["answer"] not in ("A", "B", "C", "D"):
            raise SkipwiseError(f"{file.name}: question {number} has the answer {row['answer']!r}; expected A to D")
        if wrong := [field for field in FIELDS if not isinstance(row[field], str)]:
            raise SkipwiseError(f"{file.name}: question {number} has no text in {wrong[0]!r}")
    return published_files.drawn(rows, settings.longbench_v2.limit, settings.seed)


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """One cell with all questions; `summarise` makes the rows of the subsets."""
    fixed = len(inputs.encode(PROMPT, LEAD)) + ANSWER_TOKENS
    if length <= fixed:
        raise TooShortError(
            f"longbench_v2 at {length_text(length)} tokens: a question without its text takes about "
            f"{length_text(fixed)}; give longer evaluation.retrieval_lengths"
        )
    return [Cell(length, len(examples(inputs)), ANSWER_TOKENS, variant="overall")]


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The prompt of one question."""
    row = {field: text.strip() for field, text in examples(inputs)[trial].items() if field in FIELDS}
    lead = "" if inputs.settings.chat else LEAD
    ids = published_files.cut_middle(inputs, PROMPT.format(**row), lead, cell.length - cell.answer_tokens)
    return Question(ids, inputs.draft(lead, f"{row['answer']})") if lead else [], [row["answer"], lead.strip()])


def letter(response: str) -> str | None:
    """The letter that a response chooses, by the rule of the benchmark's code; None where it says none."""
    plain = response.replace("*", "")
    match = re.search(r"The correct answer is \(([A-D])\)", plain) or re.search(r"The correct answer is ([A-D])", plain)
    return match[1] if match else None


def score(answer: str, question: Question) -> float:
    """1 where the right letter is chosen."""
    right, begun = question.truth
    return float(letter(begun + answer) == right)


def ended(answer: str, question: Question) -> bool:
    """Whether the first of the two patterns is there, after which nothing can change the letter."""
    return re.search(r"The correct answer is \([A-D]\)", (question.truth[1] + answer).replace("*", "")) is not None


def summarise(inputs: Inputs, rows: Sequence[Row]) -> list[Row]:
    """A row for each subset that has questions, from the scores of all."""
    further = []
    for row in rows:
        for name, field in SUBSETS.items():
            chosen = [i for i, one in enumerate(examples(inputs)) if one[field].strip().lower() == name]
            if chosen:
                part = row.replace(variant=name, n=len(chosen), data=digest_of([row.data, name]), answers=[], cut=0)
                further.append(scored(part, [row.scores[i] for i in chosen]))
    return further


TASK = Task(
    name="longbench_v2",
    version=1,
    metric="accuracy",
    cells=cells,
    question=question,
    score=score,
    ended=ended,
    summarise=summarise,
    largest_only=True,
    check=check,
)
