"""Hashes of documents and passages: what they leave out, and that parts do not matter."""

import hashlib
import random

import pytest

from skipwise.data import fingerprints
from skipwise.data.fingerprints import DocumentHashes, HashSet, passages

LONG = "One sentence of a paragraph that is certainly longer than the least number of bytes."


def by_hand(text: str) -> int:
    """First 64 bits of BLAKE2b of a text without white space."""
    return int.from_bytes(hashlib.blake2b("".join(text.split()).encode(), digest_size=8).digest(), "little")


def test_a_passage_is_a_paragraph_without_white_space() -> None:
    wrapped = LONG.replace(" of ", " of\n   ").replace(" than ", "  than\n")
    text = f"Title\n\n{wrapped}\n \t\n{LONG} Another.\n"
    assert passages(text) == [by_hand(LONG), by_hand(LONG + "Another.")]
    assert passages("short\n\nlines\n") == []


def test_each_line_of_a_long_block_is_a_passage() -> None:
    lines = [f"{LONG} {index}" for index in range(100)]
    assert passages("\n".join(lines)) == [by_hand(line) for line in lines]


@pytest.mark.parametrize("least", [1, 64])
def test_the_parts_of_a_document_do_not_matter(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprints, "LEAST_BYTES", least)
    generator = random.Random(least)
    text = "".join(generator.choice([LONG, "a b", "\n", "\n\n", " \n ", "ä", "日本", "\r\n\r\n"]) for _ in range(600))
    whole = DocumentHashes()
    whole.add(text)
    for _ in range(50):
        cuts = sorted(generator.sample(range(len(text)), 5))
        parts = DocumentHashes()
        for start, stop in zip([0, *cuts], [*cuts, len(text)], strict=True):
            parts.add(text[start:stop])
        assert parts.close() == by_hand(text)
        assert parts.passages == passages(text)
    assert whole.close() == by_hand(text)


def test_a_set_of_hashes_is_a_set() -> None:
    generator, here, python = random.Random(0), HashSet(), set[int]()
    for _ in range(20_000):
        value = generator.choice([generator.getrandbits(64), generator.getrandbits(12) + 1])
        assert here.add(value) == (value not in python)
        python.add(value)
        assert len(here) == len(python)
    assert all(value in here for value in python)
    assert 2**63 not in HashSet([1, 2])
