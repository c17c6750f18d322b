"""Key/value retrieval: a long list of random pairs, and at its end the question what belongs to one of the keys.

Two variants (`evaluation.key_value.protocols`). `lines` follows h2oGPT's long-context test: lines `'key' = 'value'` of
8 and 4 hex digits, until only the answer has room. `json` follows Liu et al. (arXiv 2307.03172, section 3): UUIDs in
one JSON object, with the pair that is asked for moved from first to last. docs/evaluation.md lists how they differ from
the originals.

The pair asked for is named at the end only, so all questions about a list begin with the whole list.
"""

import bisect
import math
import re
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question, Task, TooShortError
from skipwise.utils import progress
from skipwise.utils.text import length_text


class Pair(NamedTuple):
    """A key and its value, as text."""

    key: str
    value: str


class KeyValueVariant(NamedTuple):
    """How the pairs, the list and the question look."""

    draw: Callable[[np.random.Generator], Iterator[Pair]]
    """Pairs without end, or until they cannot be unique."""
    show: Callable[[list[Pair]], str]
    """A list as text."""
    ask: str
    """What follows it; `{key}` stands for the key."""
    lead: str
    """The words that begin the answer."""
    answer: str
    answer_tokens: int
    fewest: int
    """Pairs in the shortest list."""


def hex_pairs(generator: np.random.Generator) -> Iterator[Pair]:
    """Keys of 8 hex digits and values of 4, all different; a value has a decimal digit, so that it is not a word."""
    keys: set[str] = set()
    for number in generator.permutation(16**4):
        value = f"{number:04x}"
        key = f"{generator.integers(16**8):08x}"
        if key not in keys and not value.isalpha():
            keys.add(key)
            yield Pair(key, value)


def uuid_pairs(generator: np.random.Generator) -> Iterator[Pair]:
    """Random UUIDs (version 4), keys and values all different."""
    seen: set[str] = set()
    while True:
        pair = Pair(*(str(uuid.UUID(bytes=generator.bytes(16), version=4)) for _ in range(2)))
        if pair.key != pair.value and seen.isdisjoint(pair):
            seen.update(pair)
            yield pair


def show_lines(pairs: list[Pair]) -> str:
    """Write a list as h2oGPT's test does, a pair a line."""
    return "## UUID key/value pairs to remember:\n\n" + "".join(f"'{key}' = '{value}'\n" for key, value in pairs)


def show_json(pairs: list[Pair]) -> str:
    """Write a list as Liu et al. do, in one JSON object."""
    shown = ",\n ".join(f'"{key}": "{value}"' for key, value in pairs)
    return f"Extract the value corresponding to the specified key in the JSON object below.\n\nJSON data:\n{{{shown}}}"


# UUIDs have up to 36 tokens; what is over is for quotes, and words before the value.
VARIANTS = {
    "lines": KeyValueVariant(
        hex_pairs,
        show_lines,
        ask="\n\nWhat is the value of the key '{key}'?",
        lead="\n'{key}' = '",
        answer="{value}'",
        answer_tokens=32,
        fewest=1,
    ),
    "json": KeyValueVariant(
        uuid_pairs,
        show_json,
        ask='\n\nKey: "{key}"',
        lead="\nCorresponding value:",
        answer=' "{value}"',
        answer_tokens=64,
        fewest=2,
    ),
}


def check(settings: EvaluationConfig) -> None:
    """Refuse settings that cannot work.

    Raises:
        SkipwiseError: There are no depths or variants, or fewer pairs than different questions about a list.
    """
    if not settings.depths or not settings.key_value.protocols:
        empty = "depths" if not settings.depths else "key_value.protocols"
        raise SkipwiseError(f"evaluation.{empty} is empty; leave it out for its default")
    if (settings.key_value.pairs or math.inf) < questions_a_list(settings):
        raise SkipwiseError(
            f"evaluation.key_value.pairs = {settings.key_value.pairs} gives no different pair to each of the "
            f"{questions_a_list(settings)} trials about a list; give more pairs or more evaluation.key_value.lists"
        )


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each variant and depth. Variants that the length cannot hold are left out, with a message."""
    settings = inputs.settings
    check(settings)
    chosen, short = [], list[str]()
    for name in dict.fromkeys(settings.key_value.protocols):
        try:
            for which in range(min(settings.key_value.lists, settings.trials)):
                pairs_of(inputs, name, length, which)
            chosen.append(name)
        except TooShortError as error:
            short.append(str(error))
    if not chosen:
        raise TooShortError(short[0])
    for reason in short:
        progress.say(f"left out: {reason}")
    return [
        Cell(length, settings.trials, VARIANTS[name].answer_tokens, depth, i, name)
        for name in chosen
        for i, depth in enumerate(settings.depths)
    ]


def pairs_of(inputs: Inputs, name: str, length: int, which: int) -> list[Pair]:
    """Make the pairs of a list, once for all its questions.

    They are as many as leave room for any question and its answer, or `key_value.pairs`.

    Args:
        inputs: What prompts are made from.
        name: Of the variant.
        length: Most tokens of a prompt with its answer.
        which: Number of the list.

    Raises:
        TooShortError: The length holds fewer pairs than there are different questions.
    """
    return inputs.once(("key_value", name, length, which), lambda: _make_pairs(inputs, name, length, which))


def _make_pairs(inputs: Inputs, name: str, length: int, which: int) -> list[Pair]:
    settings, variant = inputs.settings, VARIANTS[name]
    generator = np.random.default_rng([settings.seed, length, which, list(VARIANTS).index(name)])
    source = variant.draw(generator)
    drawn, longest = list[Pair](), list[tuple[int, str]]()  # the pairs, and the longest question about the first n

    def make(n: int) -> list[int]:
        while len(drawn) < max(n, 1):
            pair = next(source, None)
            if pair is None:
                raise SkipwiseError(
                    f"key_value has only {len(drawn):,} different values; give a length under {length_text(length)}"
                )
            tokens = inputs.count((variant.ask + variant.lead).format(key=pair.key))
            longest.append(max([(tokens, pair.key), *longest[-1:]]))
            drawn.append(pair)
        return prompt(inputs, variant, drawn[:n], longest[max(n, 1) - 1][1])

    room = length - variant.answer_tokens
    fewest = max(settings.key_value.pairs or variant.fewest, questions_a_list(settings))
    needed = len(make(fewest))
    if needed > room:
        raise TooShortError(
            f"{length_text(length)} tokens are too short for key_value ({name}): with this tokenizer a list of "
            f"{fewest} pairs, the question and the answer take {length_text(needed + variant.answer_tokens)}; "
            "give longer evaluation.retrieval_lengths"
        )
    if settings.key_value.pairs is not None:
        return drawn[: settings.key_value.pairs]
    per_pair = (len(make(fewest + 20)) - needed) / 20
    n, _ = fit(make, room, int(fewest + (room - needed) / per_pair))
    return drawn[:n]


def prompt(inputs: Inputs, variant: KeyValueVariant, pairs: list[Pair], key: str) -> list[int]:
    """The prompt that asks for `key` after a list, as token ids."""
    return inputs.encode(variant.show(pairs) + variant.ask.format(key=key), variant.lead.format(key=key))


def questions_a_list(settings: EvaluationConfig) -> int:
    """Count the trials that ask about the same list."""
    return math.ceil(settings.trials / settings.key_value.lists)


def place(depth: float, pairs: int, trial: int, together: int) -> int:
    """Index of the pair that a trial asks for: floor(depth · (pairs - 1)), as Liu et al. have it, or a neighbour.

    Args:
        depth: Where the pair stands in the list, 0 to 1.
        pairs: Pairs in the list.
        trial: Number of the trial among those about the list.
        together: How many trials ask about the list.
    """
    return neighbour(math.floor(depth * (pairs - 1) + 1e-9), pairs, trial, together)


def neighbour(middle: int, pairs: int, trial: int, together: int) -> int:
    """Index of the pair that one of `together` trials about a list asks for: neighbours, `middle` among them."""
    return min(max(middle - together // 2, 0), pairs - together) + trial


def at_token(inputs: Inputs, text: str, pairs: list[Pair], token: float) -> int:
    """Index of the first pair that begins at `token` of the list's text or behind it; the last one where none does."""

    def begin(i: int) -> int:
        return inputs.count(text[: text.index(pairs[i].key) - 1])

    return min(bisect.bisect_left(range(len(pairs)), token, key=begin), len(pairs) - 1)


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The prompt about one pair, at the depth of the cell."""
    assert cell.variant is not None
    variant, settings, depth = VARIANTS[cell.variant], inputs.settings.key_value, cell.depth or 0.0
    which, together = trial % settings.lists, questions_a_list(inputs.settings)
    pairs = pairs_of(inputs, cell.variant, cell.length, which)
    if settings.depth == "token":
        middle = inputs.once(
            ("key_value", cell.variant, cell.length, which, depth),
            lambda: at_token(inputs, variant.show(pairs), pairs, depth * cell.length),
        )
        asked = pairs[neighbour(middle, len(pairs), trial // settings.lists, together)]
    else:
        asked = pairs[place(depth, len(pairs), trial // settings.lists, together)]
    ids = prompt(inputs, variant, pairs, asked.key)
    assert len(ids) <= cell.length - cell.answer_tokens
    draft = inputs.draft(variant.lead.format(key=asked.key), variant.answer.format(value=asked.value))
    return Question(ids, draft, [asked.value, asked.key], unit=f"list {which}")


def first_value(answer: str, key: str) -> re.Match[str] | None:
    """The first word with a digit in it that is not the key, whole: `"= 'f00d', '1234'"` → `f00d`."""
    words = re.finditer("[0-9A-Za-z_]+(?:-[0-9A-Za-z_]+)*", answer)
    return next((word for word in words if re.search("[0-9]", word[0]) and word[0].lower() != key), None)


def score(answer: str, question: Question) -> float:
    """1 where the first value that an answer gives is the right one; being among others further on does not count."""
    value, key = question.truth
    first = first_value(answer, key)
    return float(first is not None and first[0].lower() == value)


def value_ended(answer: str, question: Question) -> bool:
    """Whether something follows the first value that cannot be part of it."""
    first = first_value(answer, question.truth[1])
    return first is not None and answer[first.end() :].strip("-") != ""


TASK = Task(
    name="key_value",
    version=1,
    metric="accuracy",
    cells=cells,
    question=question,
    score=score,
    ended=value_ended,
    apart=True,
    check=check,
)
