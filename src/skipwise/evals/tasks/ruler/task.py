"""RULER (arXiv 2404.06654): up to thirteen tasks, averaged at each length, and the effective length.

The prompts are made in `prompts.py`. Beside each task's rows there is one with their average for each
length, and one with the effective length: the longest at which that average reaches a threshold.
"""

import functools
import itertools
import random
import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from skipwise.config import EvaluationConfig, RulerConfig
from skipwise.data import text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals.averages import average
from skipwise.evals.longest_prompt import fit
from skipwise.evals.rows import Row, digest_of
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.evals.tasks.ruler import documents, prompts
from skipwise.evals.tasks.ruler.prompts import Documents, Essay, Needles, PromptTexts, Sample
from skipwise.utils.progress import say
from skipwise.utils.text import length_text

VERSION = 1


class RulerVariant(NamedTuple):
    """One of RULER's tasks."""

    answer_tokens: int
    least: int
    """Smallest size of a prompt that is a fair question."""
    sample: Callable[[PromptTexts, random.Random, int], Sample]
    match: Literal["all", "any"] = "all"
    """Whether every reference counts (RULER's `string_match_all`), or one is enough (`string_match_part`)."""


def _needles(needles: Needles) -> RulerVariant:
    return RulerVariant(128, needles.least(), needles.sample)


VARIANTS: dict[str, RulerVariant] = {
    "niah_single_1": _needles(Needles("noise")),
    "niah_single_2": _needles(Needles("essay")),
    "niah_single_3": _needles(Needles("essay", value_kind="uuids")),
    "niah_multikey_1": _needles(Needles("essay", keys=4)),
    "niah_multikey_2": _needles(Needles("needle")),
    "niah_multikey_3": _needles(Needles("needle", key_kind="uuids", value_kind="uuids")),
    "niah_multivalue": _needles(Needles("essay", values=4)),
    "niah_multiquery": _needles(Needles("essay", keys=4, queries=4)),
    "vt": RulerVariant(30, prompts.HOPS + 1, prompts.variable_tracking),
    "cwe": RulerVariant(120, prompts.COMMON + 1, prompts.common_words),
    "fwe": RulerVariant(prompts.CODED_ANSWER_TOKENS, prompts.FEWEST_CODED, prompts.frequent_words),
    "qa_1": RulerVariant(32, 0, prompts.question_answering, match="any"),
    "qa_2": RulerVariant(32, 0, prompts.question_answering, match="any"),
}


def names(settings: RulerConfig) -> list[str]:
    """The tasks to measure. Errors: SkipwiseError for none, and for one whose file is not given."""
    files = {"qa_1": settings.squad, "qa_2": settings.hotpotqa}
    chosen = settings.tasks
    if chosen is None:
        return [name for name in VARIANTS if files.get(name, True)]
    if not chosen:
        raise SkipwiseError("evaluation.ruler.tasks is empty: expected names such as [niah_single_1, vt]")
    for name, setting in (("qa_1", "squad"), ("qa_2", "hotpotqa")):
        if name in chosen and not files[name]:
            raise SkipwiseError(f"RULER's {name} needs a local file: give evaluation.ruler.{setting}")
    return list(dict.fromkeys(chosen))


def check(settings: EvaluationConfig) -> None:
    """Refuse what cannot be measured.

    Raises:
        SkipwiseError: wonderwords is missing, no task is named, or a text or file is missing.
    """
    wanted = settings.ruler
    chosen = names(wanted)
    if any(name.startswith(("niah", "cwe")) for name in chosen):
        prompts.words()
    if any(name.startswith("niah") for name in chosen):
        text_sources.sources(wanted.essays)
    for name in {"qa_1", "qa_2"} & set(chosen):
        _documents(name, wanted)


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """Make a cell for each task.

    If `ruler.tasks` is not set, tasks that the length cannot hold are left out, with a message: `cwe` takes 4,102
    tokens with a tokenizer that gives every digit a token.

    Raises:
        TooShortError: A task that is named does not fit, or none does.
    """
    settings = inputs.settings.ruler
    grid, left_out = [], []
    for name in names(settings):
        cell = Cell(length, settings.samples, VARIANTS[name].answer_tokens, variant=name)
        needed = _needed(inputs, cell)
        if needed <= length:
            grid.append(cell)
            continue
        left_out.append(f"{name} ({length_text(needed)} tokens)")
        if settings.tasks is not None or len(left_out) == len(names(settings)):
            raise TooShortError(
                f"RULER's {name} does not fit in {length_text(length)} tokens: with this tokenizer the smallest prompt "
                f"and its answer take {length_text(needed)}; give longer evaluation.retrieval_lengths or leave it out "
                "of evaluation.ruler.tasks"
            )
    if left_out:
        say(f"ruler: left out at {length_text(length)} tokens, and of their average: {', '.join(left_out)}")
    return grid


def _needed(inputs: Inputs, cell: Cell) -> int:
    """Tokens of the smallest prompt and its answer; of the first one where that is far below the cell's length."""
    needed = 0
    for trial in range(cell.n):  # samples differ by a few tokens: all are looked at only near the limit
        needed = max(needed, len(_prompt_ids(inputs, cell, trial, 0)) + cell.answer_tokens)
        # The paragraphs of qa_1 and qa_2 differ by more, so none of theirs is taken for the others.
        if needed > cell.length or (2 * needed < cell.length and not str(cell.variant).startswith("qa")):
            break
    return needed


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The largest prompt that leaves room for the answer, to the last 0.2 % of its tokens."""
    room = cell.length - cell.answer_tokens
    smallest, larger = (len(_prompt_ids(inputs, cell, trial, more)) for more in (0, 32))
    hint = (room - smallest) * 32 // max(larger - smallest, 1)
    more, ids = fit(lambda n: _prompt_ids(inputs, cell, trial, n), room, hint, slack=room // 512)
    made = sample(inputs, cell, trial, more)
    match = VARIANTS[str(cell.variant)].match
    return Question(ids, inputs.draft(made.lead, made.draft), made.truth, match)


def sample(inputs: Inputs, cell: Cell, trial: int, more: int) -> Sample:
    """The text of one trial, `more` above its smallest size; drawn from (seed, length, task, trial)."""
    settings, name = inputs.settings.ruler, str(cell.variant)
    texts = PromptTexts(
        cell.length,
        inputs.count,
        lambda: _essay(tuple(text for _, text in inputs.texts(settings.essays))),
        lambda: _documents(name, settings),
        trial,
    )
    rng = random.Random(f"{inputs.settings.seed} {cell.length} {name} {trial}")
    return VARIANTS[name].sample(texts, rng, VARIANTS[name].least + more)


def _prompt_ids(inputs: Inputs, cell: Cell, trial: int, more: int) -> list[int]:
    made = sample(inputs, cell, trial, more)
    return inputs.encode(made.body, made.lead)


@functools.lru_cache(maxsize=2)
def _essay(texts: tuple[str, ...]) -> Essay:
    return prompts.essay(texts)


def _documents(name: str, settings: RulerConfig) -> Documents:
    texts = documents.squad(settings.squad) if name == "qa_1" else documents.hotpotqa(settings.hotpotqa)
    if settings.samples > len(texts.questions):
        raise SkipwiseError(
            f"RULER's {name} has {len(texts.questions)} questions with an answer in its file and evaluation.ruler."
            f"samples is {settings.samples}; give fewer samples"
        )
    return texts


def score(answer: str, question: Question) -> float:
    """The share of the references that the answer contains, whatever their case; 1 for any where one is enough."""
    lowered = re.sub(r"[\x00-\x1f]", "\n", answer.strip()).strip().lower()
    matches = [reference.lower() in lowered for reference in question.truth]
    return float(any(matches)) if question.variant == "any" else sum(matches) / len(matches)


def summarise(inputs: Inputs, rows: list[Row]) -> list[Row]:
    """The average over tasks at each length, then the effective length."""
    lengths = sorted({row.length for row in rows if row.length})
    averages = [average([row for row in rows if row.length == length]) for length in lengths]
    return [*averages, effective_length(averages, inputs.settings.ruler.threshold)]


def effective_length(averages: list[Row], threshold: float) -> Row:
    """Make the row of the effective length: the longest one whose average reaches the threshold, as in RULER's table.

    The upper end is the longest length at which the average's upper end reaches it. The lower end is the last length,
    from the shortest on, up to which all lower ends reach it: tests in a fixed order, so that many lengths do not add
    up their errors. `length` is None, because the row is over all of them.

    Args:
        averages: The average over tasks at each length.
        threshold: Between 0 and 1.

    Returns:
        The row; its value is 0 if no length reaches the threshold.
    """

    def longest(end: str) -> int:
        return max((row.length or 0 for row in averages if getattr(row, end) >= threshold), default=0)

    ascending = sorted(averages, key=lambda row: row.length or 0)
    sure = list(itertools.takewhile(lambda row: (row.low or 0) >= threshold, ascending))
    return averages[-1].replace(
        variant="effective_length",
        metric="effective_length",
        length=None,
        threshold=threshold,
        data=digest_of([*(row.data for row in averages), str(threshold)]),
        value=longest("value"),
        low=(sure[-1].length or 0) if sure else 0,
        high=longest("high"),
        interval="where the averages' ends reach the threshold, at least 95%",
        seconds=round(sum(row.seconds or 0 for row in averages), 3),
        scores=[],
    )


TASK = Task(
    name="ruler",
    version=VERSION,
    metric="match",
    cells=cells,
    question=question,
    score=score,
    ended=lambda answer, question: score(answer, question) == 1.0,
    summarise=summarise,
    apart=True,
    check=check,
)
