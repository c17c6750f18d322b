r"""How documents are read from text sources: whole, or in pieces so that memory stays flat.

A text file is one document; a row of any other source is one document. Byte-order marks are dropped, and line ends of
text files become "\n". `documents` holds one document at a time, `pieces` about a quarter of a million characters.
"""

import io
import math
import re
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from skipwise.data.row_files import missing_field, opened, read_rows, reading_errors
from skipwise.data.text_sources import TextSource
from skipwise.errors import SkipwiseError

PIECE = 2**18  # characters
SEARCHED = 2**16  # characters at the end of a piece in which a place to cut is looked for
SPLIT_MARKS = re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)")


@dataclass(frozen=True)
class TextDocument:
    """One text. `name` tells where it comes from, e.g. `book.txt`, `data.jsonl:17`."""

    name: str
    text: str


class Piece(NamedTuple):
    """A document or a part of one.

    `first` starts a document; `read` is the bytes read of all sources by then. The document is row `number` of the
    source with the number `source`.
    """

    name: str
    text: str
    first: bool
    read: int
    number: int = 1
    source: int = 0


def documents(sources: Iterable[TextSource]) -> Iterator[TextDocument]:
    """Read the documents of all sources in order, without those that hold no text.

    Raises:
        SkipwiseError: Text cannot be decoded, a line is broken, a field is missing, or there is no document at all.
    """
    name, parts = "", list[str]()
    for piece in pieces(sources):
        if piece.first and parts:
            yield TextDocument(name, "".join(parts))
            parts = []
        name = piece.name
        parts.append(piece.text)
    yield TextDocument(name, "".join(parts))


def pieces(
    sources: Iterable[TextSource], *, after: tuple[int, int] = (0, 0), may_be_empty: bool = False
) -> Iterator[Piece]:
    """Read the documents of all sources, the long ones in parts (see `split_text`).

    Args:
        sources: In the order in which they are read.
        after: Number of a source, and of a row there: only what comes after that document is returned.
        may_be_empty: Accept sources without a document.

    Raises:
        SkipwiseError: As `documents`.
    """
    before, read, empty = 0, 0, after == (0, 0) and not may_be_empty
    names = list[str]()
    for index, source in enumerate(sources):
        names.append(source.name)
        done = after[1] if index == after[0] else 0
        if index < after[0] or (done and source.kind == "text"):
            before += source.size or 0
            continue
        with reading_errors(source.name, source.path):
            for piece in _file_pieces(source) if source.kind == "text" else _row_pieces(source, done):
                read, empty = before + piece.read, False
                yield piece._replace(read=read, source=index)
        before = before + source.size if source.size else read
    if empty:
        raise SkipwiseError(f"no documents: nothing but empty text in {', '.join(names[:5])}")


def split_text(read: Callable[[int], str]) -> Iterator[str]:
    """Cut the text that `read(characters)` hands out into parts of at most `PIECE` characters.

    A cut falls after a line end between two other characters or, failing that, before a single space: there
    tokenizers of the GPT-2 and Llama-3 kind cut by themselves, so that the parts' tokens are the text's tokens.
    Elsewhere (SentencePiece, text without spaces) a cut can change or add a token: one in some 60,000.
    """
    text = read(PIECE + 1)
    while len(text) > PIECE:
        cut = PIECE
        start = PIECE - SEARCHED
        for mark in SPLIT_MARKS:
            if ends := [match.end() for match in mark.finditer(text[start:PIECE])]:
                cut = start + ends[-1]
                break
        yield text[:cut]
        text = text[cut:]
        text += read(PIECE + 1 - len(text))
    if text:
        yield text


def _file_pieces(source: TextSource) -> Iterator[Piece]:
    with opened(Path(source.path)) as (raw, file):
        first = True
        for part in split_text(io.TextIOWrapper(file, encoding="utf-8").read):
            if "\0" in part:
                raise SkipwiseError(f"{source.name} holds NUL bytes: it is not text; exclude it")
            text = part.replace("\ufeff", "")  # at the start, and where files were joined
            if text:
                yield Piece(source.name, text, first, raw.tell())
                first = False


def _row_pieces(source: TextSource, done: int = 0) -> Iterator[Piece]:
    """The documents of a source of rows, without its first `done` rows."""
    characters = 0
    for number, row, read in _rows(source, done):
        if number <= done:
            continue
        name = f"{source.name}:{number}"
        if source.field not in row:
            raise missing_field(name, source.field, row)
        text = row[source.field]
        if isinstance(text, float) and math.isnan(text):  # pandas writes NaN where there is no text
            continue
        if not isinstance(text, str | None):
            raise SkipwiseError(f"{name}: field {source.field!r} holds {type(text).__name__}, expected text")
        if not text or text.isspace():
            continue
        if not text.isascii():  # JSON can escape half a surrogate pair, which no tokenizer takes
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        characters += len(text)
        first = True
        for part in split_text(io.StringIO(text, newline="\n").read):
            yield Piece(name, part, first, characters if read is None else read, number)
            first = False


def _rows(source: TextSource, done: int) -> Iterator[tuple[int, dict[str, Any], int | None]]:
    """(number, fields, bytes read if known) of the rows of a source; the first `done` may be left out."""
    if source.kind in ("saved", "dataset"):
        yield from dataset_rows(source, [source.field], done)
    else:
        yield from read_rows(Path(source.path), source.name, [source.field] if source.kind == "parquet" else None)


def dataset_rows(
    source: TextSource, wanted: list[str] | None, done: int = 0
) -> Generator[tuple[int, dict[str, Any], None], None, None]:
    """Number, fields and None of the rows of a `datasets` source, with the `wanted` columns or with all.

    Args:
        source: The source.
        wanted: Columns.
        done: Rows at the start that are left out.
    """
    import datasets

    try:
        if source.kind == "saved":
            rows = datasets.load_from_disk(source.path)
            if isinstance(rows, dict):
                if source.split not in rows:
                    raise SkipwiseError(f"{source.name} has no split {source.split!r}; its splits: {', '.join(rows)}")
                rows = rows[source.split]
        else:
            options = {"split": source.split, "revision": source.revision, "streaming": True}
            rows = datasets.load_dataset(source.path, source.config, **options)
        columns = rows.column_names
        if columns and (missing := [name for name in wanted or () if name not in columns]):
            raise missing_field(source.name, missing[0], columns, "column")
        rows = rows.select_columns(wanted) if columns and wanted else rows
        for number, row in enumerate(rows.skip(done) if done else rows, start=done + 1):
            yield number, row, None
    except SkipwiseError:
        raise
    except Exception as error:  # `datasets` raises what its many readers raise
        reason = " ".join(str(error).split())[:200]
        raise SkipwiseError(f"cannot read dataset {source.name}: {reason or type(error).__name__}") from error
