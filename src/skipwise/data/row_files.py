"""Files of rows (.jsonl, .json, .csv, .tsv, .parquet), read one row at a time so that memory stays flat.

Text files of rows are UTF-8; .gz and .zst are unpacked on the way. A byte-order mark may stand at the start of the file
or of any line, as it does where files were joined.
"""

import codecs
import contextlib
import csv
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from skipwise.errors import SkipwiseError
from skipwise.utils.os_errors import path_error

RowKind = Literal["jsonl", "json", "csv", "parquet"]

PACKED = {".gz", ".zst"}
ROW_KINDS: dict[str, RowKind] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
CHUNK = 2**16  # characters of a .json file read at once
SHOWN_COLUMNS = 12
BLANK = codecs.BOM_UTF8 + b" \t\r\n"
BETWEEN_VALUES = re.compile("[\\s\ufeff]*")


class FileRow(NamedTuple):
    """A row of a file: its number (from 1; of .jsonl the line), its fields, and the bytes of the file read by then."""

    number: int
    values: dict[str, Any]
    read: int


def suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case: `.jsonl` of `data.jsonl.gz`."""
    name = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return name.suffix.lower()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file, perhaps packed.

    Yields:
        The file as it is, whose position shows the progress, and its unpacked content.
    """
    with path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            yield raw, cast(IO[bytes], gzip.GzipFile(fileobj=raw))
        elif path.suffix.lower() == ".zst":
            import pyarrow  # the zstandard package ends a truncated file without an error

            yield raw, io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"))
        else:
            yield raw, raw


@contextlib.contextmanager
def reading_errors(name: str, path: str | Path | None = None) -> Iterator[None]:
    """Turn any error in reading a source into a SkipwiseError of one line.

    Args:
        name: What the messages call the source.
        path: Where it is, for errors of the operating system. `name` if absent.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        problem = f"byte 0x{error.object[error.start]:02x}, {error.reason}"
        raise SkipwiseError(f"{name} is not UTF-8 text ({problem}); convert or exclude it") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SkipwiseError(f"{name} is broken: {' '.join(str(error).split())}; pack or fetch it again") from error
    except OSError as error:
        raise path_error(error, name if path is None else path, "read") from error


def missing_field(place: str, field: str, names: Iterable[str], what: str = "field") -> SkipwiseError:
    """Describe a field or column that is not there, with the nearest one that is."""
    names = [name if len(name) <= 40 else f"{name[:40]}…" for name in map(str, names)]
    shown = ", ".join(map(repr, names[:SHOWN_COLUMNS])) + (" …" if len(names) > SHOWN_COLUMNS else "")
    near = difflib.get_close_matches(field, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return SkipwiseError(
        f"{place} has no {what} {field!r}; its {what}s: {shown or 'none'}; {hint}"
        f"name the one with the text as PATH::{near[0] if near else what.upper()}"
    )


def read_rows(path: Path, name: str | None = None, columns: list[str] | None = None) -> Generator[FileRow, None, None]:
    """Read all rows of a file whose format its suffix tells.

    Args:
        path: A file with a suffix of `ROW_KINDS`, perhaps packed.
        name: What errors call it. Its file name if absent.
        columns: Columns of a parquet file that are unpacked; all if absent. Other files are always read whole.

    Raises:
        SkipwiseError: The file cannot be read, lacks one of the columns, or holds something else than its suffix says.
            The message names the row.
    """
    name = path.name if name is None else name
    kind = ROW_KINDS[suffix(path)]
    with reading_errors(name, path):
        if kind == "parquet":
            yield from _parquet_rows(path, name, columns)
        else:
            yield from {"jsonl": _jsonl_rows, "json": _json_rows, "csv": _csv_rows}[kind](path, name)


def _parquet_rows(path: Path, name: str, columns: list[str] | None) -> Iterator[FileRow]:
    import pyarrow.parquet

    size = path.stat().st_size
    try:
        with pyarrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as table:
            names = table.schema_arrow.names
            if missing := [column for column in columns or () if column not in names]:
                raise missing_field(name, missing[0], names, "column")
            number, total = 0, max(table.metadata.num_rows, 1)
            for batch in table.iter_batches(batch_size=16, columns=columns):
                for index in range(batch.num_rows):  # one by one: texts may be long
                    values = {key: batch.column(key)[index].as_py() for key in batch.schema.names}
                    number += 1
                    yield FileRow(number, values, size * number // total)
    except pyarrow.ArrowException as error:
        raise SkipwiseError(f"{name} is not a readable parquet file: {' '.join(str(error).split())}") from error


def _jsonl_rows(path: Path, name: str) -> Iterator[FileRow]:
    with opened(path) as (raw, file):
        for number, line in enumerate(file, start=1):
            if not line.strip(BLANK):
                continue
            try:
                value = json.loads(line.decode("utf-8-sig"))
            except RecursionError as error:
                raise SkipwiseError(f"{name}:{number} is nested too deeply; remove that line") from error
            except ValueError as error:
                raise SkipwiseError(f"{name}:{number} is not JSON ({' '.join(str(error).split())})") from error
            yield FileRow(number, _object(value, name, number), raw.tell())


def _json_rows(path: Path, name: str) -> Iterator[FileRow]:
    """The rows of a .json file: an array of objects, one object, or objects after each other such as lines."""
    with opened(path) as (raw, file):
        values = _json_values(io.TextIOWrapper(file, encoding="utf-8"), name)
        for number, value in enumerate(values, start=1):
            yield FileRow(number, _object(value, name, number), raw.tell())


def _json_values(file: IO[str], name: str) -> Iterator[Any]:
    """Decode values one by one from a buffer that grows until it holds the whole of the next one."""
    decoder, buffer, position, count = json.JSONDecoder(), "", 0, 0
    in_array, comma = False, False
    while True:
        position = cast(re.Match[str], BETWEEN_VALUES.match(buffer, position)).end()
        if position == len(buffer):
            buffer, position = file.read(CHUNK), 0
            if buffer:
                continue
            if in_array:
                raise SkipwiseError(f"{name} ends inside its array, after row {count}; fetch or write it again")
            return
        here = buffer[position]
        if here == "[" and not in_array:
            in_array, comma, position = True, True, position + 1
        elif here == "]" and in_array:
            in_array, position = False, position + 1
        elif here == "," and in_array and not comma:
            comma, position = True, position + 1
        else:
            if in_array and not comma:
                raise SkipwiseError(f"{name}:{count + 1} is not JSON (expected a comma before it)")
            try:
                value, position = decoder.raw_decode(buffer, position)
            except RecursionError as error:
                raise SkipwiseError(f"{name}:{count + 1} is nested too deeply; remove it") from error
            except json.JSONDecodeError as error:
                # A value cut off by the buffer's end fails there, or in a string that does not end.
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(buffer) - 12
                more = file.read(max(CHUNK, len(buffer) - position)) if cut else ""
                if not more:
                    raise SkipwiseError(f"{name}:{count + 1} is not JSON ({error.msg})") from error
                buffer, position = buffer[position:] + more, 0
                continue
            count, comma = count + 1, False
            yield value


def _object(value: Any, name: str, number: int) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SkipwiseError(f"{name}:{number} is not a JSON object but {type(value).__name__}")
    return value


def _csv_rows(path: Path, name: str) -> Iterator[FileRow]:
    """The rows of a .csv or .tsv file whose first line names the columns.

    The delimiter is the one of tab, comma, semicolon and bar that stands most often in the first line.
    """
    csv.field_size_limit(2**31 - 1)  # by default a text of 131,072 characters is an error
    with opened(path) as (raw, file):
        lines = (line.removeprefix("\ufeff") for line in io.TextIOWrapper(file, encoding="utf-8", newline=""))
        first = next((line for line in lines if line.strip()), "")
        delimiter = max("\t,;|" if suffix(path) == ".tsv" else ",\t;|", key=first.count)
        reader = csv.reader(_after(first, lines), delimiter=delimiter, strict=True)
        columns: list[str] = []
        number = 0
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise SkipwiseError(
                    f"{name}:{number + 1} is no {suffix(path)[1:].upper()} ({error}); "
                    'put text with quotes or line ends between " and double each " in it'
                ) from error
            if cells is None:
                return
            if not columns:
                columns = cells
                continue
            if not cells or cells == columns:  # an empty line; a second header where files were joined
                continue
            number += 1
            if len(cells) != len(columns):
                raise SkipwiseError(
                    f"{name}:{number} has {len(cells)} cells where the first line names {len(columns)} columns; "
                    f'put text that holds {delimiter!r} between "'
                )
            yield FileRow(number, dict(zip(columns, cells, strict=True)), raw.tell())


def _after(first: str, lines: Iterator[str]) -> Iterator[str]:
    yield first
    yield from lines
