"""Training that begins while its text is still being tokenised, and examples that do not depend on how far that is.

What an example is, with W = `WINDOW`, size = tokens of an example, and documents in the order of the sources:

1. Documents too short, and duplicates, are left out. The first documents are held out for validation, as many as hold
   `training.validation_examples` examples; a long one gives its end alone.
2. A document of n tokens fills n // size slots. Slots are numbered in the order of the documents.
3. Example i of the first pass lies in block b = i // W. It has slot b·W + p[i mod W], where p is a permutation of the
   W slots of the block, keyed by (seed, b); the last block is shorter.
4. After the S slots of the whole corpus, example i is met again in pass i // S, in the order of that pass, which is a
   permutation of all slots.

So example i needs the documents up to slot (b + 1)·W and nothing else. Whoever asks for it waits until they are there.

One process fills the store, a little ahead of what is asked for, in a thread. It stops when nothing more is asked for.
The files and `progress.json` stay, so that the next process goes on behind the last whole document.
"""

import bisect
import contextlib
import shutil
import threading
import time
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from skipwise.config import DataConfig
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.data.store_building import Corpus
from skipwise.data.store_cache import cache_of, cannot_write
from skipwise.data.store_writer import NAMES, OFFSETS, PASSAGE_OFFSETS, PASSAGES, TOKENS, StoreWriter, read_progress
from skipwise.data.token_store import Spans, TokenDocuments, TokenStore, is_whole, mapped
from skipwise.errors import SkipwiseError
from skipwise.positions.sampler import example_order
from skipwise.utils.atomic_files import fsync_tree
from skipwise.utils.locks import locked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

WINDOW = 1024
"""Examples of a block, whose order is drawn."""
AHEAD = 4 * WINDOW
"""Slots that are filled beyond the last one asked for."""
BLOCKS = 2**32
"""Added to the number of a block where its order is drawn, so that no pass over all slots has the same key."""
POLL_SECONDS = 0.2
REQUEST = "wanted"
"""File in which a process that does not fill asks for more than this number of tokens."""


class GrowingStore(TokenStore):
    """A token store to which documents are still added. `refresh` shows those that have come.

    Args:
        folder: The store when it is finished. Until then its files are in `unfinished(folder)`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.finished = folder, False
        self.tokens, self.offsets = np.empty(0, np.uint16), np.zeros(1, np.int64)
        self.passages, self.passage_offsets = np.empty(0, np.uint64), np.zeros(1, np.int64)
        self.refresh()

    def refresh(self) -> None:
        """Look for new documents."""
        if self.finished:
            return
        if is_whole(self.folder):
            TokenStore.__init__(self, self.folder)
            self.finished = True
            return
        folder = unfinished(self.folder)
        progress = read_progress(folder)
        if progress is None or progress.documents == len(self):
            return
        with contextlib.suppress(FileNotFoundError):  # finished and renamed meanwhile
            dtype = (folder / "dtype").read_text(encoding="utf-8")
            tokens = mapped(folder / TOKENS, dtype, progress.tokens)
            passages = mapped(folder / PASSAGES, "uint64", progress.passages)
            passage_offsets = mapped(folder / PASSAGE_OFFSETS, "int64", progress.documents + 1)
            self.offsets = mapped(folder / OFFSETS, "int64", progress.documents + 1)
            self.tokens, self.passages, self.passage_offsets = tokens, passages, passage_offsets

    def name(self, index: int) -> str:
        """Where a document comes from."""
        folder = self.folder if self.finished else unfinished(self.folder)
        with (folder / NAMES).open(encoding="utf-8") as file:
            return next(line for number, line in enumerate(file) if number == index).rstrip("\n")


def unfinished(folder: Path) -> Path:
    """The folder in which a store is filled."""
    return folder.with_name(f"{folder.name}.unfinished")


class TextStream:
    """A corpus whose store is filled while it is read, the part of it that is held out, and its slots.

    Args:
        data: The corpus.
        tokenizer: Makes the token ids.
        document_length: Tokens that a document must have.
        example_length: Tokens in an example.
        hold_out: Tokens to hold out at the start of the corpus.
        ahead: Slots to fill beyond the last one asked for.
        setting: Which setting asks for `document_length`, for the error.

    Attributes:
        store: The documents so far.
        held_out: Spans for validation.

    Raises:
        SkipwiseError: The corpus cannot be read, or has too little text.
    """

    def __init__(
        self,
        data: DataConfig,
        tokenizer: "PreTrainedTokenizerBase",
        *,
        document_length: int,
        example_length: int,
        hold_out: int,
        ahead: int = AHEAD,
        setting: str = "training.train_length",
    ) -> None:
        self._corpus = Corpus(data, tokenizer)
        self._minimum, self._size, self._ahead = document_length, example_length, ahead
        self._missing = max(hold_out, document_length)
        self._folder = cache_of(data) / self._corpus.fingerprint
        self._setting = setting
        self._changed, self._stopped = threading.Condition(), False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._wanted, self._requested = 0, -1
        self._read = 0  # documents of the store that were looked at
        self._held = list[tuple[int, int, int]]()
        # Training spans: document, its length where it is used, and the number of slots up to its end.
        self.documents, self.stops, self.ends = array("q"), array("q"), array("q")
        self.store = GrowingStore(self._folder)
        self.wait_for(1)
        if not self.slots:
            raise SkipwiseError(self._too_little())
        self.held_out = Spans(self.store, np.array(self._held, dtype=np.int64))

    @property
    def slots(self) -> int:
        """Slots that can be read."""
        return self.ends[-1] if self.ends else 0

    @property
    def spans(self) -> Spans:
        """What is trained on, of the documents so far."""
        with self._changed:
            columns = [np.array(self.documents), np.zeros(len(self.documents), np.int64), np.array(self.stops)]
            return Spans(self.store, np.stack(columns, axis=1).astype(np.int64))

    @property
    def complete(self) -> bool:
        """Whether the whole corpus is there."""
        return self.store.finished

    def wait_for(self, slots: int) -> None:
        """Wait until there are so many slots, or the corpus ends.

        Raises:
            SkipwiseError: A text cannot be read, or the store cannot be written.
        """
        with self._changed:
            self._wanted = max(self._wanted, slots)
            self._changed.notify_all()
            self._refresh()
            while self.slots < slots and not self.complete:
                if self._error is not None:
                    raise self._error
                if self._thread is None:
                    self._start()
                self._request()
                self._changed.wait(POLL_SECONDS)
                self._refresh()

    def close(self) -> None:
        """Stop filling the store. What is written stays for the next process."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _refresh(self) -> None:
        """Divide the documents that have come."""
        self.store.refresh()
        offsets = self.store.offsets
        new: NDArray[np.int64] = np.diff(offsets[self._read :])
        for index in np.flatnonzero(new >= self._minimum).tolist():
            length = int(new[index])
            stop = self._hold_out(self._read + index, length) if self._missing > 0 else length
            if stop:
                self.documents.append(self._read + index)
                self.stops.append(stop)
                self.ends.append(self.slots + stop // self._size)
        self._read += len(new)

    def _hold_out(self, document: int, length: int) -> int:
        """Hold out what is missing of a document, at its end. Returns the tokens before it that are trained on."""
        tail = max(self._missing, self._minimum)
        start = length - tail if length - tail >= self._minimum else 0
        self._held.append((document, start, length))
        self._missing -= length - start
        return start

    def _request(self) -> None:
        """Ask a process that fills the store for more than there is."""
        if self._requested == len(self.store.tokens):
            return
        self._requested = len(self.store.tokens)
        with contextlib.suppress(OSError):  # not begun yet, or finished
            (unfinished(self._folder) / REQUEST).write_text(str(self._requested), encoding="utf-8")

    def _asked(self, tokens: int) -> bool:
        """Whether another process asks for more than so many tokens."""
        with contextlib.suppress(OSError, ValueError):
            return int((unfinished(self._folder) / REQUEST).read_text(encoding="utf-8")) >= tokens
        return False

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="tokenising", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        """Fill the store, unless another process does; then try again later."""
        try:
            lock = self._folder.with_name(f"{unfinished(self._folder).name}.lock")
            while not (self._stopped or is_whole(self._folder)):
                with locked(lock, wait=False) as first:
                    if first:
                        self._fill()
                        return
                time.sleep(POLL_SECONDS)
        except BaseException as error:
            self._error = self._described(error)
        finally:
            with self._changed:
                self._changed.notify_all()

    def _described(self, error: BaseException) -> BaseException:
        """An error about the cache with what to do; any other as it is."""
        cache = self._folder.parent
        if isinstance(error, OSError) and Path(error.filename or cache).is_relative_to(cache):
            return cannot_write(cache, error)
        return error

    def _fill(self) -> None:
        """Tokenise on behind the last whole document, until all is done or the stream is closed."""
        folder, corpus = unfinished(self._folder), self._corpus
        if is_whole(self._folder):
            shutil.rmtree(folder, ignore_errors=True)
            return
        folder.mkdir(parents=True, exist_ok=True)
        begun = read_progress(folder)
        (folder / "dtype").write_text(corpus.dtype.name, encoding="utf-8")
        writer = StoreWriter(folder, corpus.dtype, duplicates=corpus.data.duplicates, begun=begun)
        try:
            after = (begun.source, begun.row) if begun else (0, 0)
            for batch in corpus.batches(after=after):
                corpus.write(writer, batch)
                writer.commit()
                if not self._continue(writer.progress.tokens):
                    return
            writer.finish(corpus.identity)
        finally:
            writer.close()
        if not writer.progress.tokens:
            raise SkipwiseError("no documents: the tokenizer makes no token of any of the texts")
        for name in (REQUEST, "dtype", "progress.json"):
            (folder / name).unlink(missing_ok=True)
        fsync_tree(folder)
        with contextlib.suppress(OSError):  # another process has made the same store meanwhile
            folder.rename(self._folder)

    def _continue(self, tokens: int) -> bool:
        """Wait until more is asked for. Returns False where the stream is closed."""
        with self._changed:
            self._refresh()
            self._changed.notify_all()
            while not self._stopped and self.slots >= self._wanted + self._ahead and not self._asked(tokens):
                self._changed.wait(POLL_SECONDS)
            return not self._stopped

    def _too_little(self) -> str:
        longest = int(self.store.lengths.max(initial=0))
        return (
            f"too little text to train on: documents need {self._minimum:,} tokens ({self._setting}), the longest of "
            f"{len(self.store):,} has {longest:,}, and the first ones are held out for validation; give more or longer "
            f"texts, or a smaller {self._setting}"
        )


class StreamedSpans(TokenDocuments):
    """The documents of a stream that are trained on."""

    def __init__(self, stream: TextStream) -> None:
        self.stream = stream

    def __len__(self) -> int:
        return len(self.stream.documents)

    def __getitem__(self, index: Any) -> Any:
        return self.stream.store[self.stream.documents[index]][: self.stream.stops[index]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each document so far, (n,)."""
        return np.array(self.stream.stops, dtype=np.int64)

    def name(self, index: int) -> str:
        """Where a document comes from."""
        return self.stream.store.name(self.stream.documents[index])


class StreamedPositions(SkippedPositions):
    """`SkippedPositions` over a stream, whose examples are defined at the top of this file.

    Args:
        stream: The text.
        options: As `SkippedPositions`.
    """

    def __init__(self, stream: TextStream, **options: Any) -> None:
        super().__init__(StreamedSpans(stream), **options)
        self.stream = stream

    def slot(self, item: int) -> int:
        """The slot of example `item`."""
        stream, seed = self.stream, self.sampler.seed
        block, place = divmod(item, WINDOW)
        stream.wait_for((block + 1) * WINDOW)
        if item >= stream.slots:  # the corpus has ended
            passes, index = divmod(item, stream.slots)
            if self._order is None or self._order[0] != passes:
                self._order = passes, example_order(seed, passes, stream.slots)
            return int(self._order[1][index])
        size = min(WINDOW, stream.slots - block * WINDOW)
        if self._block is None or self._block[0] != block:
            self._block = block, example_order(seed, BLOCKS + block, size)
        return block * WINDOW + int(self._block[1][place])

    _block: tuple[int, NDArray[np.int64]] | None = None

    def _locate(self, item: int) -> tuple[int, int]:
        slot, ends = self.slot(item), self.stream.ends
        document = bisect.bisect_right(ends, slot)
        return document, slot - (ends[document - 1] if document else 0)
