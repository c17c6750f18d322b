"""What an evaluation task is, and how one cell of prompts is measured.

A task says how its prompts are made for a budget of tokens and how an answer is scored. Everything else (reading long
prompts fast, batches, intervals, rows that are not measured twice) is done for it. To add one, write one file in
`evals/tasks/` that is named after the task and has a `TASK = Task(...)`; `evals/tasks/passkey.py` is the shortest
example. `evaluation.tasks` then knows the name, and the runner finds the task. A task that has settings adds a
section to `EvaluationConfig`. A task that is not prompts and answers is a `CustomTask`.
"""

import hashlib
import json
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import numpy as np

from skipwise.config import EvaluationConfig
from skipwise.data import documents, text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals import intervals
from skipwise.evals.chat_template import rendered
from skipwise.evals.division import Piece
from skipwise.evals.rows import Row
from skipwise.utils.text import length_text

if TYPE_CHECKING:
    from skipwise.evals.served.session import ServedSession
    from skipwise.evals.session import Session

T = TypeVar("T")


class TooShortError(SkipwiseError):
    """A length that cannot hold a task's prompt."""


class Cell(NamedTuple):
    """One place in a task's grid: `n` prompts of at most `length` tokens, room for the answer included.

    Prompts are drawn from (seed, length, depth_index, trial), so they are the same for every model with one tokenizer.
    """

    length: int
    n: int
    answer_tokens: int
    """Most tokens of an answer."""
    depth: float | None = None
    """Where what is asked for stands, 0 (start) to 1 (end)."""
    depth_index: int | None = None
    variant: str | None = None
    """Variant of the task, such as RULER's `niah_single_1`."""
    distance: int | None = None
    """k_max: tokens from the key to the end of the answer."""


class Question(NamedTuple):
    """One prompt of a task, as token ids, and what its answer is compared with."""

    ids: list[int]
    """The prompt."""
    draft: list[int]
    """Tokens that a right answer would begin with (`Inputs.draft`); wrong ones cost time, never a verdict."""
    truth: list[str]
    """What `score` and `ended` compare an answer with."""
    variant: str | None = None
    """Which of several scores of one answer is wanted, where a task's cells differ in nothing else."""
    unit: str | None = None
    """Text that other questions are about too, such as `list 0`; the interval is over these. None: no other is."""
    answer_tokens: int = 0
    """Most tokens of its answer; set when it is asked."""
    chance: float | None = None
    """What a guess scores on average; None where there is no such level."""
    choices: Sequence[list[int]] = ()
    """Token ids of answers of which a model in this process gives the likeliest; none: it writes its answer."""


def special_prefix(tokenizer: Any) -> list[int]:
    """Find the special tokens, such as a BOS, that a tokenizer puts before a text.

    Those that it puts behind a text, such as an EOS, are left out: they would end a prompt before its answer.
    """
    text = "a"
    ids = list(tokenizer(text, verbose=False)["input_ids"])
    plain = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    places = (i for i in range(len(ids) - len(plain) + 1) if ids[i : i + len(plain)] == plain)
    return ids[: next(places, 0)]


@dataclass
class Inputs:
    """What prompts are made from: a tokenizer, the settings of the evaluation and, where a task wants them, texts."""

    tokenizer: Any
    settings: EvaluationConfig
    reply_begins: bool = True
    """Under `evaluation.chat`: whether a reply can begin with given words. Otherwise they end the user's turn."""
    _texts: dict[tuple[str, ...], list[tuple[str, str]]] = field(default_factory=dict)
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.settings.chat and not getattr(self.tokenizer, "chat_template", None):
            raise SkipwiseError("evaluation.chat is on and the tokenizer has no chat template; leave it off")

    def encode(self, body: str, lead: str = "") -> list[int]:
        """Token ids of a prompt: `body` and the words `lead` that begin the answer.

        Plain: one text, with the special tokens that the tokenizer puts before a text by default. Under
        `evaluation.chat`: `body` is the user's turn in the model's chat template and `lead` begins the reply.
        """
        if self.settings.chat:
            turn = [{"role": "user", "content": body if self.reply_begins else body + lead}]
            text = rendered(self.tokenizer, turn)
            text += lead.lstrip() if self.reply_begins else ""
            ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            return ids
        prefix: list[int] = self.once("prefix", lambda: special_prefix(self.tokenizer))
        return prefix + self.plain_ids(body + lead)

    def encode_turns(self, turns: Sequence[tuple[str, str]], last: str) -> list[int]:
        """Token ids of a conversation and its last request.

        Args:
            turns: (request, answer) of each turn before.
            last: The request that is to be answered.

        Returns:
            Under `evaluation.chat` the turns in the model's chat template; else a text of lines `User:` and
            `Assistant:`, which ends with the latter.
        """
        if self.settings.chat:
            messages = [message for turn in turns for message in zip(("user", "assistant"), turn, strict=True)]
            shown = [{"role": role, "content": text} for role, text in [*messages, ("user", last)]]
            return self.plain_ids(rendered(self.tokenizer, shown))
        lines = [f"User: {request}\n\nAssistant: {answer}" for request, answer in turns]
        return self.encode("\n\n".join([*lines, f"User: {last}"]), "\n\nAssistant:")

    def count(self, text: str) -> int:
        """Tokens of a piece of text, without special tokens."""
        return len(self.plain_ids(text))

    def plain_ids(self, text: str) -> list[int]:
        """Token ids of a piece of text, without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def draft(self, lead: str, answer: str) -> list[int]:
        """Tokens of `answer` as it would follow `lead`, the last words of a prompt."""
        before, both = self.plain_ids(lead), self.plain_ids(lead + answer)
        return both[len(before) :] if both[: len(before)] == before else self.plain_ids(answer)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of an answer, without special tokens."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def texts(self, paths: Sequence[str]) -> list[tuple[str, str]]:
        """(name, text) of every document of files, folders or packaged names, in order; read once."""
        key = tuple(paths)
        if key not in self._texts:
            sources = text_sources.sources(list(paths))
            self._texts[key] = [(document.name, document.text) for document in documents.documents(sources)]
        if not self._texts[key]:
            raise SkipwiseError(f"no documents in {', '.join(paths)}")
        return self._texts[key]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()` the first time and its result after that: what the prompts of a length have in common."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


def _never(answer: str, question: Question) -> bool:
    return False


def _nothing(settings: EvaluationConfig) -> None:
    """Refuse nothing."""


@dataclass(frozen=True)
class Task:
    """A declaration. Raise `version` with every change of prompts or scores: rows of two versions are never mixed."""

    name: str
    version: int
    metric: str
    """`accuracy` for scores that are 0 or 1, else a name for scores between."""
    cells: Callable[[Inputs, int], list[Cell]]
    """The grid at one length. Errors: SkipwiseError for a length or a setting that cannot work."""
    question: Callable[[Inputs, Cell, int], Question]
    """The prompt of one trial: at most `cell.length - cell.answer_tokens` tokens, never cut."""
    score: Callable[[str, Question], float]
    """How right an answer is, 0 to 1."""
    ended: Callable[[str, Question], bool] = _never
    """Whether nothing that follows can change the score of an answer that begins so."""
    summarise: Callable[[Inputs, list[Row]], list[Row]] | None = None
    """Further rows from all rows of a model, such as an average over variants; without the model's columns."""
    largest_only: bool = False
    """Measured at the largest of the lengths alone."""
    apart: bool = False
    """The variants share no text: they are measured one after the other, which holds fewer prompts at once."""
    check: Callable[[EvaluationConfig], object] = _nothing
    """Refuse what can be refused without a model, such as a missing package or file. Errors: SkipwiseError."""
    served: "Task | None" = None
    """What a served model is asked instead, where the task needs more than written answers."""


class TaskPlan(Protocol):
    """What one task will measure of one model, once everything that can be refused was."""

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the model will read."""

    def rows(self) -> list[Row]:
        """Measure what is missing and return all rows of the task."""


class LocalPlan(TaskPlan, Protocol):
    """A plan whose model is in this process, so that several processes can divide it."""

    def pieces(self, processes: int) -> list[Piece]:
        """What each of several processes can measure alone, the same list in all. Afterwards `rows` finds it finished.

        A plan that cannot be divided is one piece: `[Piece(self.longest, self.rows)]`.
        """


@dataclass(frozen=True)
class CustomTask:
    """A task that is not prompts and answers, such as perplexity: it plans and measures its rows itself."""

    name: str
    plan: Callable[["Session", list[int]], LocalPlan]
    """The rows of a model at some lengths (tokens, ascending). Errors: SkipwiseError for what cannot be measured."""
    check: Callable[[EvaluationConfig], object] = _nothing
    """As in `Task`."""
    served: Callable[["ServedSession", list[int]], TaskPlan] | None = None
    """The rows of a served model; None for a task that needs the weights."""


def depth_grid(settings: EvaluationConfig, name: str, length: int, minimum: int, answer_tokens: int) -> list[Cell]:
    """Make a cell for each of `evaluation.depths`.

    Args:
        settings: Depths and trials.
        name: Of the task, for the error.
        length: Of the prompts with their answers, tokens.
        minimum: The shortest length that the task can use, tokens.
        answer_tokens: Most tokens of an answer.

    Raises:
        TooShortError: The length is below `minimum`.
        SkipwiseError: There are no depths.
    """
    if length < minimum:
        raise TooShortError(
            f"a {name} prompt of {length_text(length)} tokens is too short: with this tokenizer the fixed parts and "
            f"the answer take {length_text(minimum)}; give longer evaluation.retrieval_lengths"
        )
    check_depths(settings)
    return [Cell(length, settings.trials, answer_tokens, depth, i) for i, depth in enumerate(settings.depths)]


def check_depths(settings: EvaluationConfig) -> None:
    """Refuse settings without depths.

    Raises:
        SkipwiseError: There are none.
    """
    if not settings.depths:
        raise SkipwiseError("evaluation.depths is empty: expected shares such as [0, 0.5, 1]")


Answerer = Callable[
    [Sequence[Question], int, Callable[[int, list[int]], bool], Callable[[int], None]], Iterator[tuple[int, list[int]]]
]
"""(questions, most tokens, whether an answer has ended, progress) → (index, tokens of the answer), as finished."""


def header(task: Task, inputs: Inputs, cell: Cell, questions: Sequence[Question]) -> Row:
    """Make a row without figures. Its `data` is a digest of the prompts and their right answers."""
    state = hashlib.sha256()
    for question in questions:
        state.update(np.asarray(question.ids, dtype="<i8").tobytes())
        state.update(json.dumps([len(question.ids), question.truth]).encode())
    return Row(
        task=task.name,
        task_version=task.version,
        variant=cell.variant,
        length=cell.length,
        depth=cell.depth,
        distance=cell.distance,
        metric=task.metric,
        n=len(questions),
        answer_tokens=cell.answer_tokens,
        seed=inputs.settings.seed,
        chat=inputs.settings.chat,
        data=state.hexdigest()[:16],
        chance=_chance(questions),
    )


def _chance(questions: Sequence[Question]) -> float | None:
    """What guesses score on average over some prompts."""
    levels = [question.chance for question in questions if question.chance is not None]
    return round(sum(levels) / len(levels), 4) if levels and len(levels) == len(questions) else None


def measure(
    task: Task,
    inputs: Inputs,
    cells: Sequence[tuple[Cell, Row, Sequence[Question]]],
    answer: Answerer,
    advance: Callable[[int], None] = lambda tokens: None,
) -> Iterator[tuple[int, Row]]:
    """Measure the cells of one length.

    In a row, `tokens` is the mean length of the prompts, `scores` the score of each, `answers` holds pairs (truth,
    answer), and `seconds` is the time since the row before, because the cells of a length share what is read. A prompt
    that several cells ask, to score its answer in several ways, is answered once.

    Args:
        task: The task.
        inputs: What prompts are made from.
        cells: (cell, header, questions) of each cell.
        answer: Answers questions with the model.
        advance: Called with the number of tokens that were read.

    Yields:
        (index of the cell, its row), as they are finished.
    """
    same: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
    for c, (cell, _, asked) in enumerate(cells):
        for trial, question in enumerate(asked):
            key = (cell.answer_tokens, tuple(question.ids), tuple(question.truth))
            same.setdefault(key, []).append((c, trial))
    places = list(same.values())
    questions = [cells[c][2][trial]._replace(answer_tokens=cells[c][0].answer_tokens) for (c, trial), *_ in places]
    limits = {cell.answer_tokens for cell, _, _ in cells}

    def ended(i: int, tokens: list[int]) -> bool:
        cell = cells[places[i][0][0]][0]
        return len(tokens) >= cell.answer_tokens or task.ended(inputs.decode(tokens), questions[i])

    answers: list[dict[int, str]] = [{} for _ in cells]
    started = time.monotonic()
    for i, tokens in answer(questions, max(limits), ended, advance):
        for c, trial in places[i]:
            answers[c][trial] = inputs.decode(tokens)
            if len(answers[c]) == len(cells[c][2]):
                now = time.monotonic()
                yield c, _row(task, cells[c][1], cells[c][2], answers[c], now - started)
                started = now


def _row(task: Task, head: Row, questions: Sequence[Question], answers: dict[int, str], seconds: float) -> Row:
    scores = [task.score(answers[trial], question) for trial, question in enumerate(questions)]
    return scored(
        head.replace(
            units=[question.unit for question in questions if question.unit is not None],
            tokens=round(sum(len(question.ids) for question in questions) / len(questions)),
            seconds=round(seconds, 3),
            answers=[[question.truth, answers[trial]] for trial, question in enumerate(questions)],
        ),
        scores,
    )


def scored(row: Row, scores: Sequence[float]) -> Row:
    """Fill in value, interval and the scores themselves, which comparisons are paired on.

    `rouge F1` spreads evenly around its mean and has Student's t; other scores may be 0 or 1 now and then, and their
    interval holds whatever their distribution. Prompts about one of the row's `units` count once.
    """
    independent = intervals.by_unit(scores, row.units) if row.units else scores
    interval = intervals.t_interval(scores) if row.metric == "rouge F1" else intervals.mean_interval(independent)
    if row.units:
        noun = row.units[0].split()[0] + ("s" if len(independent) > 1 else "")
        interval = interval._replace(name=f"{interval.name} over {len(independent)} {noun}")
    value = sum(scores) / len(scores)
    return row.replace(value=value, low=interval.low, high=interval.high, interval=interval.name, scores=list(scores))
