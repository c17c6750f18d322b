"""Passkey retrieval: a five-digit number hidden in filler, asked for at the end.

The prompt is that of Mohtashami & Jaggi (arXiv 2305.16300, appendix) as Position Interpolation (arXiv 2306.15595) and
PoSE use it: a task description, filler, the key, more filler and the question, one a line. Filler comes in whole
sentences, and its two parts both begin with the first one, as in the papers' code.
"""

import math
import re

import numpy as np

from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question, Task, check_depths, depth_grid

ANSWER_TOKENS = 16  # the papers' code generates 10

DESCRIPTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = ("The grass is green.", "The sky is blue.", "The sun is yellow.", "Here we go.", "There and back again.")
NEEDLE = "The pass key is {key}. Remember it. {key} is the pass key."
ASK = "What is the pass key?"
LEAD = " The pass key is"


def prompt_text(key: str, sentences: int, depth: float) -> str:
    """Write the prompt, without the words that lead the answer.

    Args:
        key: The passkey.
        sentences: Sentences of filler.
        depth: Share of them before the key: 0 right after the task description, 1 right before the question.
    """
    before = math.floor(depth * sentences + 0.5)
    lines = [DESCRIPTION, _filler(before), NEEDLE.format(key=key), _filler(sentences - before), ASK]
    return "\n".join(line for line in lines if line)


def _filler(sentences: int) -> str:
    rounds, rest = divmod(sentences, len(FILLER))
    return " ".join([" ".join(FILLER)] * rounds + list(FILLER[:rest]))


def draw_key(seed: int, cell: Cell, trial: int) -> str:
    """A key of five digits, the first not 0."""
    generator = np.random.default_rng([seed, cell.length, cell.depth_index or 0, trial])
    return str(generator.integers(10_000, 100_000))


def cells(inputs: Inputs, length: int) -> list[Cell]:
    """A cell for each depth."""
    return depth_grid(inputs.settings, "passkey", length, minimum_length(inputs), ANSWER_TOKENS)


def minimum_length(inputs: Inputs) -> int:
    """The shortest length, in tokens, that holds the fixed parts and the answer, whatever the key."""
    keys = ("98765", "55555", "10000", "70707")
    return max(len(inputs.encode(prompt_text(key, 0, 0.0), LEAD)) for key in keys) + ANSWER_TOKENS


def question(inputs: Inputs, cell: Cell, trial: int) -> Question:
    """The longest prompt that leaves room for the answer: one sentence of filler more would be too long."""
    return ask(inputs, draw_key(inputs.settings.seed, cell, trial), cell.depth or 0.0, cell.length)


def ask(inputs: Inputs, key: str, depth: float, length: int) -> Question:
    """Make the longest prompt about a key.

    Args:
        inputs: What prompts are made from.
        key: The passkey.
        depth: Share of the filler before the key, 0 to 1.
        length: Most tokens of the prompt with its answer.
    """
    sentence = inputs.count(_filler(10 * len(FILLER))) / (10 * len(FILLER))
    room = length - ANSWER_TOKENS
    hint = int((room - len(inputs.encode(prompt_text(key, 0, depth), LEAD))) / sentence)
    _, ids = fit(lambda n: inputs.encode(prompt_text(key, n, depth), LEAD), room, hint)
    return Question(ids, inputs.draft(LEAD, f" {key}."), [key])


def first_number(answer: str) -> str | None:
    """The first run of digits, whole: `"is 123456."` → `"123456"`."""
    match = re.search("[0-9]+", answer)
    return match.group() if match else None


def number_ended(answer: str) -> bool:
    """Whether something other than a digit follows the first number, so that the number is complete."""
    return re.search("[0-9][^0-9]", answer) is not None


TASK = Task(
    name="passkey",
    version=2,
    metric="accuracy",
    cells=cells,
    question=question,
    score=lambda answer, question: float(first_number(answer) == question.truth[0]),
    ended=lambda answer, question: number_ended(answer),
    check=check_depths,
)
