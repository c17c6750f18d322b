"""A corpus as a memory-mapped token store: one long array of token ids, and where each document starts.

A store is a folder in the cache, named by a fingerprint of the tokenizer, of the sources and of the settings that
matter, so that a changed corpus gets a new store and an unchanged one is opened at once:

    tokens.bin (uint16, or uint32 for a vocabulary above 65,536)  offsets.npy  names.txt  meta.json

It is built in a temporary folder and appears whole. Memory stays that of about a million characters, whatever the
size of the corpus or of one text file in it.
"""

import abc
import functools
import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipwise.config import DataConfig
from skipwise.data import documents
from skipwise.data.store_cache import cached_folder
from skipwise.data.text_sources import TextSource, sources
from skipwise.data.tokenising import encode, token_dtype, tokenizer_fingerprint
from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import atomic_folder
from skipwise.utils.progress import Bar
from skipwise.utils.progress import bar as progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 2
BATCH = 2**20  # characters tokenised at once

Indices = NDArray[np.int64]


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
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.tokens: NDArray[Any] = np.memmap(folder / "tokens.bin", dtype=self.meta["dtype"], mode="r")
        self.offsets: Indices = np.load(folder / "offsets.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[type["TokenStore"], tuple[Path]]:
        return TokenStore, (self.folder,)  # a pickled memory map would carry its whole content

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(f"document {index} of {len(self)}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

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
        return (self.folder / "names.txt").read_text(encoding="utf-8").split("\n")[:-1]

    @property
    def fingerprint(self) -> str:
        """Identifies the tokenizer, the sources and the settings that the tokens depend on."""
        return str(self.meta["fingerprint"])


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
        return self.store.names[int(self.spans[index, 0])]


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
    texts = sources(data.paths, exclude=data.exclude, field=data.field, split=data.split)
    fingerprints = "\n".join(source.fingerprint for source in texts)
    identity: dict[str, Any] = {
        "format": FORMAT,
        "piece": documents.PIECE,
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "sources": hashlib.sha256(fingerprints.encode(errors="replace")).hexdigest(),
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    identity["fingerprint"] = fingerprint

    def build(folder: Path) -> None:
        _build(folder, texts, tokenizer, identity, progress)

    return TokenStore(cached_folder(data, fingerprint, whole=_whole, build=build))


def usable(store: TokenStore, minimum_tokens: int) -> Indices:
    """Find the documents with at least `minimum_tokens` tokens. See `left_out` for the others.

    Args:
        store: The store.
        minimum_tokens: Tokens that an example needs.

    Returns:
        Their indices, (n,).

    Raises:
        SkipwiseError: No document is long enough. The message names the longest.
    """
    lengths = store.lengths
    indices = np.flatnonzero(lengths >= minimum_tokens)
    if not len(indices):
        longest = int(lengths.argmax())
        raise SkipwiseError(
            f"no document has the {minimum_tokens:,} tokens that an example needs: the longest of {len(store):,}, "
            f"{store.names[longest]}, has {lengths[longest]:,}; give longer texts or a smaller training.train_length"
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


def _whole(folder: Path) -> bool:
    """Whether `folder` holds a store with nothing missing."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        size = (folder / "tokens.bin").stat().st_size
        offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        there = (folder / "names.txt").exists()
        return bool(
            there and size == meta["tokens"] * np.dtype(meta["dtype"]).itemsize and offsets[-1] == meta["tokens"]
        )
    except (OSError, ValueError, KeyError, IndexError):
        return False


def _build(
    folder: Path,
    texts: list[TextSource],
    tokenizer: "PreTrainedTokenizerBase",
    identity: dict[str, Any],
    progress: bool,
) -> None:
    sizes = [source.size for source in texts]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    dtype = token_dtype(tokenizer)
    with atomic_folder(folder) as partial, progress_bar("tokenising", total=total, unit="B", quiet=not progress) as bar:
        offsets = _write_tokens(partial, texts, tokenizer, dtype, bar)
        if offsets[-1] == 0:
            raise SkipwiseError("no documents: the tokenizer makes no token of any of the texts")
        np.save(partial / "offsets.npy", np.frombuffer(offsets, dtype=np.int64))
        meta = {"documents": len(offsets) - 1, "tokens": offsets[-1], "dtype": dtype.name}
        (partial / "meta.json").write_text(json.dumps(identity | meta, indent=1), encoding="utf-8")


def _write_tokens(
    folder: Path,
    texts: list[TextSource],
    tokenizer: "PreTrainedTokenizerBase",
    dtype: np.dtype[Any],
    bar: Bar,
) -> "array[int]":
    """Write tokens.bin and names.txt as the documents come, and return the offsets, 8 bytes a document."""
    offsets, written, name = array("q", [0]), 0, ""
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / "names.txt").open("w", encoding="utf-8", errors="replace") as names,
    ):

        def close_document() -> None:
            if written > offsets[-1]:  # a text may have no tokens
                offsets.append(written)
                names.write(" ".join(name.splitlines()) + "\n")

        for batch in _batches(texts, bar):
            for piece, ids in zip(batch, encode(tokenizer, [piece.text for piece in batch], dtype), strict=True):
                if piece.first:
                    close_document()
                    name = piece.name
                tokens.write(ids.data)
                written += len(ids)
        close_document()
    return offsets


def _batches(texts: list[TextSource], bar: Bar) -> Iterator[list[documents.Piece]]:
    """Group pieces to about `BATCH` characters. The bar moves by the bytes read once a group is done."""
    batch, characters = list[documents.Piece](), 0
    for piece in documents.pieces(texts):
        batch.append(piece)
        characters += len(piece.text)
        if characters >= BATCH:
            yield batch
            bar.advance(piece.read - bar.done)
            batch, characters = [], 0
    if batch:
        yield batch
        bar.advance(batch[-1].read - bar.done)
