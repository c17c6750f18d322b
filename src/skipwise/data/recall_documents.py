"""Synthetic recall documents: facts hidden in filler text, asked for at the end.

They teach a model to look a fact up at any distance, which ordinary text asks for too rarely for a small model and a
short training. Keys, values, wordings, fillers and places all vary; every draw comes from the generator that is passed
in. The words of the passkey evaluation ("pass key", its introduction, the sentences of its filler) do not occur, so
that it stays a test.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from skipwise.data.labels import IGNORED
from skipwise.errors import SkipwiseError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tokens = npt.NDArray[np.int64]

ADJECTIVES = "secret magic hidden access special golden locker final launch master entry blue red lucky safe".split()
NOUNS = "key code number word token price date room address answer account ticket score page seat".split()
NAMES = "alpha beta gamma delta count total limit offset width height index level speed weight budget size".split()
WORDS = "river apple stone cloud horse lamp forest silver winter garden copper island candle mirror falcon".split()

# (fact, question up to the answer, rest of the question); {k} is the key, {v} the value. The packaged model was
# pre-trained with these words: other ones are another model.
WORDINGS = [
    ("The {k} is {v}. Remember it. {v} is the {k}.", "What is the {k}? The {k} is", "."),
    ("The {k} is {v}.", "What is the {k}? The {k} is", "."),
    ("Please note that the {k} is {v}.", "RecallQuestion: what is the {k}? Answer: the {k} is", "."),
    ("One of the facts: the {k} equals {v}.", "The {k} equals", "."),
    ("{k} = {v}", "assert {k} ==", ""),
    ("'{k}' = '{v}'", "'{k}' = '", "'"),
]
# How a list writes a pair, and how a question about it begins where it is not the line once more.
PAIRS = ["'{k}' = '{v}'", "{k} = {v}", "{k}: {v}", '"{k}": "{v}",', "{k} -> {v}"]
ABOUT_PAIRS = ["\n\nOnce more:\n", "\n\n", "\n\nWhat belongs to {k}? "]
INTRODUCTIONS = [
    "Some facts are hidden in the following text. Read it with care; there will be questions at the end.",
    "Somewhere in this text stands something worth remembering. You will be asked about it afterwards.",
    "",
]
SENTENCES = [
    "Birds sing in the trees.", "We walk along the road.", "It rained all day.", "Nobody came.", "Time goes by.",
    "Leaves fall in autumn.", "She looked up and smiled.", "They went on and on.", "Up and down the hill.",
]  # fmt: skip


# "The {thing} is {quality}." reads like a fact: a sentence of filler must not pass for the answer.
THINGS = "night snow river road house table winter morning garden kitchen horse tower bridge ocean candle story".split()
QUALITIES = "long white cold dark old round quiet early empty warm brown tall narrow deep bright short".split()


PASSAGE = 8
"""Tokens of the shortest passage that a document repeats."""
PASSAGES = 1 / 4
"""Share of documents that repeat a passage."""
LISTS = 1 / 4
"""Share of documents that list random pairs."""
SHORTEST_PAIR = 8
"""Tokens; a guess that bounds how many pairs are drawn."""
PROBES = 256
"""Documents that are made before a training to see whether they fit."""


class RecallQuestion(NamedTuple):
    """A question and its answer as tokens, and their labels, which are -100 outside the answer."""

    tokens: list[int]
    labels: list[int]


class Recall:
    """Makes recall documents for one tokenizer.

    Args:
        tokenizer: What encodes them.
        lists: Share of documents that list random pairs.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", lists: float = LISTS) -> None:
        self.tokenizer, self.lists = tokenizer, lists

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def document(self, rng: np.random.Generator, filler: Tokens, length: int) -> tuple[Tokens, Tokens]:
        """Make one document.

        There are up to six facts for every 512 tokens; those that do not fit are left out, but at least one is always
        there. Every fourth document holds no fact but ends with a passage of its text repeated word for word;
        all of its tokens are labels. Another fourth holds a list of random pairs, among which one is found by its key
        alone: a few facts in prose have few rivals.

        Answers are a few tokens among thousands: with a loss on the others, which nobody wants to be written, they
        would hardly count.

        Args:
            rng: Where every draw comes from.
            filler: At least `length` tokens of ordinary text. In every second document short sentences, repeated, take
                its place.
            length: Tokens of the document.

        Returns:
            Token ids and labels, each (length,). The labels are -100 but for the answers.

        Raises:
            SkipwiseError: The length does not hold a fact and a question about it.
        """
        if length < 2 * (PASSAGE + 1):
            raise _too_short(length, "a passage that is met again")
        kind = rng.random()
        if kind < PASSAGES:
            size = int(rng.integers(PASSAGE, length // 2))
            start = int(rng.integers(0, length - 2 * size + 1))
            ids = np.concatenate([filler[: length - size], filler[start : start + size]]).astype(np.int64)
            return ids, ids.copy()
        if kind < PASSAGES + self.lists and (document := self._list(rng, filler, length)):
            return document
        wanted = int(rng.choice([1, 1, 2, 3, 4, 6])) * max(length // 512, 1)
        facts, questions = self._facts(rng, wanted, budget=length // 2)
        asked = sum(len(question.tokens) for question in questions)
        introduction = self.encode(INTRODUCTIONS[rng.integers(len(INTRODUCTIONS))] + "\n")
        fixed = sum(map(len, facts)) + asked
        if fixed + len(introduction) > length:
            introduction = []
        room = length - fixed - len(introduction)
        if room < 0:
            raise _too_short(length, f"a fact and a question about it, which take {fixed:,} with this tokenizer")
        if rng.random() < 1 / 2:
            unit = self.encode(" " + _sentences(rng))
            padding = np.resize(np.asarray(unit, dtype=np.int64), room)
        else:
            padding = np.asarray(filler[:room], dtype=np.int64)
        cuts = np.sort(rng.integers(0, room + 1, size=len(facts)))
        parts: list[Tokens | list[int]] = [introduction]
        for fact, start, stop in zip(facts, [0, *cuts[:-1]], cuts, strict=True):
            parts += [padding[start:stop], fact]
        return _ending([*parts, padding[cuts[-1] :]], questions)

    def check(self, length: int) -> None:
        """Make a few documents. Raises SkipwiseError where one does not fit into `length` tokens."""
        for seed in range(PROBES):
            self.document(np.random.default_rng(seed), np.zeros(length, dtype=np.int64), length)

    def needle(self, rng: np.random.Generator, filler: Tokens, length: int, depth: float) -> tuple[Tokens, int]:
        """Make a document with one fact in it, and a question about the fact and its answer at the end.

        Args:
            rng: Where every draw comes from.
            filler: At least `length` tokens of ordinary text.
            length: Tokens of the document.
            depth: Where the fact stands, 0 (start) to 1 (end).

        Returns:
            Token ids (length,), and the number of tokens of the answer.

        Raises:
            SkipwiseError: The length does not hold fact and question.
        """
        key, value = _key(rng, code=False), str(rng.integers(10_000, 100_000))
        fact = self.encode(f"\nThe {key} is {value}.\n")
        question, answer = self.encode(f"\nWhat is the {key}? The {key} is"), self.encode(f" {value}")
        room = length - len(fact) - len(question) - len(answer)
        if room < 0:
            raise SkipwiseError(f"{length} tokens do not hold a hidden fact and a question about it")
        before = round(depth * room)
        parts: list[Tokens | list[int]] = [filler[:before], fact, filler[before:room], question, answer]
        return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]), len(answer)

    def _facts(
        self, rng: np.random.Generator, wanted: int, budget: int
    ) -> tuple[list[list[int]], list[RecallQuestion]]:
        """Draw at most `wanted` facts in their order of appearance, and questions about some of them.

        Together they are at most `budget` tokens long, but for the first fact and its question.
        """
        facts: list[list[int]] = []
        questions: list[RecallQuestion] = []
        used: set[str] = set()
        for _ in range(wanted):
            fact, ask, end = WORDINGS[rng.integers(len(WORDINGS))]
            key, value = _key(rng, code="=" in fact), _value(rng)
            if key in used:
                continue
            used.add(key)
            # As running text: one space or line break before, as a tokenizer meets it in a prompt.
            statement = self.encode("\n" + fact.format(k=key, v=value) + "\n")
            question = self._question("\n" + ask.format(k=key), value, end)
            length = len(statement) + len(question.tokens)
            if facts and sum(map(len, facts)) + sum(len(one.tokens) for one in questions) + length > budget:
                break
            facts.append(statement)
            if not questions or rng.random() < 0.6:
                last = rng.random() < 0.5
                questions.insert(len(questions) if last else 0, question)
        return facts, questions

    def _list(self, rng: np.random.Generator, filler: Tokens, length: int) -> tuple[Tokens, Tokens] | None:
        """Token ids and labels of text with a list of random pairs in it, of which one to three are asked for.

        None if the length does not hold two pairs and a question.
        """
        form, about = PAIRS[rng.integers(len(PAIRS))], ABOUT_PAIRS[rng.integers(len(ABOUT_PAIRS))]
        lead, end = form.split("{v}")
        draw = _decimal if rng.random() < 1 / 3 else _hexadecimal
        key_size, value_size, wanted = (int(rng.integers(*ends)) for ends in ((4, 9), (3, 7), (1, 4)))
        pairs = {draw(rng, key_size): draw(rng, value_size) for _ in range(max(length // SHORTEST_PAIR, 2))}
        keys = list(pairs)
        questions = [
            self._question(about.format(k=key) + lead.format(k=key).rstrip(" "), pairs[key], end)
            for key in keys[:wanted]
        ]
        asked = sum(len(question.tokens) for question in questions)
        lines = {key: form.format(k=key, v=value) for key, value in pairs.items()}
        room = rng.uniform(0.2, 1) * (length - asked)
        least = max(2, wanted)
        count = max(least, int(room / len(self.encode("\n".join(lines.values()))) * len(lines)))
        while count >= least:
            # One text: tokens may reach over the end of a line.
            text = self.encode("\n" + "\n".join(lines[key] for key in rng.permutation(keys[:count])) + "\n")
            rest = length - asked - len(text)
            if rest >= 0:
                before = int(rng.integers(0, rest + 1))
                return _ending([filler[:before], text, filler[before:rest]], questions)
            count -= 1
        return None

    def _question(self, ask: str, value: str, end: str) -> RecallQuestion:
        """A question whose labels begin at the first token in which its answer changes the tokens."""
        space = "" if ask.endswith(("'", '"')) else " "
        tokens, lead = self.encode(ask + space + value + end), self.encode(ask)
        start = next((i for i, (a, b) in enumerate(zip(lead, tokens, strict=False)) if a != b), len(lead))
        return RecallQuestion(tokens, [IGNORED] * start + tokens[start:])


def _ending(parts: list[Tokens | list[int]], questions: list[RecallQuestion]) -> tuple[Tokens, Tokens]:
    """Token ids and labels of parts that have no labels, and of the questions at their end."""
    asked = [token for question in questions for token in question.tokens]
    ids = np.concatenate([np.asarray(part, dtype=np.int64) for part in [*parts, asked]])
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    labels[len(ids) - len(asked) :] = [label for question in questions for label in question.labels]
    return ids, labels


def _too_short(length: int, what: str) -> SkipwiseError:
    return SkipwiseError(
        f"data.recall: an example of {length:,} tokens does not hold {what}; use a larger training.train_length, or "
        "data.recall=0"
    )


def _sentences(rng: np.random.Generator) -> str:
    """A few short sentences: some of SENTENCES, and some that describe a thing."""
    plain = [SENTENCES[i] for i in rng.choice(len(SENTENCES), size=rng.integers(1, 4), replace=False)]
    things = rng.choice(THINGS, size=rng.integers(1, 5), replace=False)
    like = [f"The {thing} is {QUALITIES[rng.integers(len(QUALITIES))]}." for thing in things]
    return " ".join(rng.permutation([*plain, *like]).tolist())


def _key(rng: np.random.Generator, *, code: bool) -> str:
    if code:
        if rng.random() < 0.5:
            return _hexadecimal(rng, 8)
        return f"{NAMES[rng.integers(len(NAMES))]}_{NAMES[rng.integers(len(NAMES))]}"
    return f"{ADJECTIVES[rng.integers(len(ADJECTIVES))]} {NOUNS[rng.integers(len(NOUNS))]}"


def _value(rng: np.random.Generator) -> str:
    kind: Callable[[], str] = [
        lambda: _decimal(rng, int(rng.integers(3, 9))),
        lambda: _decimal(rng, 5),
        lambda: _hexadecimal(rng, int(rng.integers(4, 9))),
        lambda: WORDS[rng.integers(len(WORDS))],
    ][rng.choice(4, p=[0.35, 0.35, 0.2, 0.1])]
    return kind()


def _decimal(rng: np.random.Generator, digits: int) -> str:
    """A number of `digits` digits, in every second case of two to four different ones.

    A model that copies loses its place among equal digits (44431 becomes 4431), and random numbers have too few of
    them to learn from.
    """
    alphabet = rng.permutation(10)[: rng.integers(2, 5)] if rng.random() < 1 / 2 else np.arange(10)
    return "".join(str(digit) for digit in rng.choice(alphabet, size=digits))


def _hexadecimal(rng: np.random.Generator, digits: int) -> str:
    return "".join("0123456789abcdef"[digit] for digit in rng.integers(0, 16, size=digits))
