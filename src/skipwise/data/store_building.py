"""Tokenises a corpus into a token store: what the corpus is, and the way from its texts to the writer."""

import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skipwise.config import DataConfig
from skipwise.data import documents
from skipwise.data.store_writer import StoreWriter
from skipwise.data.text_sources import TextSource, sources
from skipwise.data.tokenising import encode, token_dtype, tokenizer_fingerprint
from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import atomic_folder
from skipwise.utils.progress import bar as progress_bar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 3
NEAR = "near, signatures"
"""How the identity of a store begins to name its duplicates where it holds signatures."""
BATCH = 2**20  # characters tokenised at once


class Corpus:
    """Texts, the tokenizer that reads them, and the settings that decide what of them is left out.

    Args:
        data: Paths, field, split and duplicates.
        tokenizer: Makes the token ids.

    Raises:
        SkipwiseError: A source cannot be read.
    """

    def __init__(self, data: DataConfig, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.data, self.tokenizer = data, tokenizer
        self.texts: list[TextSource] = sources(data.paths, exclude=data.exclude, field=data.field, split=data.split)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the content of the store, and its fingerprint."""
        lines = "\n".join(source.fingerprint for source in self.texts)
        near = self.data.duplicates == "near"
        identity = {
            "format": FORMAT,
            "piece": documents.PIECE,
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
            "sources": hashlib.sha256(lines.encode(errors="replace")).hexdigest(),
            "duplicates": f"{NEAR} {self.data.similarity}" if near else self.data.duplicates,
        }
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return {**identity, "fingerprint": digest[:32]}

    @property
    def fingerprint(self) -> str:
        """Name of the store."""
        return str(self.identity["fingerprint"])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the token ids."""
        return token_dtype(self.tokenizer)

    def batches(self, *, after: tuple[int, int] = (0, 0)) -> Iterator[list[documents.Piece]]:
        """Group the pieces of the texts to about `BATCH` characters. `after`: see `documents.pieces`."""
        return self._grouped(documents.pieces(self.texts, after=after))

    def batches_of(self, source: int) -> Iterator[list[documents.Piece]]:
        """Group the pieces of one source likewise. There may be none."""
        return self._grouped(documents.pieces([self.texts[source]], may_be_empty=True))

    def _grouped(self, pieces: Iterator[documents.Piece]) -> Iterator[list[documents.Piece]]:
        batch, characters = list[documents.Piece](), 0
        for piece in pieces:
            batch.append(piece)
            characters += len(piece.text)
            if characters >= BATCH:
                yield batch
                batch, characters = [], 0
        if batch:
            yield batch

    def write(self, writer: StoreWriter, batch: list[documents.Piece]) -> None:
        """Tokenise pieces and hand them to a writer."""
        texts = [piece.text for piece in batch]
        for piece, ids in zip(batch, encode(self.tokenizer, texts, writer.dtype), strict=True):
            writer.add(piece, ids)


def build(folder: Path, corpus: Corpus, *, progress: bool = True) -> None:
    """Tokenise a corpus into a new store, which appears whole.

    Args:
        folder: The store.
        corpus: The texts.
        progress: Show a bar.

    Raises:
        SkipwiseError: A text cannot be read, or none has a token.
    """
    sizes = [source.size for source in corpus.texts]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    data = corpus.data
    with atomic_folder(folder) as partial, progress_bar("tokenising", total=total, unit="B", quiet=not progress) as bar:
        writer = StoreWriter(partial, corpus.dtype, duplicates=data.duplicates, similarity=data.similarity)
        try:
            for batch in corpus.batches():
                corpus.write(writer, batch)
                bar.advance(batch[-1].read - bar.done)
            writer.finish(corpus.identity)
        finally:
            writer.close()
        if not writer.progress.tokens:
            raise SkipwiseError("no documents: the tokenizer makes no token of any of the texts")
