"""BABILong (arXiv 2406.10149): questions about facts that are scattered, in order, over a long text.

From the paper and its code come bAbI's kinds 1 to 10 (one, two and three supporting facts, relations of two and three
arguments, yes or no, counting, lists, negation, indefinite knowledge), the prompts, the scattering, and the verdict on
an answer. Ours are the stories, which a simulated world writes in bAbI's words (`world.py`), and the text between the
facts, which the user names. docs/evaluation.md lists what differs.
"""

import random

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import filler
from skipwise.evals.averages import average
from skipwise.evals.longest_prompt import fit
from skipwise.evals.rows import Row
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.evals.tasks.babilong import scoring, stories
from skipwise.evals.tasks.babilong.wording import WORDINGS
from skipwise.utils.progress import say
from skipwise.utils.text import length_text

ANSWER_TOKENS = 32  # published: 20, which a small vocabulary's tokens do not always fit into
SETTING = "evaluation.babilong.filler"
LEAD = "\nAnswer:"


def check(settings: EvaluationConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        SkipwiseError: No kind is named, or the prose is missing.
    """
    if not settings.babilong.kinds:
        raise SkipwiseError("evaluation.babilong.kinds is empty: expected numbers of 1 to 10, such as [1, 2, 3]")
    filler.check(settings.babilong.filler, SETTING)


def prompt_text(kind: int, context: str, question: str, examples: bool) -> str:
    """Write the prompt, without the words that lead the answer.

    Args:
        kind: bAbI's number.
        context: Facts and the text between them.
        question: The question.
        examples: Whether the worked examples stand in it.
    """
    wording = WORDINGS[kind]
    parts = [wording.instruction, wording.examples if examples else "", wording.form]
    parts += [f"<context>\n{context}\n</context>", f"Question: {question}"]
    return "\n\n".join(part for part in parts if part)


class _Prompt:
    """The prompt of one trial, of any size: its story and where the facts stand."""

    def __init__(self, inputs: Inputs, cell: Cell, trial: int) -> None:
        settings = inputs.settings.babilong
        self.kind = int(str(cell.variant).removeprefix("qa"))
        rng = random.Random(f"{inputs.settings.seed} {cell.length} {cell.variant} {trial}")
        self.story = stories.draw(self.kind, rng)
        self._places = sorted(rng.random() for _ in self.story.facts)
        self._inputs, self._examples = inputs, settings.examples
        self.hay = filler.haystack(inputs, settings.filler, SETTING)

    def ids(self, sentences: int) -> list[int]:
        """The prompt with so many sentences between and around the facts, as token ids."""
        borders = [int(place * (sentences + 1)) for place in self._places]
        pieces = list(zip(borders, self.story.facts, strict=True))
        context = filler.insert(self.hay, sentences, pieces)
        return self._inputs.encode(prompt_text(self.kind, context, self.story.asked.question, self._examples), LEAD)


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """Make a cell for each kind. Kinds that the length cannot hold are left out, with a message.

    Raises:
        TooShortError: No kind fits.
    """
    settings = inputs.settings
    check(settings)
    grid, short = [], []
    for kind in dict.fromkeys(settings.babilong.kinds):
        cell = Cell(length, settings.babilong.samples, ANSWER_TOKENS, variant=f"qa{kind}")
        needed = max(len(_Prompt(inputs, cell, trial).ids(0)) for trial in range(cell.n)) + ANSWER_TOKENS
        if needed <= length:
            grid.append(cell)
        else:
            short.append(f"{cell.variant} ({length_text(needed)} tokens)")
    if not grid:
        raise TooShortError(
            f"{length_text(length)} tokens are too short for babilong: with this tokenizer the prompts without filler "
            f"and their answers take {', '.join(short)}; give longer evaluation.retrieval_lengths, or "
            "evaluation.babilong.examples=false for shorter prompts"
        )
    if short:
        say(f"babilong: left out at {length_text(length)} tokens, and of their average: {', '.join(short)}")
    return grid


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The longest prompt that leaves room for the answer: one sentence of filler more would be too long."""
    prompt, room = _Prompt(inputs, cell, trial), cell.length - cell.answer_tokens
    hint = prompt.hay.sentences((room - len(prompt.ids(0))) * prompt.hay.characters)
    _, ids = fit(prompt.ids, room, hint)
    asked = prompt.story.asked
    return Question(
        ids, inputs.draft(LEAD, f" {asked.sentence}"), [asked.answer, asked.question], cell.variant, chance=asked.chance
    )


def score(answer: str, question: Question) -> float:
    """1 where the answer names what is right and nothing else."""
    truth, asked = question.truth
    return float(scoring.is_right(int(str(question.variant).removeprefix("qa")), answer, truth, asked))


def summarise(inputs: Inputs, rows: list[Row]) -> list[Row]:
    """The average over the kinds at each length."""
    lengths = sorted({row.length for row in rows if row.length})
    return [average([row for row in rows if row.length == length]) for length in lengths]


TASK = Task(
    name="babilong",
    version=1,
    metric="accuracy",
    cells=cells,
    question=question,
    score=score,
    ended=lambda answer, question: scoring.ended(answer),
    summarise=summarise,
    apart=True,
    check=check,
)
