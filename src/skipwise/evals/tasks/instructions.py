"""Short instructions whose answers a rule can check: does a model still do as it is told?

The kinds are in the spirit of IFEval (arXiv 2311.07911): formats, copying, short sums, facts, JSON. The prompts are our
own, drawn by the seed, and short, so one length is measured, the one that holds them. With `evaluation.chat=true` a
prompt is the user's turn of the chat template, which is how to ask an instruct model; without it "Answer:" follows.
"""

import json
import re
from collections.abc import Callable

import numpy as np

from skipwise.evals.averages import joined
from skipwise.evals.intervals import mean_interval
from skipwise.evals.rows import Row
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError, scored
from skipwise.utils.text import length_text

ANSWER_TOKENS = 64
LEAD = "\nAnswer:"
MOST_MISSES = 200
"""Draws of what was drawn before, after which a kind has no other instruction to offer."""
ROUND = 64
"""The length is rounded up to a multiple of it."""

Random = np.random.Generator
Truth = list[str]
"""The name of a rule, and what it compares with."""

SENTENCES = (
    "The old clock in the hall stopped at noon.", "Three boats left the harbour before sunrise.",
    "My neighbour grows tomatoes on her balcony.", "The train to the coast was late again.",
    "Nobody had seen the grey cat since Monday.", "A cold wind came down from the mountains.",
    "The library closes early on Fridays.", "Her brother repairs bicycles in a small shop.",
    "We painted the garden fence last summer.", "The children built a bridge of wood and string.",
    "He keeps his letters in a tin box.", "The market sells fresh bread and cheese.",
)  # fmt: skip
TOPICS = ("the sea", "a dog", "winter", "bread", "a train", "the moon", "a garden", "music", "rain", "a school")
WORDS = ("river", "lamp", "stone", "window", "apple", "bridge", "cloud", "horse", "letter", "shoe", "forest", "clock")
NAMES = ("Anna", "Bruno", "Clara", "David", "Elena", "Felix", "Greta", "Hugo", "Irene", "Jonas")
THINGS = ("apples", "pencils", "books", "eggs", "candles", "chairs", "stamps", "coins", "plates", "oranges")
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "Egypt": "Cairo",
    "Greece": "Athens", "Russia": "Moscow", "China": "Beijing", "Portugal": "Lisbon", "Cuba": "Havana",
    "Ireland": "Dublin", "Poland": "Warsaw", "Austria": "Vienna",
}  # fmt: skip
YES_NO = {
    "Is water wet?": "yes", "Is the sun cold?": "no", "Can birds fly?": "yes", "Do fish live in trees?": "no",
    "Is ice frozen water?": "yes", "Is the earth flat?": "no", "Is a week seven days long?": "yes",
    "Is London in France?": "no", "Do cows give milk?": "yes", "Is five larger than nine?": "no",
    "Is grass green?": "yes", "Is a whale a bird?": "no", "Does a year have twelve months?": "yes",
    "Is snow black?": "no",
}  # fmt: skip
SPANISH = {
    "dog": "perro", "cat": "gato", "house": "casa", "water": "agua", "book": "libro", "sun": "sol", "moon": "luna",
    "red": "rojo", "friend": "amigo", "night": "noche", "bread": "pan", "milk": "leche",
}  # fmt: skip
LISTED = ("colours", "animals", "fruits", "countries", "tools", "sports", "vegetables", "cities")
ENDINGS = ("That is all.", "Thank you for asking.", "I hope this helps.", "End of answer.")


def _some(rng: Random, pool: tuple[str, ...] | dict[str, str]) -> str:
    choices = list(pool)
    return choices[int(rng.integers(len(choices)))]


def _two(rng: Random, pool: tuple[str, ...]) -> list[str]:
    return [pool[int(i)] for i in rng.choice(len(pool), 2, replace=False)]


def _copy(rng: Random) -> tuple[str, Truth]:
    sentence = _some(rng, SENTENCES)
    return f"Repeat this sentence exactly as it is: {sentence}", ["contains", sentence]


def _capitals(rng: Random) -> tuple[str, Truth]:
    sentence = _some(rng, SENTENCES)
    return f"Write this sentence in capital letters only: {sentence}", ["capitals", sentence.upper()]


def _sum(rng: Random) -> tuple[str, Truth]:
    a, b = (int(n) for n in rng.integers(2, 20, size=2))
    return f"What is {a} + {b}? Answer with the number only.", ["number", str(a + b)]


def _larger(rng: Random) -> tuple[str, Truth]:
    a, b = (int(n) for n in rng.choice(np.arange(10, 100), 2, replace=False))
    return f"Which number is larger, {a} or {b}? Answer with the number only.", ["number", str(max(a, b))]


def _sort(rng: Random) -> tuple[str, Truth]:
    numbers = [int(n) for n in rng.choice(np.arange(1, 30), 3, replace=False)]
    shown = ", ".join(map(str, numbers))
    asked = f"Sort these numbers from the smallest to the largest: {shown}. Answer with the numbers only."
    return asked, ["numbers", " ".join(map(str, sorted(numbers)))]


def _yes_no(rng: Random) -> tuple[str, Truth]:
    asked = _some(rng, YES_NO)
    return f"{asked} Answer with yes or no only.", ["first_word", YES_NO[asked]]


def _capital(rng: Random) -> tuple[str, Truth]:
    country = _some(rng, CAPITALS)
    return f"What is the capital of {country}? Answer with the name of the city only.", ["name", CAPITALS[country]]


def _translate(rng: Random) -> tuple[str, Truth]:
    word = _some(rng, SPANISH)
    return f"What is the Spanish word for '{word}'? Answer with one word.", ["name", SPANISH[word]]


def _extract(rng: Random) -> tuple[str, Truth]:
    (one, two), (thing, other) = _two(rng, NAMES), _two(rng, THINGS)
    text = f"{one} bought {int(rng.integers(2, 10))} {thing}. {two} bought {int(rng.integers(2, 10))} {other}."
    return f"Read this text: {text} What did {two} buy? Answer with one word.", ["name", other]


def _words(rng: Random) -> tuple[str, Truth]:
    count = int(rng.integers(3, 7))
    return f"Write a sentence about {_some(rng, TOPICS)} with exactly {count} words.", ["words", str(count)]


def _json(rng: Random) -> tuple[str, Truth]:
    person = {"name": _some(rng, NAMES), "age": int(rng.integers(20, 80))}
    asked = f'Write a JSON object with the key "name" for {person["name"]} and the key "age" for {person["age"]}.'
    return f"{asked} Answer with the JSON only.", ["json", json.dumps(person)]


def _list(rng: Random) -> tuple[str, Truth]:
    count = int(rng.integers(3, 6))
    return f"Name {count} {_some(rng, LISTED)}, one a line. Begin each line with '- '.", ["bullets", str(count)]


def _keywords(rng: Random) -> tuple[str, Truth]:
    words = _two(rng, WORDS)
    return f"Write one sentence that contains the words '{words[0]}' and '{words[1]}'.", ["keywords", *words]


def _ending(rng: Random) -> tuple[str, Truth]:
    ending = _some(rng, ENDINGS)
    return f"Say one thing about {_some(rng, TOPICS)}. End your answer with the words: {ending}", ["ends", ending]


KINDS: dict[str, Callable[[Random], tuple[str, Truth]]] = {
    "copy": _copy, "capitals": _capitals, "sum": _sum, "larger": _larger, "sort": _sort, "yes_no": _yes_no,
    "capital": _capital, "translate": _translate, "extract": _extract, "words": _words, "json": _json,
    "list": _list, "keywords": _keywords, "ending": _ending,
}  # fmt: skip


def _first_line(answer: str) -> str:
    return next((line for line in answer.split("\n") if line.strip()), "")


def _numbers(text: str) -> list[str]:
    return re.findall(r"\d+", text.replace(",000", "000"))


def _is_word_of(word: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) is not None


def _object(answer: str) -> object:
    """The JSON object of an answer, perhaps between the marks of a code block; None where it is not JSON alone."""
    text = re.sub(r"^```(?:json)?|```$", "", answer.strip()).strip()
    try:
        return json.loads(text)
    except ValueError:
        return None


RULES: dict[str, Callable[[str, Truth], bool]] = {
    "contains": lambda answer, right: right[0] in answer,
    "capitals": lambda answer, right: right[0] in answer and not re.search("[a-z]", answer),
    "number": lambda answer, right: _numbers(_first_line(answer))[-1:] == right,
    "numbers": lambda answer, right: " ".join(_numbers(_first_line(answer))) == right[0],
    "first_word": lambda answer, right: re.findall("[a-z]+", answer.lower())[:1] == right,
    "name": lambda answer, right: _is_word_of(right[0], _first_line(answer)),
    "words": lambda answer, right: len(answer.split()) == int(right[0]),
    "json": lambda answer, right: _object(answer) == json.loads(right[0]),
    "bullets": lambda answer, right: (
        [line.strip()[:2] for line in answer.split("\n") if line.strip()] == ["- "] * int(right[0])
    ),
    "keywords": lambda answer, right: all(_is_word_of(word, answer) for word in right),
    "ends": lambda answer, right: answer.strip().endswith(right[0]),
}
ONE_LINE = ("number", "numbers", "name")
"""Rules that look at the first line alone."""
GROWING = ("contains", "keywords")
"""Rules that stay true however an answer goes on."""


def draw(seed: int, kind: str, count: int) -> list[tuple[str, Truth]]:
    """Draw instructions with the rules for their answers. None comes twice before its kind has no other to offer."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    drawn: list[tuple[str, Truth]] = []
    texts, misses = set[str](), 0
    while len(drawn) < count:
        text, truth = KINDS[kind](rng)
        if text in texts and misses < MOST_MISSES:
            misses += 1
            continue
        if text in texts:
            texts.clear()
        texts.add(text)
        drawn.append((text, truth))
        misses = 0
    return drawn


def score(answer: str, question: Question) -> float:
    """1 where the rule holds."""
    rule, *right = question.truth
    return float(RULES[rule](answer, right))


def ended(answer: str, question: Question) -> bool:
    """Whether nothing that follows can change the score."""
    rule, *right = question.truth
    if rule in ONE_LINE:
        return "\n" in answer.lstrip()
    if rule == "first_word":
        return re.search("[a-z]+[^a-z]", answer.lower()) is not None
    return rule in GROWING and RULES[rule](answer[:-1], right)


def questions(inputs: Inputs) -> dict[str, list[Question]]:
    """The prompts by kind."""
    return inputs.once("instructions", lambda: {kind: _questions(inputs, kind) for kind in KINDS})


def _questions(inputs: Inputs, kind: str) -> list[Question]:
    settings = inputs.settings
    drawn = draw(settings.seed, kind, settings.instructions.samples)
    lead = "" if settings.chat else LEAD
    return [Question(inputs.encode(text, lead), [], truth) for text, truth in drawn]


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each kind, at the length that holds the longest prompt and its answer."""
    asked = questions(inputs)
    longest = max(len(one.ids) for kind in asked.values() for one in kind) + ANSWER_TOKENS
    if longest > length:
        raise TooShortError(
            f"instructions at {length_text(length)} tokens: the longest prompt and its answer take "
            f"{length_text(longest)}; give longer evaluation.retrieval_lengths"
        )
    rounded = min(-(-longest // ROUND) * ROUND, length)
    return [Cell(rounded, len(asked[kind]), ANSWER_TOKENS, variant=kind) for kind in KINDS]


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The prompt of one trial; `cell.variant` is its kind."""
    return questions(inputs)[cell.variant or ""][trial]


def summarise(inputs: Inputs, rows: list[Row]) -> list[Row]:
    """A row over all kinds, of which every prompt counts the same."""
    scores = [score for row in rows for score in row.scores]
    whole = rows[0].replace(variant="all", n=len(scores), **joined(rows))
    interval = mean_interval(scores)
    return [scored(whole, scores).replace(low=interval.low, high=interval.high, interval=interval.name)]


TASK = Task(
    name="instructions",
    version=1,
    metric="accuracy",
    cells=cells,
    question=question,
    score=score,
    ended=ended,
    summarise=summarise,
    largest_only=True,
)
