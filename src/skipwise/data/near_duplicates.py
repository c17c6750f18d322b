"""Near-duplicates: documents that share most of their words with an earlier one, found by MinHash (Broder 1997).

A document is the set of its runs of five words, in lower case. 128 permutations estimate the share of runs that two
documents have in common (Jaccard) with a standard error below 0.045. The signatures are computed by `rensa`, in Rust:
about 8 MB of text a second on one core. Signatures and their index take about 4 kB a document.
"""

import importlib.util
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skipwise.errors import SkipwiseError

PERMUTATIONS = 128
RUN = 5
"""Words in a run."""
WORDS = re.compile(r"\w+")
SEED = 42

SIGNATURE_BYTES = 4 * PERMUTATIONS
Signatures = NDArray[np.uint32]
"""(n_docs, PERMUTATIONS)."""


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
        self._signatures: Signatures = np.empty((0, PERMUTATIONS), dtype=np.uint32)
        self._count = 0
        self._begin()

    def _begin(self) -> None:
        self._words: list[str] = []
        self._runs = 0
        self._present: Any = self._make(PERMUTATIONS, SEED)

    @property
    def last(self) -> Signatures:
        """Signature of the document that was remembered last, (PERMUTATIONS,)."""
        signature: Signatures = self._signatures[self._count - 1]
        return signature

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


def matches(
    signatures: Signatures,
    documents: NDArray[np.int64],
    others: Signatures,
    among: NDArray[np.int64],
    similarity: float,
) -> NDArray[np.bool_]:
    """Find the documents that are near to one of another source, by the same bands and estimate as `NearDuplicates`.

    Args:
        signatures: Of one source.
        documents: Rows of it to look at, (n,).
        others: Of the other source.
        among: Rows of it that count, (m,).
        similarity: Share of runs in common from which documents are near.

    Returns:
        Whether there is such a document, (n,). Memory is that of one band: 4·(n + m) bytes for each permutation in it.
    """
    near = np.zeros(len(documents), dtype=np.bool_)
    width = PERMUTATIONS // bands(similarity)
    for start in range(0, PERMUTATIONS, width):
        wanted, keys = (
            _keys(each[rows, start : start + width]) for each, rows in ((signatures, documents), (others, among))
        )
        order = np.argsort(keys)
        keys = keys[order]
        first, last = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
        for i in np.flatnonzero((first < last) & ~near).tolist():
            rows = among[order[first[i] : last[i]]]
            near[i] = (others[rows] == signatures[documents[i]]).mean(axis=1).max() >= similarity
    return near


def _keys(band: Signatures) -> NDArray[np.uint64]:
    """A number for each row of a band (n, width), equal where the rows are."""
    keys = np.zeros(len(band), dtype=np.uint64)
    for column in band.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)  # modulo 2^64; the upper bits mix on the way
        keys ^= keys >> np.uint64(32)
    return keys
