"""Hashes of documents and of their passages: how copies of a text are recognised.

All hashes are the first 64 bits of BLAKE2b over text without ASCII white space, so that neither indentation nor the
wrapping of lines matters. Among a billion different documents a chance match has a probability of 3 %.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

LEAST_BYTES = 64
"""Shorter passages, such as headings, say nothing about where a text comes from."""
LONG_BYTES = 4096
"""Each line of a longer block is a passage of its own: some texts have a paragraph a line and no blank lines."""
WHITE = b" \t\n\r\f\v"
BLANK_LINE = re.compile(rb"\n[ \t\r\f\v]*\n")

Hashes = NDArray[np.uint64]


class DocumentHashes:
    """The hash of a document that comes in parts, and the hashes of the passages that it consists of.

    A passage is a block between blank lines, or a line of a block longer than `LONG_BYTES`. Passages of fewer than
    `LEAST_BYTES` bytes are left out.
    """

    def __init__(self) -> None:
        self._whole = hashlib.blake2b(digest_size=8)
        self._rest = b""
        self.passages: list[int] = []

    def add(self, text: str) -> None:
        """Take the next part of the document."""
        blocks = BLANK_LINE.split(self._rest + text.encode(errors="replace"))
        # The last block may go on in the next part.
        self._rest = blocks.pop() if len(blocks[-1]) <= LONG_BYTES else b""
        for block in blocks:
            self._add_block(block)

    def close(self) -> int:
        """End the document and return its hash."""
        self._add_block(self._rest)
        self._rest = b""
        return int.from_bytes(self._whole.digest(), "little")

    def _add_block(self, block: bytes) -> None:
        for part in [block] if len(block) <= LONG_BYTES else block.split(b"\n"):
            dense = part.translate(None, WHITE)
            self._whole.update(dense)
            if len(dense) >= LEAST_BYTES:
                digest = hashlib.blake2b(dense, digest_size=8).digest()
                self.passages.append(int.from_bytes(digest, "little"))


def passages(text: str) -> list[int]:
    """Return the hashes of the passages of a whole text."""
    hashes = DocumentHashes()
    hashes.add(text)
    hashes.close()
    return hashes.passages


class HashSet:
    """A set of 64-bit hashes in 12 to 36 bytes each. A Python set takes some 80.

    Args:
        hashes: What it holds at first.
    """

    def __init__(self, hashes: Iterable[int] = ()) -> None:
        self._size, self._table = 0, array("Q", bytes(8 * 1024))
        for value in hashes:
            self.add(value)

    def __len__(self) -> int:
        return self._size

    def __contains__(self, value: int) -> bool:
        return self._table[self._slot(value)] != 0

    def add(self, value: int) -> bool:
        """Add a hash. Returns whether it is new."""
        slot = self._slot(value)
        if self._table[slot]:
            return False
        self._table[slot] = value or 1
        self._size += 1
        if 3 * self._size > 2 * len(self._table):
            before, self._table = self._table, array("Q", bytes(16 * len(self._table)))
            for old in before:
                if old:
                    self._table[self._slot(old)] = old
        return True

    def _slot(self, value: int) -> int:
        """The place of a hash, or the free place where it belongs. A free place holds 0, so hash 0 counts as 1."""
        value = value or 1
        mask = len(self._table) - 1
        slot = value & mask
        while self._table[slot] and self._table[slot] != value:
            slot = (slot + 1) & mask
        return slot
