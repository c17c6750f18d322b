"""Make the prompts of RULER's tasks: text and references for a size and a random generator.

Written to the published generator's specification (arXiv 2404.06654, appendices B and D; the code released with it):
its wording, numbers of needles, hops and repetitions, types of keys and values, and order. A size is whatever a task
repeats to grow: lines of noise, words of an essay, needles, words of a list, documents. With one generator, a larger
size never gives fewer tokens.
"""

import functools
import itertools
import math
import random
import re
import string
import uuid
from collections.abc import Callable, Container, Hashable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

from skipwise.errors import SkipwiseError

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
NEEDLE = "One of the special magic {kind} for {key} is: {value}."
DEPTHS = tuple(round(100 * i / 39) for i in range(40))
"""Where a needle may stand in an essay, in per cent of its sentences."""

SHORT = 4096
"""Below this length, in tokens, lists of common words repeat less and their example is shorter."""
EXAMPLE_TOKENS = 500
"""Most tokens of the worked example that goes before variable tracking."""
COMMON = 10
ZETA_2 = math.pi**2 / 6
TITLES = {"Mr.", "Mrs.", "Ms.", "Dr.", "St.", "Prof.", "e.g.", "i.e.", "vs.", "No."}

Kind = Literal["numbers", "words", "uuids"]
T = TypeVar("T", bound=Hashable)


class Sample(NamedTuple):
    """The text of one prompt, with its right answers."""

    body: str
    lead: str
    """RULER's answer prefix: the words that begin the answer."""
    truth: list[str]
    draft: str
    """How a right answer would go on after the lead."""


class Essay(NamedTuple):
    """Prose as words, for needles to stand between its sentences."""

    words: list[str]
    ends: list[int]
    """Number of words up to the end of each sentence; the last one is all of them."""


class QuestionAndDocuments(NamedTuple):
    """A question about some of `Documents.texts`, which it names by index."""

    question: str
    answers: list[str]
    documents: list[int]
    """Those that hold the answer, always in the prompt."""
    related: list[int]
    """Those that are taken before any others."""


class Documents(NamedTuple):
    """Paragraphs, and questions about them."""

    texts: list[str]
    questions: list[QuestionAndDocuments]


@dataclass(frozen=True)
class PromptTexts:
    """What the prompts of one length are made from."""

    length: int
    count: Callable[[str], int]
    """Tokens of a text."""
    essay: Callable[[], Essay]
    documents: Callable[[], Documents]
    trial: int


@functools.cache
def words() -> tuple[list[str], list[str], list[str]]:
    """(adjectives, nouns, these and verbs together), each sorted. Errors: SkipwiseError without `wonderwords`."""
    try:
        from wonderwords import RandomWord
    except ImportError as error:
        raise SkipwiseError("RULER's words come from wonderwords: pip install 'skipwise[ruler]'") from error
    lists = RandomWord()
    adjectives, nouns, verbs = (
        sorted(set(lists.filter(include_categories=[kind]))) for kind in ("adjectives", "nouns", "verbs")
    )
    return adjectives, nouns, sorted({*adjectives, *nouns, *verbs})


def essay(texts: Iterable[str]) -> Essay:
    """Texts as one run of words. Sentences end where a word does in `.`, `?` or `!`, quotes and brackets allowed."""
    words = " ".join(texts).split()
    ends = [i for i, word in enumerate(words, 1) if re.search(r"[.?!][\"'”’)\]]*$", word) and word not in TITLES]
    return Essay(words, ends if ends and ends[-1] == len(words) else [*ends, len(words)])


def distinct(draw: Callable[[], T], count: int, but: Container[T] = ()) -> list[T]:
    """`count` different draws, in their order; the first ones do not depend on `count`."""
    draws: dict[T, None] = {}
    while len(draws) < count:
        one = draw()
        if one not in but:
            draws[one] = None
    return list(draws)


def draw_kind(rng: random.Random, kind: Kind) -> Callable[[], str]:
    """A drawer of seven-digit numbers, adjective-noun pairs, or UUIDs of version 4."""
    if kind == "numbers":
        return lambda: str(rng.randint(1_000_000, 9_999_999))
    if kind == "uuids":
        return lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4))
    adjectives, nouns, _ = words()
    return lambda: f"{rng.choice(adjectives)}-{rng.choice(nouns)}"


@dataclass(frozen=True)
class Needles:
    """A needle-in-a-haystack task: what it hides, in what, and how much of it is asked for."""

    haystack: Literal["noise", "essay", "needle"]
    key_kind: Kind = "words"
    value_kind: Kind = "numbers"
    keys: int = 1
    values: int = 1
    """Values of each key."""
    queries: int = 1

    @property
    def count(self) -> int:
        """Needles in a prompt."""
        return self.keys * self.values

    def least(self) -> int:
        """Size of the smallest haystack: no shorter than its needles. Words in essays, else lines."""
        return self.count * (len(NEEDLE.split()) if self.haystack == "essay" else 1)

    def sample(self, texts: PromptTexts, rng: random.Random, size: int) -> Sample:
        """The prompt with a haystack of `size`: words in essays, else lines."""
        draw_key, draw_value = draw_kind(rng, self.key_kind), draw_kind(rng, self.value_kind)
        keys, values = distinct(draw_key, self.keys), distinct(draw_value, self.count)
        answers = {key: values[i * self.values : (i + 1) * self.values] for i, key in enumerate(keys)}
        needles = [self._line(key, value) for key in keys for value in answers[key]]
        rng.shuffle(needles)
        queries = rng.sample(keys, self.queries)
        truth = [value for key in queries for value in answers[key]]
        if self.haystack == "essay":
            context = _in_essay(texts.essay(), needles, rng, size)
        else:
            lines = [NOISE] * size
            if self.haystack == "needle":
                lines = [
                    self._line(*distinct(draw_key, 1, but=keys), *distinct(draw_value, 1, but=values)) for _ in lines
                ]
            for place, needle in zip(sorted(rng.sample(range(size), self.count), reverse=True), needles, strict=True):
                lines.insert(place, needle)
            context = "\n".join(lines)
        return self._ask(context, queries, truth)

    def _line(self, key: str, value: str) -> str:
        return NEEDLE.format(kind=self.value_kind, key=key, value=value)

    def _ask(self, context: str, queries: list[str], truth: list[str]) -> Sample:
        query = _enumeration(queries)
        if len(truth) == 1:
            kind, some, what = self.value_kind[:-1], "A special magic {} is", "is"
        else:
            kind, some, what = self.value_kind, "Some special magic {} are", "are all"
        body = (
            f"{some.format(kind)} hidden within the following text. Make sure to memorize it. "
            f"I will quiz you about the {kind} afterwards.\n{context}\n"
            f"What {what} the special magic {kind} for {query} mentioned in the provided text?"
        )
        lead = f" The special magic {kind} for {query} mentioned in the provided text {what.split()[0]}"
        return Sample(body, lead, truth, f" {_enumeration(truth)}.")


def _enumeration(items: list[str]) -> str:
    return ", ".join(items[:-1]) + ", and " + items[-1] if len(items) > 1 else items[0]


def _in_essay(text: Essay, needles: list[str], rng: random.Random, size: int) -> str:
    """The first `size` words of an essay, over again where it is too short, with needles between its sentences."""
    rounds = -(-size // len(text.words))
    ends = [turn * len(text.words) + end for turn in range(rounds) for end in text.ends]
    ends = [end for end in ends if end < size] + [size]
    words = (text.words * rounds)[:size]
    parts, start = list[str](), 0
    for depth, needle in zip(sorted(rng.sample(DEPTHS, len(needles))), needles, strict=True):
        sentences = int(len(ends) * (depth / 100))
        stop = ends[sentences - 1] if sentences else 0
        parts += [*words[start:stop], needle]
        start = stop
    return " ".join([*parts, *words[start:]])


HOPS = 4


def variable_tracking(texts: PromptTexts, rng: random.Random, size: int) -> Sample:
    """One chain of five variables in lines of noise, after a worked example with shorter names."""
    smallest = _chain(rng, HOPS + 1, 3)
    line = texts.count(f"{NOISE}\n")
    more = (EXAMPLE_TOKENS - texts.count(smallest.body + smallest.lead)) // line
    example = _chain(rng, HOPS + 1 + max(more, 0), 3)
    sample = _chain(rng, size, 5)
    return sample._replace(body=f"{example.body}{example.lead} {' '.join(example.truth)}\n\n{sample.body}")


def _chain(rng: random.Random, lines: int, letters: int) -> Sample:
    names = distinct(lambda: "".join(rng.choices(string.ascii_uppercase, k=letters)), HOPS + 1)
    value = str(rng.randint(10_000, 99_998))
    steps = [f"VAR {names[0]} = {value}", *(f"VAR {new} = VAR {old} " for old, new in itertools.pairwise(names))]
    context = [NOISE] * lines
    for place, step in reversed(list(zip(sorted(rng.sample(range(lines), len(steps))), steps, strict=True))):
        context.insert(place, step)
    body = (
        "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
        + "\n".join(context)
        + f"\nQuestion: Find all variables that are assigned the value {value} in the text above."
    )
    lead = (
        f" Answer: According to the chain(s) of variable assignment in the text above, {len(names)} variables are "
        f"assigned the value {value}, they are: "
    )
    return Sample(body, lead, names, f" {' '.join(names)}")


def common_words(texts: PromptTexts, rng: random.Random, size: int) -> Sample:
    """A numbered list of `size` different words, ten of them many times, after a worked example."""
    adjectives, nouns, everything = words()
    short = texts.length < SHORT
    example = _word_list(rng, rng.sample(everything, 20 if short else 40), *((3, 1) if short else (10, 3)))
    pool = rng.sample(everything, len(everything))
    if size > len(pool):
        pool += distinct(lambda: f"{rng.choice(adjectives)}-{rng.choice(nouns)}", size - len(pool), but=set(pool))
    sample = _word_list(rng, pool[:size], *((6, 1) if short else (30, 3)))
    return sample._replace(body=f"{example.body}{example.lead}{example.draft}\n{sample.body}")


def _word_list(rng: random.Random, chosen: list[str], common: int, uncommon: int) -> Sample:
    """The first ten of `chosen` stand `common` times in the list, the others `uncommon` times."""
    listed = chosen[:COMMON] * common + chosen[COMMON:] * uncommon
    rng.shuffle(listed)
    body = (
        "Below is a numbered list of words. In these words, some appear more often than others. "
        f"Memorize the ones that appear most often.\n{_numbered(listed)}\n"
        "Question: What are the 10 most common words in the above list?"
    )
    lead = " Answer: The top 10 words that appear most often in the list are:"
    return Sample(body, lead, chosen[:COMMON], f" {_numbered(chosen[:COMMON])}")


def _numbered(items: list[str]) -> str:
    return " ".join(f"{i}. {item}" for i, item in enumerate(items, 1))


CODED_ANSWER_TOKENS = 50
FEWEST_CODED = 74
"""From here on the fourth rank's count is always above the fifth's: n (1/16 - 1/25) / ζ(2) >= 1."""


def frequent_words(texts: PromptTexts, rng: random.Random, size: int) -> Sample:
    """`size` coded words under a zeta law of exponent 2: rank k stands ⌊size / (k² ζ(2))⌋ times, and rank 1 is dots."""
    vocabulary = max((texts.length - CODED_ANSWER_TOKENS) // 50, 5)
    ranks = ["...", *distinct(lambda: "".join(rng.choices(string.ascii_lowercase, k=6)), vocabulary - 1)]
    coded = [word for k, word in enumerate(ranks, 1) for _ in range(int(size / k**2 / ZETA_2))]
    rng.shuffle(coded)
    body = (
        "Read the following coded text and track the frequency of each coded word. "
        f"Find the three most frequently appeared coded words. {' '.join(coded)}\n"
        "Question: Do not provide any explanation. Please ignore the dots '....'. "
        "What are the three most frequently appeared words in the above coded text?"
    )
    lead = " Answer: According to the coded text above, the three most frequently appeared words are:"
    return Sample(body, lead, ranks[1:4], f" {_enumeration(ranks[1:4])}")


def question_answering(texts: PromptTexts, rng: random.Random, size: int) -> Sample:
    """The question of the trial's number after documents: those that hold the answer and `size` others, mixed."""
    passages, questions = texts.documents()
    asked = questions[texts.trial]
    size += len(asked.documents)
    if size < len(passages):
        first = [*asked.documents, *rng.sample(asked.related, len(asked.related))]
        others = distinct(lambda: rng.randrange(len(passages)), size - len(first), but=set(first))
        chosen = [passages[i] for i in [*first, *others][:size]]
    else:
        chosen = (passages * -(-size // len(passages)))[:size]
    rng.shuffle(chosen)
    task = (
        "Answer the question based on the given documents. "
        "Only give me the answer and do not output any other words.\n\n"
    )
    context = "\n\n".join(f"Document {i}:\n{text}" for i, text in enumerate(chosen, 1))
    body = f"{task}The following are given documents.\n\n{context}\n\n{task}Question: {asked.question}"
    return Sample(body, " Answer:", asked.answers, f" {asked.answers[0]}")
