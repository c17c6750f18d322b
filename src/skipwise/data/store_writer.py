"""Writes the files of a token store as documents come, in memory that does not grow with them.

Tokens of the document that is being read are on the disk before it ends; a duplicate is cut off again. What a
`Progress` counts is whole, so a store that was left unfinished is cut back to it and continued.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from skipwise.data.documents import Piece
from skipwise.data.fingerprints import DocumentHashes, HashSet
from skipwise.data.near_duplicates import SIGNATURE_BYTES, NearDuplicates

TOKENS, NAMES, META, PROGRESS = "tokens.bin", "names.txt", "meta.json", "progress.json"
OFFSETS, PASSAGE_OFFSETS = "offsets.bin", "passage_offsets.bin"
"""Where each document starts in the tokens, and in the passages: (n_docs + 1,) int64."""
HASHES, PASSAGES = "hashes.bin", "passages.bin"
"""Hash of each document, (n_docs,) uint64, and of each of their passages (`fingerprints`)."""
SIGNATURES = "signatures.bin"
"""MinHash signature of each document where near-duplicates are left out, (n_docs, PERMUTATIONS) uint32."""


@dataclass
class Progress:
    """How far a store is written."""

    source: int = 0
    """Number of the source that the last whole document is from."""
    row: int = 0
    """Its row there."""
    documents: int = 0
    tokens: int = 0
    passages: int = 0
    names: int = 0
    """Bytes of names.txt."""
    exact: int = 0
    """Documents left out because an earlier one has the same text."""
    near: int = 0
    """Documents left out because an earlier one has nearly the same text."""


def read_progress(folder: Path) -> Progress | None:
    """Read how far an unfinished store is written; None where it has not been begun."""
    try:
        return Progress(**json.loads((folder / PROGRESS).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


class StoreWriter:
    """The files of one store, open for writing.

    Args:
        folder: Exists.
        dtype: Of the token ids.
        duplicates: What is left out: see `data.duplicates`.
        similarity: Of near-duplicates.
        begun: How far the files in `folder` are written; they are cut back to it. None begins them.
    """

    def __init__(
        self,
        folder: Path,
        dtype: np.dtype[Any],
        *,
        duplicates: str = "exact",
        similarity: float = 0.8,
        begun: Progress | None = None,
    ) -> None:
        self.folder, self.dtype = folder, dtype
        self.progress = begun or Progress()
        self._name, self._hashes, self._written = "", DocumentHashes(), self.progress.tokens
        self._place = self.progress.source, self.progress.row
        self._near = NearDuplicates(similarity) if duplicates == "near" else None
        self._files = {name: self._open(name, size) for name, size in self._sizes().items()}
        if begun is None:
            self._append(OFFSETS, [0])
            self._append(PASSAGE_OFFSETS, [0])
        known: NDArray[np.uint64] = np.fromfile(folder / HASHES, dtype=np.uint64)
        self._seen = HashSet(known.tolist()) if duplicates != "keep" else None

    def _sizes(self) -> dict[str, int]:
        """Bytes of each file that the progress counts."""
        now = self.progress
        signatures = {SIGNATURES: SIGNATURE_BYTES * now.documents} if self._near else {}
        return signatures | {
            TOKENS: now.tokens * self.dtype.itemsize,
            NAMES: now.names,
            OFFSETS: 8 * (now.documents + 1),
            PASSAGE_OFFSETS: 8 * (now.documents + 1),
            HASHES: 8 * now.documents,
            PASSAGES: 8 * now.passages,
        }

    def _open(self, name: str, size: int) -> IO[bytes]:
        fresh = not self.progress.documents and not self.progress.row
        file = (self.folder / name).open("wb" if fresh else "r+b")
        if not fresh:
            file.truncate(size)
            file.seek(size)
        return file

    def _append(self, name: str, values: list[int]) -> None:
        dtype = np.int64 if name in (OFFSETS, PASSAGE_OFFSETS) else np.uint64
        self._files[name].write(np.array(values, dtype=dtype).data)

    def add(self, piece: Piece, ids: NDArray[Any]) -> None:
        """Take the next piece of the documents in order, and its token ids (n,)."""
        if piece.first:
            self.close_document()
            self._name, self._place = piece.name, (piece.source, piece.number)
        self._hashes.add(piece.text)
        if self._near:
            self._near.add(piece.text)
        self._files[TOKENS].write(ids.data)
        self._written += len(ids)

    def close_document(self) -> None:
        """End the present document. It is left out where it has no tokens or is a duplicate."""
        now, hashes, self._hashes = self.progress, self._hashes, DocumentHashes()
        now.source, now.row = self._place
        if self._written > now.tokens:
            value = hashes.close()
            exact = self._seen is not None and not self._seen.add(value)
            near = self._near is not None and self._near.close(forget=exact) and not exact
            now.exact += exact
            now.near += near
            if exact or near:
                self._cut()
            else:
                self._end_document(value, hashes.passages)
        elif self._near:
            self._near.close(forget=True)

    def _end_document(self, value: int, passages: list[int]) -> None:
        now = self.progress
        now.documents, now.tokens, now.passages = now.documents + 1, self._written, now.passages + len(passages)
        line = (" ".join(self._name.splitlines()) + "\n").encode(errors="replace")
        self._files[NAMES].write(line)
        now.names += len(line)
        self._append(PASSAGES, passages)
        self._append(HASHES, [value])
        if self._near:
            self._files[SIGNATURES].write(self._near.last.data)
        self._append(PASSAGE_OFFSETS, [now.passages])
        self._append(OFFSETS, [now.tokens])

    def _cut(self) -> None:
        """Take the tokens of the present document back."""
        self._written = self.progress.tokens
        self._files[TOKENS].seek(self._written * self.dtype.itemsize)
        self._files[TOKENS].truncate()

    def copy(self, tokens: NDArray[Any], name: str, value: int, passages: NDArray[np.uint64]) -> None:
        """Take a whole document of another store, with its hash and its passages."""
        if self._seen is not None and not self._seen.add(value):
            self.progress.exact += 1
            return
        self._name = name
        for start in range(0, len(tokens), 2**20):
            self._files[TOKENS].write(np.ascontiguousarray(tokens[start : start + 2**20]).data)
        self._written += len(tokens)
        self._end_document(value, passages.tolist())

    def commit(self) -> None:
        """Bring all whole documents to the disk, and say there how many they are."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        partial = self.folder / f"{PROGRESS}.new"
        partial.write_text(json.dumps(dataclasses.asdict(self.progress)), encoding="utf-8")
        partial.replace(self.folder / PROGRESS)

    def close(self) -> None:
        """Close the files; what is not committed is lost."""
        for file in self._files.values():
            file.close()

    def finish(self, identity: dict[str, Any]) -> None:
        """End the last document and write meta.json, which makes the files a store."""
        self.close_document()
        self.close()
        now = self.progress
        content = {"documents": now.documents, "tokens": now.tokens, "dtype": self.dtype.name}
        content |= {"passages": now.passages, "exact_duplicates": now.exact, "near_duplicates": now.near}
        (self.folder / META).write_text(json.dumps(identity | content, indent=1), encoding="utf-8")
