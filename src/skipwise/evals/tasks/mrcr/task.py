"""Multi-round coreference (MRCR): a long conversation in which one request is made several times, then "the k-th one".

The task is that of Gemini's MRCR (arXiv 2409.12640) in the form of OpenAI's data set `openai/mrcr`: requests such as
"Write a poem about tapirs" and their answers, of which 2, 4 or 8 answer the same request; at the end "Prepend
aYooSG8CQg to the 2nd (1 indexed) poem about tapirs. Do not include any other text in your response." The score is the
published one: 0 unless the answer begins with that string, else `difflib.SequenceMatcher`'s ratio to the right text.

The texts are our own, composed from templates (`writing.py`). docs/evaluation.md lists what differs.
"""

import random
import string
from difflib import SequenceMatcher

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.evals.tasks.mrcr.writing import FORMS, SUBJECTS, compose
from skipwise.utils.progress import say
from skipwise.utils.text import length_text

ORDINALS = ("1st", "2nd", "3rd", "4th", "5th", "6th", "7th", "8th")
PREFIX_CHARACTERS = 10
SPARE_TOKENS = 8
"""Room of an answer beyond the longest right one."""
NEXT_TURN = "\nUser:"
"""Where an answer in a plain prompt has ended: a base model goes on with the conversation."""


class Conversation:
    """The requests and texts of one conversation, of any length, and where the equal requests stand.

    Args:
        rng: Draws it.
        needles: Equal requests.
        sentences: Sentences of a text after its opening.
    """

    def __init__(self, rng: random.Random, needles: int, sentences: int) -> None:
        self._rng, self._sentences = rng, sentences
        self.form, self.subject = rng.choice(FORMS), rng.choice(SUBJECTS)
        self.prefix = "".join(rng.choices(string.ascii_letters + string.digits, k=PREFIX_CHARACTERS))
        self._texts: set[str] = set()
        self.needles = [self._write(self.form, self.subject) for _ in range(needles)]
        self.order = rng.sample(range(needles), needles)
        """The needles in the order in which trials ask for them."""
        self._places = sorted(rng.random() for _ in range(needles))
        self._others: list[tuple[str, str]] = []

    def turns(self, others: int) -> list[tuple[str, str]]:
        """(request, text) of every turn: the equal requests, and so many others before, between and after them."""
        while len(self._others) < others:
            self._others.append(self._other())
        turns, done = [], 0
        for place, text in zip(self._places, self.needles, strict=True):
            border = int(place * (others + 1))
            turns += [*self._others[done:border], (self._request(self.form, self.subject), text)]
            done = border
        return turns + self._others[done:others]

    def last(self, needle: int) -> str:
        """The request for one of the needles."""
        return (
            f"Prepend {self.prefix} to the {ORDINALS[needle]} (1 indexed) {self.form} about {self.subject}. "
            "Do not include any other text in your response."
        )

    def _other(self) -> tuple[str, str]:
        """A turn of another form or subject; near misses, which share one of them, are half of all."""
        form, subject = self._rng.choice(FORMS), self._rng.choice(SUBJECTS)
        kind = self._rng.random()
        if kind < 0.25:
            form = self.form
        elif kind < 0.5:
            subject = self.subject
        if (form, subject) == (self.form, self.subject):
            return self._other()
        return self._request(form, subject), self._write(form, subject)

    def _request(self, form: str, subject: str) -> str:
        return f"Write a {form} about {subject}"

    def _write(self, form: str, subject: str) -> str:
        while (text := compose(self._rng, form, subject, self._sentences)) in self._texts:
            pass
        self._texts.add(text)
        return text


def conversation(inputs: Inputs, length: int, needles: int, which: int) -> Conversation:
    """A conversation, drawn once for all its questions."""
    settings = inputs.settings

    def make() -> Conversation:
        rng = random.Random(f"{settings.seed} {length} {needles} {which}")
        return Conversation(rng, needles, settings.mrcr.sentences)

    return inputs.once(("mrcr", length, needles, which), make)


def prompt(inputs: Inputs, talk: Conversation, others: int, needle: int) -> list[int]:
    """The prompt that asks for a needle, with so many other turns, as token ids."""
    return inputs.encode_turns(talk.turns(others), talk.last(needle))


def check(settings: EvaluationConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        SkipwiseError: No number of needles is named.
    """
    if not settings.mrcr.needles:
        raise SkipwiseError("evaluation.mrcr.needles is empty: expected numbers of 2 to 8, such as [2, 4, 8]")


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """Make a cell for each number of needles. Those that the length cannot hold are left out, with a message.

    Raises:
        TooShortError: None fits.
    """
    check(inputs.settings)
    settings, grid, short = inputs.settings.mrcr, [], []
    for needles in dict.fromkeys(settings.needles):
        talks = [conversation(inputs, length, needles, i) for i in range(min(settings.conversations, settings.samples))]
        room = max(inputs.count(f" {talk.prefix}{text}") for talk in talks for text in talk.needles) + SPARE_TOKENS
        needed = max(len(prompt(inputs, talk, 0, _longest(inputs, talk))) for talk in talks) + room
        if needed <= length:
            grid.append(Cell(length, settings.samples, room, variant=f"needles_{needles}"))
        else:
            short.append(f"{needles} needles ({length_text(needed)} tokens)")
    if not grid:
        raise TooShortError(
            f"{length_text(length)} tokens are too short for mrcr: with this tokenizer the conversation without other "
            f"turns and the answer take, of {', '.join(short)}; give longer evaluation.retrieval_lengths"
        )
    if short:
        say(f"mrcr: left out at {length_text(length)} tokens: {', '.join(short)}")
    return grid


def _longest(inputs: Inputs, talk: Conversation) -> int:
    """The needle whose request has the most tokens."""
    return max(range(len(talk.needles)), key=lambda needle: inputs.count(talk.last(needle)))


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The longest conversation that leaves room for the answer: one turn more would be too long.

    All questions about a conversation have the same turns, so it is read once.
    """
    needles, settings = int(str(cell.variant).removeprefix("needles_")), inputs.settings.mrcr
    which = trial % settings.conversations
    talk = conversation(inputs, cell.length, needles, which)
    needle = talk.order[(trial // settings.conversations) % needles]

    def fitted() -> int:
        longest = _longest(inputs, talk)
        empty, some = (len(prompt(inputs, talk, others, longest)) for others in (0, 8))
        room = cell.length - cell.answer_tokens
        hint = (room - empty) * 8 // max(some - empty, 1)
        return fit(lambda others: prompt(inputs, talk, others, longest), room, hint)[0]

    others = inputs.once(("mrcr turns", cell.length, needles, which), fitted)
    ids = prompt(inputs, talk, others, needle)
    right = talk.prefix + talk.needles[needle]
    lead = "" if inputs.settings.chat else "\n\nAssistant:"
    draft = inputs.draft(lead, right if inputs.settings.chat else f" {right}")
    guesses = [similarity(talk.prefix + text, right, talk.prefix) for text in talk.needles]
    chance = sum(guesses) / needles
    return Question(
        ids, draft, [right, talk.last(needle), talk.prefix], unit=f"conversation {which}", chance=round(chance, 4)
    )


def similarity(response: str, answer: str, prefix: str) -> float:
    """The published score of a response.

    Args:
        response: What the model wrote.
        answer: The prefix and the right text.
        prefix: What the response has to begin with.
    """
    if not response.startswith(prefix):
        return 0.0
    return float(SequenceMatcher(None, response.removeprefix(prefix), answer.removeprefix(prefix)).ratio())


def score(answer: str, question: Question) -> float:
    """The published score, of the answer without white space around it and without turns that follow it."""
    right, _, prefix = question.truth
    return similarity(answer.split(NEXT_TURN)[0].strip(), right, prefix)


def ended(answer: str, question: Question) -> bool:
    """Whether the answer begins wrong, so that it scores 0, or the model goes on with the conversation."""
    prefix, text = question.truth[2], answer.lstrip()
    return NEXT_TURN in answer or not (text.startswith(prefix) or prefix.startswith(text))


TASK = Task(
    name="mrcr",
    version=1,
    metric="similarity",
    cells=cells,
    question=question,
    score=score,
    ended=ended,
    apart=True,
    check=check,
)
