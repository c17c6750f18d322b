"""Near-duplicates: documents that share most of their words with an earlier one, found by MinHash (Broder 1997).

A document is the set of its runs of five words, in lower case. 128 permutations estimate the share of runs that two
documents have in common (Jaccard) with a standard error below 0.045. The signatures are computed by `rensa`, in Rust:
about 8 MB of text a second on one core. Signatures and their index take about 4 kB a document.
"""

import importlib.util
import re
from typing import Any

import numpy as np

from skipwise.errors import SkipwiseError

PERMUTATIONS = 128
RUN = 5
"""Words in a run."""
WORDS = re.compile(r"\w+")
SEED = 42


def require_package() -> None:
    """Refuse to look for near-duplicates where `rensa` is not installed.

    Raises:
        SkipwiseError: It is missing.
    """
    if importlib.util.find_spec("rensa") is None:
        raise SkipwiseError("data.duplicates=near needs the package rensa: pip install 'skipwise[near-duplicates]'")


def bands(similarity: float) -> int:
    """Choose into how many bands a signature is divided, so that pairs of this similarity are compared.

    Two documents are compared when one band of r = 128 / b permutations is equal in both: with probability
    1 - (1 - s^r)^b. The fewest bands that give 0.99 at `similarity` are taken.

    Args:
        similarity: Share of runs in common from which documents count as near-duplicates.
    """
    for count in (2, 4, 8, 16, 32, 64):
        if 1 - (1 - similarity ** (PERMUTATIONS // count)) ** count >= 0.99:
            return count
    return PERMUTATIONS


class NearDuplicates:
    """The documents so far, as signatures.

    Args:
        similarity: Share of runs in common (0 to 1) from which a document counts as a near-duplicate.
    """

    def __init__(self, similarity: float) -> None:
        require_package()
        import rensa

        self.similarity = similarity
        self._make: Any = rensa.RMinHash
        self._index: Any = rensa.RMinHashLSH(similarity, PERMUTATIONS, bands(similarity))
        self._signatures = np.empty((0, PERMUTATIONS), dtype=np.uint32)
        self._count = 0
        self._begin()

    def _begin(self) -> None:
        self._words: list[str] = []
        self._runs = 0
        self._present: Any = self._make(PERMUTATIONS, SEED)

    def add(self, text: str) -> None:
        """Take the next part of a document."""
        words = self._words + WORDS.findall(text.lower())
        runs = [" ".join(words[i : i + RUN]) for i in range(len(words) - RUN + 1)]
        self._present.update(runs)
        self._words = words[-(RUN - 1) :]
        self._runs += len(runs)

    def close(self, *, forget: bool = False) -> bool:
        """End the document.

        Args:
            forget: Drop it without a comparison.

        Returns:
            Whether an earlier one is near to it. Only if none is, it is remembered.
        """
        if forget:
            self._begin()
            return False
        if not self._runs:  # too short for a run: its words are the run
            self._present.update([" ".join(self._words)])
        present, signature = self._present, np.array(self._present.digest(), dtype=np.uint32)  # (PERMUTATIONS,)
        self._begin()
        near = self._index.query(present)
        if near and (self._signatures[near] == signature).mean(axis=1).max() >= self.similarity:
            return True
        if self._count == len(self._signatures):
            room = np.empty((max(1024, len(self._signatures)), PERMUTATIONS), dtype=np.uint32)
            self._signatures = np.concatenate([self._signatures, room])
        self._signatures[self._count] = signature
        self._index.insert(self._count, present)
        self._count += 1
        return False
