"""Prose that fills a prompt: read once, repeated where it is too short, and opened at the ends of its sentences."""

import bisect
import re
from collections.abc import Sequence
from typing import NamedTuple

from skipwise.data import text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals.task import Inputs

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

    def border(self, sentences: int, depth: float) -> int:
        """How many of the first `sentences` stand before the end of a sentence that is nearest to a depth.

        Args:
            sentences: Sentences of the text.
            depth: Share of its characters, 0 to 1.
        """
        target = depth * self.end(sentences)
        i = self.sentences(target)
        if i < sentences and self.end(i + 1) - target < target - self.end(i):
            i += 1
        return i


def split(text: str) -> list[int]:
    """Where each sentence of a text ends; the last one ends with the text."""
    ends = [match.end() for match in SENTENCE_END.finditer(text) if 0 < match.end() < len(text)]
    return [*dict.fromkeys(ends), len(text)]


def check(paths: Sequence[str], setting: str) -> None:
    """Refuse prose that is not named or missing.

    Args:
        paths: What names the prose.
        setting: The setting that holds them, for the error.

    Raises:
        SkipwiseError: There is none, or a path cannot be read.
    """
    if not paths:
        raise SkipwiseError(f"{setting} is empty: name prose, such as python-reference or a book")
    text_sources.sources(list(paths))


def haystack(inputs: Inputs, paths: Sequence[str], setting: str) -> Haystack:
    """Read prose, once for all prompts.

    Args:
        inputs: What prompts are made from.
        paths: Files, folders, `datasets` ids or packaged names.
        setting: The setting that holds them, for the error.

    Raises:
        SkipwiseError: A path cannot be read, or no sentence ends in the text.
    """

    def read() -> Haystack:
        check(paths, setting)
        text = "".join(text.strip() + "\n\n" for _, text in inputs.texts(paths))
        ends = split(text)
        if len(ends) < 2:
            raise SkipwiseError(f"no sentence ends in {', '.join(paths)}; give prose as {setting}")
        sample = text[:20_000]
        return Haystack(text, ends, len(sample) / inputs.count(sample))

    return inputs.once(("filler", *paths), read)


def insert(hay: Haystack, sentences: int, pieces: Sequence[tuple[int, str]]) -> str:
    """Write the first sentences of a text with other sentences between them.

    Args:
        hay: The text.
        sentences: How many of its sentences.
        pieces: (sentences before it, sentence to put in), in this order; the numbers do not fall.
    """
    text, written, last = hay.cut(sentences), "", 0
    for border, piece in pieces:
        written += text[last : hay.end(border)]
        last = hay.end(border)
        if border == sentences:
            written = written.rstrip()
        if written and not written[-1].isspace():
            written += " "
        written += piece + " "
    return (written + text[last:]).rstrip()
