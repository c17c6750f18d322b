"""A corpus as a memory-mapped token store: one long array of token ids, and where each document starts.

A store is a folder in the cache, named by a fingerprint of the tokenizer, of the sources and of the settings that
matter, so that a changed corpus gets a new store and an unchanged one is opened at once:

    tokens.bin (uint16, or uint32 for a vocabulary above 65,536)  offsets.bin  names.txt  meta.json
    hashes.bin  passages.bin  passage_offsets.bin   (see `fingerprints`)

It is built in a temporary folder and appears whole. Memory stays that of about a million characters and 50 bytes a
document, whatever the size of the corpus or of one text file in it.
"""

import abc
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipwise.config import DataConfig
from skipwise.data.fingerprints import Hashes
from skipwise.data.near_duplicates import PERMUTATIONS, SIGNATURE_BYTES, Signatures
from skipwise.data.store_building import NEAR, Corpus, build
from skipwise.data.store_cache import cached_folder
from skipwise.data.store_writer import (
    HASHES,
    META,
    NAMES,
    OFFSETS,
    PASSAGE_OFFSETS,
    PASSAGES,
    SIGNATURES,
    TOKENS,
)
from skipwise.errors import SkipwiseError
from skipwise.utils.text import count_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Indices = NDArray[np.int64]


def mapped(path: Path, dtype: str, count: int) -> NDArray[Any]:
    """Map the first `count` numbers of a file, (count,), read only; an empty array where that is 0."""
    return np.memmap(path, dtype=dtype, mode="r", shape=(count,)) if count else np.empty(0, dtype=dtype)


def signatures_in(folder: Path, documents: int) -> Signatures:
    """Map the signatures of a store, (documents, PERMUTATIONS), read only."""
    return mapped(folder / SIGNATURES, "uint32", documents * PERMUTATIONS).reshape(documents, PERMUTATIONS)


class TokenDocuments(Sequence[Any], abc.ABC):
    """Documents as token ids that know their lengths without being read."""

    @property
    @abc.abstractmethod
    def lengths(self) -> Indices:
        """Tokens of each document, (n_docs,)."""

    @abc.abstractmethod
    def name(self, index: int) -> str:
        """Where a document comes from."""


class TokenStore(TokenDocuments):
    """A store, read from disk as needed. Item i is a view of the token ids of document i, (n,), read only.

    Args:
        folder: The folder of a finished store.

    Attributes:
        tokens: Memory map of all ids, (n_tokens,) uint16 or uint32, without BOS and EOS.
        offsets: Memory map of where each document starts, (n_docs + 1,) int64.
        hashes: Memory map of the documents' hashes, (n_docs,) uint64.
        passages: Memory map of the hashes of their passages, (n_passages,) uint64.
        passage_offsets: Memory map of where the passages of each document start, (n_docs + 1,) int64.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        self.tokens: NDArray[Any] = mapped(folder / TOKENS, self.meta["dtype"], self.meta["tokens"])
        documents = self.meta["documents"]
        self.offsets: Indices = mapped(folder / OFFSETS, "int64", documents + 1)
        self.hashes: Hashes = mapped(folder / HASHES, "uint64", documents)
        self.passages: Hashes = mapped(folder / PASSAGES, "uint64", self.meta["passages"])
        self.passage_offsets: Indices = mapped(folder / PASSAGE_OFFSETS, "int64", documents + 1)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[type["TokenStore"], tuple[Path]]:
        return TokenStore, (self.folder,)  # a pickled memory map would carry its whole content

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    @property
    def signatures(self) -> Signatures:
        """Memory map of the documents' MinHash signatures, (n_docs, PERMUTATIONS), where near ones are left out."""
        return signatures_in(self.folder, len(self))

    @property
    def lengths(self) -> Indices:
        """Tokens of each document, (n_docs,)."""
        return np.diff(self.offsets)

    def name(self, index: int) -> str:
        """Where a document comes from."""
        return self.names[index]

    @functools.cached_property
    def names(self) -> list[str]:
        """Where each document comes from."""
        return (self.folder / NAMES).read_text(encoding="utf-8").split("\n")[:-1]

    @property
    def fingerprint(self) -> str:
        """Identifies the tokenizer, the sources and the settings that the tokens depend on."""
        return str(self.meta["fingerprint"])

    @property
    def duplicates_text(self) -> str:
        """How many documents were left out as duplicates, e.g. `, 3 exact duplicates`. Empty where none was."""
        counts = {kind: self.meta[f"{kind}_duplicates"] for kind in ("exact", "near")}
        return "".join(f", {count_text(n, f'{kind} duplicate')}" for kind, n in counts.items() if n)


class Spans(TokenDocuments):
    """Parts of a store's documents, each read when its turn comes.

    Args:
        store: The store.
        spans: (n, 3) document, first token, one past the last token.
    """

    def __init__(self, store: TokenStore, spans: Indices) -> None:
        self.store, self.spans = store, spans

    def __len__(self) -> int:
        return len(self.spans)

    def __getitem__(self, index: Any) -> Any:
        document, start, stop = self.spans[index]
        return self.store[int(document)][start:stop]

    @property
    def lengths(self) -> Indices:
        """Tokens of each part, (n,)."""
        return np.asarray(self.spans[:, 2] - self.spans[:, 1])

    def name(self, index: int) -> str:
        """Where a part comes from."""
        return self.store.name(int(self.spans[index, 0]))


class LeftOut(NamedTuple):
    """Documents too short to be used, and the tokens in them."""

    documents: int
    tokens: int


def open_store(data: DataConfig, tokenizer: "PreTrainedTokenizerBase", *, progress: bool = True) -> TokenStore:
    """Open the token store of a corpus: the one in the cache if its fingerprint matches, else a new one.

    Processes that want the same store at once wait for the first of them.

    Args:
        data: Paths, field, split and cache of the corpus.
        tokenizer: Makes the token ids.
        progress: Show a bar while a new store is made.

    Raises:
        SkipwiseError: The corpus cannot be read, or the cache folder cannot be written.
    """
    corpus = Corpus(data, tokenizer)

    def make(folder: Path) -> None:
        build(folder, corpus, progress=progress)

    return TokenStore(cached_folder(data, corpus.fingerprint, whole=is_whole, build=make))


def usable(store: TokenStore, minimum_tokens: int, *, setting: str = "training.train_length") -> Indices:
    """Find the documents with at least `minimum_tokens` tokens. See `left_out` for the others.

    Args:
        store: The store.
        minimum_tokens: Tokens that a document must have.
        setting: Which setting asks for so many, for the error.

    Returns:
        Their indices, (n,).

    Raises:
        SkipwiseError: No document is long enough. The message names the longest.
    """
    lengths = store.lengths
    indices = np.flatnonzero(lengths >= minimum_tokens)
    if not len(indices):
        longest = int(lengths.argmax())
        who = f"{setting} asks for" if setting == "data.minimum_tokens" else "an example needs"
        raise SkipwiseError(
            f"no document has the {minimum_tokens:,} tokens that {who}: the longest of {len(store):,}, "
            f"{store.names[longest]}, has {lengths[longest]:,}; give longer texts or a smaller {setting}"
        )
    return indices


def left_out(store: TokenStore, minimum_tokens: int) -> LeftOut:
    """Count what `usable` leaves out."""
    short = store.lengths[store.lengths < minimum_tokens]
    return LeftOut(len(short), int(short.sum()))


def split(store: TokenStore, usable: Indices, share: float, minimum_tokens: int) -> tuple[Indices, Indices]:
    """Split documents into spans for training and for validation.

    The last `share` of the tokens of the `usable` documents is held out, never less than `minimum_tokens`: whole
    documents from the end while they fit, then the tail of the next one unless half is held already. Every span has
    at least `minimum_tokens` tokens and no token is in two.

    Args:
        store: The store.
        usable: Indices of the documents, (n,), from `usable`.
        share: Share of the tokens to hold out, below one half.
        minimum_tokens: Tokens that an example needs.

    Returns:
        Training and validation, each (n, 3) int64: document, first token, one past the last token.

    Raises:
        SkipwiseError: There is too little text for both.
    """
    lengths = store.lengths[usable]
    total = int(lengths.sum())
    if len(usable) == 1 and total < 2 * minimum_tokens:
        raise SkipwiseError(
            f"too little text to hold some out for validation: one document of {total:,} tokens, at least "
            f"{2 * minimum_tokens:,} are needed; give more text or a smaller training.train_length"
        )
    goal = missing = max(round(share * total), minimum_tokens)
    train, held = list[tuple[int, int, int]](), list[tuple[int, int, int]]()
    for document, length in zip(usable[::-1].tolist(), lengths[::-1].tolist(), strict=True):
        tail = max(missing, minimum_tokens)
        splits = length - tail >= minimum_tokens
        whole = length <= 1.5 * missing or not (splits or held)
        enough = missing <= 0 or (held and missing < goal / 2 and length > missing)
        if enough or not (whole or splits):
            train.append((document, 0, length))
            missing = 0
        elif whole:
            held.append((document, 0, length))
            missing -= length
        else:
            train.append((document, 0, length - tail))
            held.append((document, length - tail, length))
            missing = 0
    assert train, "a share below one half leaves text to train on"
    return np.array(train[::-1], dtype=np.int64), np.array(held[::-1], dtype=np.int64)


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds a store with nothing missing."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        sizes = {TOKENS: meta["tokens"] * np.dtype(meta["dtype"]).itemsize, HASHES: 8 * meta["documents"]}
        sizes |= dict.fromkeys((OFFSETS, PASSAGE_OFFSETS), 8 * (meta["documents"] + 1))
        sizes[PASSAGES] = 8 * meta["passages"]
        if str(meta.get("duplicates")).startswith(NEAR):
            sizes[SIGNATURES] = SIGNATURE_BYTES * meta["documents"]
        there = (folder / NAMES).exists()
        return there and all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False
