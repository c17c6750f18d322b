"""A needle in a haystack: a city's number in one sentence of real prose, asked for at the end.

The haystack is text that the user names, from its beginning, repeated where it is shorter than a length. The needle
stands between two sentences, the one nearest to its depth. Every prompt of a length has the same haystack, so what
comes before the needles is read once.
"""

import bisect
import re
from typing import NamedTuple

import numpy as np

from skipwise.config import EvaluationConfig
from skipwise.data import text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question, Task, check_depths, depth_grid
from skipwise.evals.tasks import passkey

ANSWER_TOKENS = 16

DESCRIPTION = (
    "Somewhere in the following text stands the secret number of a city. Find it and remember it. "
    "You will be asked for it after the text."
)
NEEDLE = "The secret number of {city} is {number}."
ASK = "What is the secret number of {city}?"
LEAD = " The secret number of {city} is"
CITIES = (
    *("Amsterdam", "Athens", "Bangkok", "Barcelona", "Berlin", "Bogota", "Boston", "Brussels", "Budapest", "Cairo"),
    *("Chicago", "Copenhagen", "Delhi", "Dublin", "Geneva", "Hanoi", "Helsinki", "Istanbul", "Jakarta", "Lagos"),
    *("Lima", "Lisbon", "London", "Madrid", "Manila", "Melbourne", "Montreal", "Moscow", "Mumbai", "Nairobi"),
    *("Oslo", "Paris", "Prague", "Rome", "Santiago", "Seoul", "Stockholm", "Tokyo", "Toronto", "Vienna"),
)
# Where one sentence has ended and the next begins. A title before a name does not end one.
SENTENCE_END = re.compile(
    r"""(?<=[\w"'”’)\]]{2}[.!?])(?<!\bMr\.)(?<!\bMrs\.)(?<!\bMs\.)(?<!\bDr\.)(?<!\bSt\.)["'”’)\]]*\s+(?![a-z])"""
    r"|(?<=[。！？])[”’」』]*\s*|\s*\n\s*\n\s*"
)


class Haystack(NamedTuple):
    """Prose, repeated without end; sentence i ends at character `end(i)`, the white space after it included."""

    text: str
    ends: list[int]
    characters: float
    """In one token."""

    def end(self, sentences: int) -> int:
        """Characters that so many sentences take."""
        rounds, rest = divmod(sentences, len(self.ends))
        return rounds * len(self.text) + (self.ends[rest - 1] if rest else 0)

    def sentences(self, characters: float) -> int:
        """How many sentences, whole, so many characters hold."""
        rounds, rest = divmod(max(int(characters), 0), len(self.text))
        return rounds * len(self.ends) + bisect.bisect_right(self.ends, rest)

    def cut(self, sentences: int) -> str:
        """The text of so many sentences."""
        rounds, rest = divmod(self.end(sentences), len(self.text))
        return self.text * rounds + self.text[:rest]


def split(text: str) -> list[int]:
    """Where each sentence of a text ends; the last one ends with the text."""
    ends = [match.end() for match in SENTENCE_END.finditer(text) if 0 < match.end() < len(text)]
    return [*dict.fromkeys(ends), len(text)]


def haystack(inputs: Inputs) -> Haystack:
    """Read the prose that the settings name, once for all prompts.

    Raises:
        SkipwiseError: A path cannot be read, or no sentence ends in the text.
    """
    check(inputs.settings)
    paths = inputs.settings.needle.haystack

    def read() -> Haystack:
        text = "".join(text.strip() + "\n\n" for _, text in inputs.texts(paths))
        ends = split(text)
        if len(ends) < 2:
            raise SkipwiseError(f"no sentence ends in {', '.join(paths)}; give prose as evaluation.needle.haystack")
        sample = text[:20_000]
        return Haystack(text, ends, len(sample) / inputs.count(sample))

    return inputs.once(("needle", *paths), read)


def check(settings: EvaluationConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        SkipwiseError: There are no depths, no prose is named, or it is missing.
    """
    check_depths(settings)
    if not settings.needle.haystack:
        raise SkipwiseError("evaluation.needle.haystack is empty: name prose, such as python-reference or a book")
    text_sources.sources(settings.needle.haystack)


def prompt_text(hay: Haystack, sentences: int, depth: float, city: str, number: str) -> str:
    """Write the prompt, without the words that lead the answer.

    Args:
        hay: The prose.
        sentences: How many of its sentences stand in the prompt.
        depth: Share of their characters before the needle, 0 to 1; the nearest end of a sentence is taken.
        city: Whose number is asked for.
        number: The number.
    """
    text = hay.cut(sentences)
    i = hay.sentences(depth * len(text))
    if i < sentences and hay.end(i + 1) - depth * len(text) < depth * len(text) - hay.end(i):
        i += 1
    before, after = text[: hay.end(i)], text[hay.end(i) :].rstrip()
    space = " " if before and not before[-1].isspace() else ""
    if not after:
        before, space = before.rstrip(), " " if before else ""
    needle = NEEDLE.format(city=city, number=number)
    return f"{DESCRIPTION}\n\n{before}{space}{needle}{' ' if after else ''}{after}\n\n{ASK.format(city=city)}"


def draw(hay: Haystack, seed: int, cell: Cell, trial: int) -> tuple[str, str]:
    """A city, and a number of six digits that the haystack does not hold."""
    generator = np.random.default_rng([seed, cell.length, cell.depth_index or 0, trial])
    city = CITIES[int(generator.integers(len(CITIES)))]
    while (number := str(generator.integers(100_000, 1_000_000))) in hay.text:
        pass
    return city, number


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each depth."""
    return depth_grid(inputs.settings, "needle", length, minimum_length(inputs), ANSWER_TOKENS)


def minimum_length(inputs: Inputs) -> int:
    """The shortest length, in tokens, that holds the fixed parts and the answer, whatever the city and the number."""

    def measure() -> int:
        hay = haystack(inputs)
        numbers = ("987654", "555555", "100000", "707070")
        return max(len(prompt(inputs, hay, 0, 0.0, city, number)) for city in CITIES for number in numbers)

    return inputs.once("needle minimum", measure) + ANSWER_TOKENS


def prompt(inputs: Inputs, hay: Haystack, sentences: int, depth: float, city: str, number: str) -> list[int]:
    """The prompt of `prompt_text` with the words that lead the answer, as token ids."""
    return inputs.encode(prompt_text(hay, sentences, depth, city, number), LEAD.format(city=city))


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The prompt with as many sentences as leave room for the answer."""
    hay, depth, room = haystack(inputs), cell.depth or 0.0, cell.length - cell.answer_tokens
    city, number = draw(hay, inputs.settings.seed, cell, trial)
    empty = len(prompt(inputs, hay, 0, depth, city, number))
    hint = hay.sentences((room - empty) * hay.characters)
    _, ids = fit(lambda n: prompt(inputs, hay, n, depth, city, number), room, hint)
    return Question(ids, inputs.draft(LEAD.format(city=city), f" {number}."), [number])


TASK = Task(
    name="needle",
    version=1,
    metric="accuracy",
    cells=cells,
    question=question,
    score=lambda answer, question: float(passkey.first_number(answer) == question.truth[0]),
    ended=lambda answer, question: passkey.number_ended(answer),
    check=check,
)
