"""A needle in a haystack: a city's number in one sentence of real prose, asked for at the end.

The haystack is text that the user names, from its beginning, repeated where it is shorter than a length. The needle
stands between two sentences, the one nearest to its depth. Every prompt of a length has the same haystack, so what
comes before the needles is read once.
"""

import numpy as np

from skipwise.config import EvaluationConfig
from skipwise.evals import filler
from skipwise.evals.filler import Haystack
from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question, Task, check_depths, depth_grid
from skipwise.evals.tasks import passkey

ANSWER_TOKENS = 16
SETTING = "evaluation.needle.haystack"

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


def haystack(inputs: Inputs) -> Haystack:
    """Read the prose that the settings name, once for all prompts.

    Raises:
        SkipwiseError: A path cannot be read, or no sentence ends in the text.
    """
    check(inputs.settings)
    return filler.haystack(inputs, inputs.settings.needle.haystack, SETTING)


def check(settings: EvaluationConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        SkipwiseError: There are no depths, no prose is named, or it is missing.
    """
    check_depths(settings)
    filler.check(settings.needle.haystack, SETTING)


def prompt_text(hay: Haystack, sentences: int, depth: float, city: str, number: str) -> str:
    """Write the prompt, without the words that lead the answer.

    Args:
        hay: The prose.
        sentences: How many of its sentences stand in the prompt.
        depth: Share of their characters before the needle, 0 to 1; the nearest end of a sentence is taken.
        city: Whose number is asked for.
        number: The number.
    """
    sentence = NEEDLE.format(city=city, number=number)
    text = filler.insert(hay, sentences, [(hay.border(sentences, depth), sentence)])
    return f"{DESCRIPTION}\n\n{text}\n\n{ASK.format(city=city)}"


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
