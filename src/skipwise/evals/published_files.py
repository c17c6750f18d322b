"""Read files of published benchmarks, cut prompts as their authors do, and score answers by rules that they share."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from skipwise.data.row_files import read_rows, suffix
from skipwise.errors import SkipwiseError
from skipwise.evals.task import Inputs
from skipwise.utils.os_errors import user_path

T = TypeVar("T")


def existing_file(path: str, setting: str) -> Path:
    """The file of rows that a setting names.

    Raises:
        SkipwiseError: It is not there, or no file of rows.
    """
    file = user_path(path)
    if file.is_dir():
        raise SkipwiseError(
            f"{setting}: {path} is a folder; name the file in it, as the benchmark's authors publish it"
        )
    if not file.is_file():
        raise SkipwiseError(f"{setting}: {path} is not there; expected a file as the benchmark's authors publish it")
    if suffix(file) not in (".jsonl", ".ndjson", ".json", ".parquet"):
        raise SkipwiseError(f"{setting}: {path} is no .jsonl, .json or .parquet file")
    return file


def rows_of(path: Path, fields: Sequence[str]) -> list[dict[str, Any]]:
    """All rows of a file.

    Args:
        path: A .jsonl, .json or .parquet file, perhaps packed.
        fields: Fields that every row must have.

    Raises:
        SkipwiseError: The file cannot be read, holds no rows, or a row lacks a field; the message names the row.
    """
    rows = []
    for number, values, _ in read_rows(path):
        if missing := [field for field in fields if field not in values]:
            there = ", ".join(map(repr, values)) or "none"
            raise SkipwiseError(f"{path.name}:{number} has no field {missing[0]!r}; its fields: {there}")
        rows.append(values)
    if not rows:
        raise SkipwiseError(f"{path} holds no rows")
    return rows


def drawn(rows: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """`limit` of the rows, drawn by the seed and left in their order; all of them where there are no more."""
    if limit is None or limit >= len(rows):
        return list(rows)
    chosen = np.random.default_rng([seed]).permutation(len(rows))[:limit]
    return [rows[i] for i in sorted(chosen.tolist())]


def cut_middle(inputs: Inputs, body: str, lead: str, room: int) -> list[int]:
    """Token ids of a prompt; of one that is too long the first and last tokens, half each.

    The middle is cut out of `body` alone, so that a chat template and the words that begin the answer stay whole.

    Args:
        inputs: What prompts are made from.
        body: The prompt.
        lead: The words that begin the answer.
        room: Most tokens.
    """

    def shortened(ids: list[int], keep: int) -> str:
        return inputs.decode(ids[: keep // 2]) + inputs.decode(ids[len(ids) - (keep - keep // 2) :])

    return _cut(inputs, body, room, shortened, lambda text: inputs.encode(text, lead))


def cut_end(inputs: Inputs, context: str, prompt: Callable[[str], tuple[str, str]], room: int) -> list[int]:
    """Token ids of a prompt; where it is too long, the end of its context is cut off.

    Args:
        inputs: What prompts are made from.
        context: The long part.
        prompt: Makes (prompt, words that begin the answer) of a context.
        room: Most tokens.
    """
    return _cut(
        inputs, context, room, lambda ids, keep: inputs.decode(ids[:keep]), lambda text: inputs.encode(*prompt(text))
    )


def _cut(
    inputs: Inputs, text: str, room: int, shortened: Callable[[list[int], int], str], make: Callable[[str], list[int]]
) -> list[int]:
    prompt = make(text)
    if len(prompt) <= room:
        return prompt
    ids = inputs.plain_ids(text)
    keep = max(len(ids) - (len(prompt) - room), 0)
    while len(prompt := make(shortened(ids, keep))) > room:  # text that is cut may have a token or two more
        if keep == 0:
            raise SkipwiseError(f"{room} tokens do not hold a prompt without its context; give longer lengths")
        keep = max(keep - (len(prompt) - room), 0)
    return prompt


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and repeated blanks: SQuAD's normal form, which all of them use."""
    plain = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def contains(answer: str, references: Sequence[str]) -> float:
    """1 where an answer contains any reference, both in normal form: substring exact match."""
    given = normalised(answer)
    return float(any(normalised(reference) in given for reference in references))


def equals(answer: str, references: Sequence[str]) -> float:
    """1 where an answer is any reference, both in normal form: exact match."""
    given = normalised(answer)
    return float(any(normalised(reference) == given for reference in references))


def word_f1(answer: str, references: Sequence[str]) -> float:
    """The largest F1 over references: harmonic mean of precision and recall of the words in normal form."""
    given = normalised(answer).split()
    best = 0.0
    for reference in references:
        wanted = normalised(reference).split()
        same = sum((Counter(given) & Counter(wanted)).values())
        best = max(best, 2 * same / (len(given) + len(wanted)) if same else 0.0)
    return best


def texts(value: Any) -> list[str]:
    """Reference answers as a list of texts: one text or number, a list of them, or a list of lists.

    What is empty or no text or number is left out, since every answer contains an empty text.
    """
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts(part)]
    return [str(value)] if isinstance(value, str | int | float) and str(value).strip() else []
