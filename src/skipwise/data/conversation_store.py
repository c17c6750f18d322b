"""Conversations as a memory-mapped store: token ids, a mark for each, and where each conversation starts.

It is a folder in the cache beside the token stores, named by a fingerprint of the tokenizer, its chat template and the
sources:

    tokens.bin (uint16 or uint32)  marks.bin (uint8, see `chat_tokens`)  offsets.npy  names.txt  meta.json
    hashes.bin  signatures.bin   (of the turns, as those of a text: see `fingerprints` and `near_duplicates`)

It appears whole. Memory stays that of about a million characters. Whole conversations are stored, whatever their
length, so one store serves every train length.
"""

import functools
import hashlib
import json
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skipwise.config import DataConfig
from skipwise.data.chat_rows import Conversation, conversation
from skipwise.data.chat_tokens import ANSWER, ChatTokeniser, ChatTokens
from skipwise.data.documents import dataset_rows
from skipwise.data.fingerprints import DocumentHashes, Hashes, HashSet
from skipwise.data.near_duplicates import SIGNATURE_BYTES, NearDuplicates, Signatures
from skipwise.data.row_files import read_rows, reading_errors
from skipwise.data.store_cache import cached_folder
from skipwise.data.store_writer import HASHES, SIGNATURES
from skipwise.data.text_sources import TextSource
from skipwise.data.token_store import signatures_in
from skipwise.data.tokenising import token_dtype, tokenizer_fingerprint
from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import atomic_folder
from skipwise.utils.progress import Bar
from skipwise.utils.progress import bar as progress_bar
from skipwise.utils.text import count_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 2
BATCH = 2**20  # characters tokenised at once


class ConversationStore:
    """A store, read from disk as needed.

    Args:
        folder: The folder of a finished store.

    Attributes:
        tokens: Memory map of all ids, (n_tokens,) uint16 or uint32.
        marks: Memory map of their marks, (n_tokens,) uint8.
        offsets: Memory map of where each conversation starts, (n_conversations + 1,) int64.
        hashes: Hashes of the conversations, (n_conversations,) uint64.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta: dict[str, Any] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        self.tokens: NDArray[Any] = np.memmap(folder / "tokens.bin", dtype=self.meta["dtype"], mode="r")
        self.marks: NDArray[np.uint8] = np.memmap(folder / "marks.bin", dtype=np.uint8, mode="r")
        self.offsets: NDArray[np.int64] = np.load(folder / "offsets.npy", mmap_mode="r")
        self.hashes: Hashes = np.memmap(folder / HASHES, dtype=np.uint64, mode="r")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __reduce__(self) -> tuple[type["ConversationStore"], tuple[Path]]:
        return ConversationStore, (self.folder,)  # a pickled memory map would carry its whole content

    def __getitem__(self, index: int) -> ChatTokens:
        if not 0 <= index < len(self):
            raise IndexError(f"conversation {index} of {len(self)}")
        place = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return ChatTokens(self.tokens[place], self.marks[place])

    @property
    def signatures(self) -> Signatures:
        """Memory map of the conversations' MinHash signatures, (n, PERMUTATIONS), where near ones are left out."""
        return signatures_in(self.folder, len(self))

    @property
    def duplicates_text(self) -> str:
        """How many conversations were left out as duplicates, e.g. `, 3 exact duplicates`. Empty where none was."""
        counts = {kind: self.meta[f"{kind}_duplicates"] for kind in ("exact", "near")}
        return "".join(f", {count_text(n, f'{kind} duplicate')}" for kind, n in counts.items() if n)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each conversation, (n_conversations,)."""
        return np.diff(self.offsets)

    def describe(self) -> str:
        """Say in a line what is in the store and what is learned from it."""
        return (
            f"{self.meta['conversations']:,} with {self.meta['tokens']:,} tokens, of which the "
            f"{self.meta['answer_tokens']:,} of the answers have a loss; each has positions of its own, laid out for "
            "its length"
        )

    @functools.cached_property
    def names(self) -> list[str]:
        """Where each conversation comes from."""
        return (self.folder / "names.txt").read_text(encoding="utf-8").split("\n")[:-1]


class Fitted(NamedTuple):
    """The conversations of a store that an example can hold.

    Attributes:
        indices: Their places in the store, (n,).
        lengths: Their tokens, (n,), up to the last answer that fits.
        cut: Number of those that are longer in the store.
        left_out: Number of those whose first answer does not fit.
    """

    indices: NDArray[np.int64]
    lengths: NDArray[np.int64]
    cut: int
    left_out: int


def fitted(store: ConversationStore, length: int) -> Fitted:
    """Cut conversations behind the last answer that fits into `length` tokens.

    Args:
        store: The store.
        length: Tokens of an example.

    Raises:
        SkipwiseError: No conversation fits.
    """
    lengths = store.lengths.copy()
    long = np.flatnonzero(lengths > length)
    for index in long.tolist():
        answers = (store[index].marks[: length + 1] & ANSWER) != 0
        ends = np.flatnonzero(answers[:-1] & ~answers[1:]) + 1
        lengths[index] = ends[-1] if len(ends) else 0
    indices = np.flatnonzero(lengths)
    if not len(indices):
        shortest = int(store.lengths.min())
        raise SkipwiseError(
            f"no conversation has its first answer within {length:,} tokens: the shortest of {len(store):,} has "
            f"{shortest:,}; give shorter conversations or a larger training.train_length"
        )
    left_out = len(store) - len(indices)
    return Fitted(indices, lengths[indices], len(long) - left_out, left_out)


def open_conversations(
    data: DataConfig, sources: list[TextSource], tokenizer: "PreTrainedTokenizerBase", *, progress: bool = True
) -> ConversationStore:
    """Open the store of some sources of conversations: the one in the cache if its fingerprint matches, else a new one.

    Args:
        data: Names the folder of the cache, and says what counts as a duplicate.
        sources: Sources with a `chat` form.
        tokenizer: Renders and tokenises the conversations.
        progress: Show a bar while a new store is made.

    Raises:
        SkipwiseError: A source cannot be read, a row cannot be learned from (the message names it), or the cache folder
            cannot be written.
    """
    tokenise = ChatTokeniser(tokenizer)
    fingerprints = "\n".join(source.fingerprint for source in sources)
    identity: dict[str, Any] = {
        "format": f"conversations {FORMAT}",
        "tokenizer": tokenizer_fingerprint(tokenizer),
        "template": tokenise.fingerprint,
        "sources": hashlib.sha256(fingerprints.encode(errors="replace")).hexdigest(),
        "duplicates": f"near {data.similarity}" if data.duplicates == "near" else data.duplicates,
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
    identity["fingerprint"] = fingerprint
    sizes = [source.size for source in sources]
    total = None if None in sizes else sum(size or 0 for size in sizes)

    def build(folder: Path) -> None:
        with atomic_folder(folder) as partial:
            with progress_bar("tokenising conversations", total=total, unit="B", quiet=not progress) as bar:
                meta = _write(partial, sources, tokenise, token_dtype(tokenizer), _Copies(data), bar)
            (partial / "meta.json").write_text(json.dumps(identity | meta, indent=1), encoding="utf-8")

    return ConversationStore(cached_folder(data, fingerprint, whole=_whole, build=build))


def _whole(folder: Path) -> bool:
    """Whether `folder` holds a store with nothing missing."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        sizes = [(folder / name).stat().st_size for name in ("tokens.bin", "marks.bin")]
        offsets = np.load(folder / "offsets.npy", mmap_mode="r")
        tokens = int(meta["tokens"])
        whole = sizes == [tokens * np.dtype(meta["dtype"]).itemsize, tokens] and offsets[-1] == tokens
        count = len(offsets) - 1
        whole &= (folder / HASHES).stat().st_size == 8 * count
        if str(meta["duplicates"]).startswith("near"):
            whole &= (folder / SIGNATURES).stat().st_size == SIGNATURE_BYTES * count
        return bool(whole and (folder / "names.txt").exists())
    except (OSError, ValueError, KeyError, IndexError):
        return False


class _Copies:
    """Tells conversations that were met before, and counts them."""

    def __init__(self, data: DataConfig) -> None:
        self._seen = HashSet() if data.duplicates != "keep" else None
        self._near = NearDuplicates(data.similarity) if data.duplicates == "near" else None
        self.counts = {"exact_duplicates": 0, "near_duplicates": 0}

    def mark(self, one: Conversation) -> tuple[int, bytes] | None:
        """Hash and signature (empty where none is needed) of a conversation; None for a duplicate."""
        hashes = DocumentHashes()
        parts = [f"{key}\n{turn[key]}\n" for turn in one.turns for key in sorted(turn)] + [f"{one.tools or ''}"]
        for part in parts:
            hashes.add(part)
        value = hashes.close()
        if self._seen is not None and not self._seen.add(value):
            self.counts["exact_duplicates"] += 1
            return None
        if self._near is None:
            return value, b""
        self._near.add("\n".join(str(turn["content"]) for turn in one.turns))
        if self._near.close():
            self.counts["near_duplicates"] += 1
            return None
        return value, self._near.last.tobytes()


def _write(
    folder: Path, sources: list[TextSource], tokenise: ChatTokeniser, dtype: np.dtype[Any], copies: _Copies, bar: Bar
) -> dict[str, Any]:
    """Write everything but meta.json, whose facts are returned."""
    offsets, answers = array("q", [0]), 0
    with (
        (folder / "tokens.bin").open("wb") as tokens,
        (folder / HASHES).open("wb") as hashes,
        (folder / SIGNATURES).open("wb") as signatures,
        (folder / "marks.bin").open("wb") as marks,
        (folder / "names.txt").open("w", encoding="utf-8", errors="replace") as names,
    ):
        for every, read in _batches(sources):
            marked = [(each, copies.mark(each[1])) for each in every]
            batch = [each for each, known in marked if known]
            for value, signature in (known for _, known in marked if known):
                hashes.write(value.to_bytes(8, sys.byteorder))
                signatures.write(signature)
            for (place, _), (ids, mark) in zip(batch, tokenise(batch), strict=True):
                tokens.write(ids.astype(dtype).data)
                marks.write(mark.data)
                names.write(" ".join(place.splitlines()) + "\n")
                offsets.append(offsets[-1] + len(ids))
                answers += int(((mark & ANSWER) != 0).sum())
            bar.advance(read - bar.done)
    if len(offsets) == 1:
        raise SkipwiseError(f"no conversations in {', '.join(source.name for source in sources[:5])}; give rows")
    np.save(folder / "offsets.npy", np.frombuffer(offsets, dtype=np.int64))
    facts = {"conversations": len(offsets) - 1, "tokens": offsets[-1], "answer_tokens": answers, "dtype": dtype.name}
    return facts | copies.counts


def _batches(sources: list[TextSource]) -> Iterator[tuple[list[tuple[str, Conversation]], int]]:
    """Group conversations to about `BATCH` characters, with the bytes read of all sources by then."""
    batch, characters, before, read = list[tuple[str, Conversation]](), 0, 0, 0
    for source in sources:
        with reading_errors(source.name, source.path):
            for number, row, position in _rows(source):
                place = f"{source.name}:{number}"
                one = conversation(row, source.chat, place)
                batch.append((place, one))
                characters += sum(len(turn["content"]) for turn in one.turns)
                read = before + (position or 0)
                if characters >= BATCH:
                    yield batch, read
                    batch, characters = [], 0
        before += source.size or 0
    if batch:
        yield batch, read


def _rows(source: TextSource) -> Iterator[tuple[int, dict[str, Any], int | None]]:
    if source.kind in ("saved", "dataset"):
        yield from dataset_rows(source, None)
    else:
        yield from read_rows(Path(source.path), source.name)
