"""Passkey retrieval: a way to answer prompts flows in, one row for each length and depth flows out.

The prompt is that of Mohtashami & Jaggi (arXiv 2305.16300, appendix) as Position Interpolation (arXiv 2306.15595) and
PoSE use it: a task description, filler, a five-digit key, more filler and the question, one a line. Filler comes in
whole sentences, and its two parts both begin with the first one, as in the papers' code.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skipwise.errors import SkipwiseError
from skipwise.evals import statistics

VERSION = 1
ANSWER_TOKENS = 16  # counted in the length; the papers' code generates 10

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.")
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"

Answer = Callable[[list[int]], str]


@dataclass(frozen=True)
class Cell:
    """One place in the grid: `trials` prompts of `length` tokens with the key at `depth`.

    The prompts are drawn from (seed, length, depth_index, trial), so they are the same for every model with the same
    tokenizer.
    """

    length: int
    depth: float
    depth_index: int
    trials: int
    seed: int

    def key(self, trial: int) -> str:
        """A key of five digits, the first not 0."""
        generator = np.random.default_rng([self.seed, self.length, self.depth_index, trial])
        return str(generator.integers(10_000, 100_000))


def prompt_text(key: str, sentences: int, depth: float) -> str:
    """The prompt with `sentences` sentences of filler, the share `depth` of them before the key (0: right after the
    task description, 1: right before the question)."""
    before = math.floor(depth * sentences + 0.5)
    lines = [TASK, _filler(before), NEEDLE.format(key=key), _filler(sentences - before), QUESTION]
    return "\n".join(line for line in lines if line)


def build(tokenizer: Any, key: str, depth: float, length: int) -> list[int]:
    """The longest prompt that leaves room for the answer: token ids, at most `length - ANSWER_TOKENS` of them.

    One sentence of filler more would be too long, so fewer tokens than a sentence has are missing. The whole prompt is
    tokenised as the tokenizer does by default (with its BOS) and never cut; a few times over, to find the number of
    sentences, so the time is linear in the length. Errors: SkipwiseError for a length that cannot hold the fixed parts.
    """
    room = length - ANSWER_TOKENS
    fixed = len(encode(tokenizer, prompt_text(key, 0, depth)))
    if fixed > room:
        raise SkipwiseError(
            f"a passkey prompt of {length} tokens is too short: with this tokenizer the fixed parts and the answer "
            f"take {fixed + ANSWER_TOKENS}; give longer evaluation.passkey_lengths"
        )
    sample = 10 * len(FILLER)
    per_sentence = max(len(encode(tokenizer, _filler(sample))) / sample, 1.0)
    sentences = int((room - fixed) / per_sentence)
    ids = encode(tokenizer, prompt_text(key, sentences, depth))
    # The estimate is corrected once in proportion, then sentence by sentence.
    sentences = max(sentences + int((room - len(ids)) / per_sentence), 0)
    ids = encode(tokenizer, prompt_text(key, sentences, depth))
    while len(ids) > room:
        sentences -= 1
        ids = encode(tokenizer, prompt_text(key, sentences, depth))
    while len(longer := encode(tokenizer, prompt_text(key, sentences + 1, depth))) <= room:
        sentences, ids = sentences + 1, longer
    return ids


def encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids with the special tokens that the tokenizer puts before a text by default; not those after it."""
    ids: list[int] = tokenizer(text, verbose=False)["input_ids"]
    return ids[:-1] if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id else ids


def first_number(answer: str) -> str | None:
    """The first run of digits, whole: `"is 123456."` → `"123456"`."""
    match = re.search("[0-9]+", answer)
    return match.group() if match else None


def number_ended(answer: str) -> bool:
    """Whether something that is no digit follows the first number, so that it cannot grow any more."""
    return re.search("[0-9][^0-9]", answer) is not None


def model_answer(model: Any, tokenizer: Any) -> Answer:
    """Answers by greedy decoding until the first number or the text has ended, at most ANSWER_TOKENS tokens."""
    import torch

    from skipwise.model import greedy

    ends = _end_ids(model, tokenizer)

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True))

    def answer(prompt: list[int]) -> str:
        ids = torch.tensor([prompt], device=model.device)  # (1, T)
        return text(greedy(model, ids, ANSWER_TOKENS, lambda new: new[-1] in ends or number_ended(text(new))))

    return answer


def header(cell: Cell) -> dict[str, Any]:
    """What is known of a row before it is measured; `tokens` and the result come with `measure`."""
    return {
        "task": "passkey",
        "task_version": VERSION,
        "protocol": None,
        "length": cell.length,
        "depth": cell.depth,
        "depth_index": cell.depth_index,
        "metric": "accuracy",
        "n": cell.trials,
        "seed": cell.seed,
    }


def measure(answer: Answer, tokenizer: Any, cell: Cell, advance: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """The row of one cell: the share of prompts whose answer's first number is the key, whole and exact.

    `tokens` is the mean length of the prompts, `right` counts the right answers, `answers` holds pairs (key, answer).
    """
    started = time.monotonic()
    pairs, tokens = [], 0
    for trial in range(cell.trials):
        key = cell.key(trial)
        ids = build(tokenizer, key, cell.depth, cell.length)
        pairs.append([key, answer(ids)])
        tokens += len(ids)
        advance()
    right = sum(first_number(text) == key for key, text in pairs)
    return (
        header(cell)
        | _accuracy(right, cell.trials)
        | {"tokens": round(tokens / cell.trials), "seconds": round(time.monotonic() - started, 3), "answers": pairs}
    )


def overall(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One row over all depths of a length, from the rows of its cells; `depth` is None, `n` all trials together."""
    n, right = sum(row["n"] for row in rows), sum(row["right"] for row in rows)
    shared = {key: value for key, value in rows[0].items() if key not in ("depth_index", "answers")}
    return (
        shared
        | {"depth": None, "depths": [row["depth"] for row in rows], "n": n}
        | _accuracy(right, n)
        | {
            "tokens": round(sum(row["tokens"] * row["n"] for row in rows) / n),
            "seconds": round(sum(row["seconds"] for row in rows), 3),
        }
    )


def cells(lengths: Sequence[int], depths: Sequence[float], trials: int, seed: int) -> Iterator[list[Cell]]:
    """The cells of each length, one for each depth."""
    for length in lengths:
        yield [Cell(length, depth, index, trials, seed) for index, depth in enumerate(depths)]


def minimum_length(tokenizer: Any) -> int:
    """The shortest length, in tokens, that holds the fixed parts and the answer, whatever the key."""
    keys = ("98765", "55555", "10000", "70707")
    return max(len(encode(tokenizer, prompt_text(key, 0, 0.0))) for key in keys) + ANSWER_TOKENS


def _filler(sentences: int) -> str:
    rounds, rest = divmod(sentences, len(FILLER))
    return " ".join([" ".join(FILLER)] * rounds + list(FILLER[:rest]))


def _accuracy(right: int, n: int) -> dict[str, Any]:
    interval = statistics.wilson(right, n)
    return {"value": right / n, "low": interval.low, "high": interval.high, "interval": interval.name, "right": right}


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Tokens that end a text: the tokenizer's EOS and those of the model's generation settings."""
    settings = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    listed = settings if isinstance(settings, list) else [settings]
    return {token for token in [*listed, tokenizer.eos_token_id] if token is not None}
