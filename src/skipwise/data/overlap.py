"""Which passages of some texts a model is trained on too, found by the hashes that token stores hold.

A passage is a paragraph, as `fingerprints` divides texts. Passages that were changed, even by a letter, are not found.
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from skipwise.data.fingerprints import Hashes
from skipwise.data.token_store import Spans

BLOCK = 2**20
"""Passages looked at together."""


def passages_of(spans: Spans) -> Iterator[Hashes]:
    """Read the hashes of the passages of parts of documents, (n,) at a time.

    A part of a document has that part of its passages, to within one at its ends.

    Args:
        spans: The parts, at most one of each document.
    """
    store = spans.store
    offsets = np.asarray(store.passage_offsets)
    counts, lengths = np.diff(offsets), np.diff(np.asarray(store.offsets))
    first, last = np.zeros_like(counts), np.zeros_like(counts)
    documents, start, stop = spans.spans.T
    share = counts[documents] / lengths[documents]
    first[documents] = np.rint(start * share)
    last[documents] = np.rint(stop * share)
    for begin in range(0, int(offsets[-1]), BLOCK):
        places: NDArray[np.int64] = np.arange(begin, min(begin + BLOCK, int(offsets[-1])))
        document = np.searchsorted(offsets, places, side="right") - 1
        place = places - offsets[document]
        yield np.asarray(store.passages[places[0] : places[-1] + 1])[
            (first[document] <= place) & (place < last[document])
        ]


def contained(wanted: Hashes, corpus: Iterable[Hashes]) -> NDArray[np.bool_]:
    """Tell which hashes a corpus holds.

    Args:
        wanted: The hashes, (n,).
        corpus: The hashes of the corpus in blocks.

    Returns:
        (n,)
    """
    order = np.argsort(wanted, kind="stable")
    values, hit = wanted[order], np.zeros(len(wanted), dtype=bool)
    if not len(wanted):
        return hit
    unique, places = np.unique(values, return_inverse=True)
    seen = np.zeros(len(unique), dtype=bool)
    for block in corpus:
        where = np.minimum(np.searchsorted(unique, block), len(unique) - 1)
        seen[where[unique[where] == block]] = True
    hit[order] = seen[places]
    return hit
