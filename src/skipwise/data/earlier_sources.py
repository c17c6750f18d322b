"""Duplicates across the sources of a mixture: documents of a source that an earlier one holds too.

Each source has a store of its own, without duplicates within it. What of it is trained on and held out is chosen from
the documents that are in no earlier source, by the hashes and signatures that the stores hold. No text is read again,
and the choice is the same whenever the same sources are opened.
"""

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from skipwise.config import DataConfig
from skipwise.data import near_duplicates
from skipwise.data.fingerprints import Hashes
from skipwise.errors import SkipwiseError
from skipwise.utils.text import count_text

Indices = NDArray[np.int64]


class Hashed(Protocol):
    """A store of documents or of conversations."""

    hashes: Hashes
    """One for each document, (n_docs,)."""

    @property
    def signatures(self) -> near_duplicates.Signatures:
        """MinHash signatures of the documents, (n_docs, PERMUTATIONS), of a store made with `duplicates=near`."""


class Fresh(NamedTuple):
    """The documents of a source that no earlier one holds."""

    indices: Indices
    exact: int
    """Number of those left out because an earlier source has the same text."""
    near: int
    """Number of those left out because an earlier source has nearly the same text."""

    @property
    def text(self) -> str:
        """What was left out, e.g. `, 3 exact duplicates of earlier sources`. Empty where nothing was."""
        counts = {"exact": self.exact, "near": self.near}
        return "".join(f", {count_text(n, f'{kind} duplicate')} of earlier sources" for kind, n in counts.items() if n)


class EarlierSources:
    """The documents of the sources so far, in 8 bytes each; of signatures nothing but where they are.

    Args:
        data: What counts as a duplicate.
    """

    def __init__(self, data: DataConfig) -> None:
        self._duplicates, self._similarity = data.duplicates, data.similarity
        self._hashes = np.empty(0, dtype=np.uint64)
        self._signatures = list[tuple[near_duplicates.Signatures, Indices]]()

    def fresh(self, store: Hashed, documents: Indices) -> Fresh:
        """Choose from the next source, and remember what is chosen.

        Args:
            store: Of the source.
            documents: Indices of those that could be used, (n,).
        """
        if self._duplicates == "keep":
            return Fresh(documents, 0, 0)
        hashes = np.asarray(store.hashes)[documents]
        known = np.isin(hashes, self._hashes)
        chosen, exact, near = documents[~known], int(known.sum()), 0
        if self._duplicates == "near":
            close = np.zeros(len(chosen), dtype=bool)
            for signatures, earlier in self._signatures:
                close |= near_duplicates.matches(store.signatures, chosen, signatures, earlier, self._similarity)
            chosen, near = chosen[~close], int(close.sum())
            self._signatures.append((store.signatures, chosen))
        self._hashes = np.union1d(self._hashes, np.asarray(store.hashes)[chosen])
        return Fresh(chosen, exact, near)


def all_known(name: str) -> SkipwiseError:
    """Say that a source holds nothing of its own."""
    return SkipwiseError(
        f"{name}: every document that could be used is in an earlier source of data.paths too; leave it out, or use "
        "data.duplicates=keep"
    )
