"""Where text comes from: paths, `datasets` ids and names of packaged texts go in, a stream of documents comes out.

A text file is one document; a row of a .jsonl, .parquet or `datasets` source is one document. Text is UTF-8, a BOM is
dropped, and line ends of text files become "\\n". Nothing is read ahead: `documents` holds one document, `pieces` about
a quarter of a million characters of it.
"""

import codecs
import contextlib
import difflib
import fnmatch
import gzip
import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, cast

from skipwise.assets import catalogue
from skipwise.errors import SkipwiseError
from skipwise.utils.progress import say

PIECE = 2**18  # characters
HEAD = 2**16  # bytes looked at to tell text from binary
PACKED = {".gz", ".zst"}
ROWS = {".jsonl", ".ndjson"}
PROSE = {".txt", ".md", ".markdown", ".rst", ".tex", ".org", ".adoc"}
CODE = set(
    ".py .pyi .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .java .kt .scala .go .rs .js .jsx .mjs .ts .tsx .rb .php"
    " .pl .pm .swift .m .mm .cs .fs .hs .ml .mli .lua .r .jl .sh .bash .sql .lisp .el .clj .ex .exs .erl .f90".split()
)
TABLES = {".parquet", ".csv", ".tsv", ".arrow", ".json"}
SPLIT_MARKS = re.compile(r"(?<=\S)\n(?=\S)"), re.compile(r"(?<=\S)(?= \S)")


@dataclass(frozen=True)
class Document:
    """One text. `name` tells where it comes from, e.g. `book.txt`, `data.jsonl:17`."""

    name: str
    text: str


class Piece(NamedTuple):
    """A document or a part of one. `first` starts a document; `read` is the bytes read of all sources by then."""

    name: str
    text: str
    first: bool
    read: int


@dataclass(frozen=True)
class Source:
    """One file or dataset. `fingerprint` changes when its content may have changed; `size` is its bytes where known."""

    kind: Literal["text", "jsonl", "parquet", "saved", "dataset"]
    name: str
    path: str
    fingerprint: str
    field: str = "text"
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    size: int | None = None


def sources(
    paths: list[str], *, exclude: Iterable[str] = (), field: str = "text", split: str = "train"
) -> list[Source]:
    """Resolve files, folders, names of packaged texts and `datasets` ids (`id` or `id:configuration`), in this order.

    `exclude` holds shell patterns, each compared with a file's name, its path inside the folder given, and the
    folders on that path. `field` is the field or column with the text; `split` the split of a `datasets` source.

    Errors: SkipwiseError for what is missing, unreadable, empty or binary, and where nothing is left to read.
    """
    if not paths:
        raise SkipwiseError("no text was given: name a file, a folder, a datasets id or a packaged text such as stdlib")
    patterns = dict.fromkeys(exclude, 0)
    found: dict[tuple[str, str | None], Source] = {}
    for path in paths:
        with _reading(path):
            for source in _resolve(path, field, split):
                matching = [pattern for pattern in patterns if _matches(source.name, pattern)]
                for pattern in matching:
                    patterns[pattern] += 1
                if not matching:
                    found.setdefault((source.path, source.config), source)
    for pattern, count in patterns.items():
        if not count:
            say(f"exclude {pattern!r} matches no file")
    if not found:
        raise SkipwiseError(f"no documents: exclude {list(patterns)} leaves nothing of {', '.join(paths)}")
    return list(found.values())


def documents(sources: Iterable[Source]) -> Iterator[Document]:
    """The documents of all sources in order, without those that hold no text.

    Errors: SkipwiseError for text that cannot be decoded, a broken line, a missing field, and no document at all.
    """
    name, parts = "", list[str]()
    for piece in pieces(sources):
        if piece.first and parts:
            yield Document(name, "".join(parts))
            parts = []
        name = piece.name
        parts.append(piece.text)
    yield Document(name, "".join(parts))


def pieces(sources: Iterable[Source]) -> Iterator[Piece]:
    """The documents of all sources, the long ones in parts: see `split_text`. Errors: as for `documents`."""
    before, read, empty = 0, 0, True
    names = list[str]()
    for source in sources:
        names.append(source.name)
        with _reading(source.name):
            for piece in _file_pieces(source) if source.kind == "text" else _row_pieces(source):
                read, empty = before + piece.read, False
                yield piece._replace(read=read)
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
        start = PIECE - HEAD
        for mark in SPLIT_MARKS:
            if ends := [match.end() for match in mark.finditer(text[start:PIECE])]:
                cut = start + ends[-1]
                break
        yield text[:cut]
        text = text[cut:]
        text += read(PIECE + 1 - len(text))
    if text:
        yield text


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(`file:line`, object) of every line of a .jsonl(.gz|.zst) file. Errors: as for `documents`."""
    with _reading(str(path)):
        for number, row, _ in _jsonl_rows(_file(path, path.name, "")):
            yield f"{path.name}:{number}", row


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or any(fnmatch.fnmatch(part, pattern) for part in name.split("/"))


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what goes wrong while a source is read into one line."""
    try:
        yield
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x}, {error.reason}"
        raise SkipwiseError(f"{name} is not UTF-8 text ({found}); convert or exclude it") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SkipwiseError(f"{name} is broken: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise SkipwiseError(f"cannot read {name}: {error.strerror or error}") from error


def _resolve(path: str, field: str, split: str) -> list[Source]:
    local = Path(path).expanduser()
    if local.is_dir():
        return _folder(local, path, field, split)
    if local.is_file():
        if problem := _problem(local):
            raise SkipwiseError(f"{path} {problem}")
        return [_file(local, local.name, field)]
    if local.exists():
        raise SkipwiseError(f"{path} is neither a file nor a folder")
    if path in catalogue.names("text"):
        return _resolve(str(catalogue.get(path)), field, split)
    if path in catalogue.names("model"):
        raise SkipwiseError(f"{path!r} is a packaged model; packaged texts are {', '.join(catalogue.names('text'))}")
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or re.fullmatch(r"\.[A-Za-z]\w{0,7}", local.suffix):
        raise SkipwiseError(f"{path}: no such file or folder")
    return [_hub(path, field, split)]


def _suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case: `.jsonl` of `data.jsonl.gz`."""
    name = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return name.suffix.lower()


def _file(path: Path, name: str, field: str) -> Source:
    suffix, stat = _suffix(path), path.stat()
    kind: Literal["text", "jsonl", "parquet"] = "text"
    if suffix in ROWS or suffix == ".parquet":
        kind = "jsonl" if suffix in ROWS else "parquet"
    absolute = str(path.resolve())
    fingerprint = f"{kind}:{absolute}:{stat.st_size}:{stat.st_mtime_ns}" + (f":{field}" if kind != "text" else "")
    return Source(kind, name, absolute, fingerprint, field, size=stat.st_size)


def _problem(path: Path) -> str | None:
    """What keeps a file from being text, judged by its beginning; None for text and for parquet."""
    if path.stat().st_size == 0:
        return "is empty"
    if _suffix(path) == ".parquet":
        return None
    with _reading(str(path)), _opened(path) as (_, file):
        head = file.read(HEAD)
    if b"\0" in head:
        return "holds NUL bytes: it is binary, or text in another encoding than UTF-8"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text (byte 0x{head[error.start]:02x} at {error.start}); convert it, e.g. with iconv"
    return None if text.strip() or len(head) == HEAD else "is empty"


def _folder(folder: Path, given: str, field: str, split: str) -> list[Source]:
    files = _walk(folder)
    saved = {"dataset_info.json", "state.json"} <= {file.name for file in files if file.parent == folder}
    if saved or (folder / "dataset_dict.json").is_file():
        return [_dataset_folder("saved", folder, files, field, split)]
    if _is_dataset(folder, files):
        return [_dataset_folder("dataset", folder, files, field, split)]
    texts = [file for file in files if _suffix(file) in PROSE | CODE | ROWS | {".parquet"} and file.stat().st_size]
    good = [file for file in texts if not _problem(file)]
    if left := sorted(set(texts) - set(good)):
        say(f"{given}: {len(left)} files are no UTF-8 text and left out, e.g. {left[0].relative_to(folder)}")
    if not good:
        kinds = "text, Markdown, source code, .jsonl, .parquet"
        raise SkipwiseError(f"no documents in the folder {given} ({len(files)} files, none of them {kinds})")
    return [_file(file, file.relative_to(folder).as_posix(), field) for file in good]


def _walk(folder: Path) -> list[Path]:
    """All regular files below `folder` that are not hidden, sorted by path."""

    def fail(error: OSError) -> None:
        raise error

    def shown(names: list[str]) -> list[str]:
        return [name for name in names if not name.startswith(".") and name != "__pycache__"]

    files = list[Path]()
    for root, folders, names in os.walk(folder, onerror=fail):
        folders[:] = shown(folders)
        files += [Path(root) / name for name in shown(names)]
    return sorted(file for file in files if file.is_file())


def _is_dataset(folder: Path, files: list[Path]) -> bool:
    """Whether `load_dataset` is to read the folder: a dataset card says so, or it holds tables and no documents."""
    card = folder / "README.md"
    if card.is_file():
        front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
        if front and re.search(r"^(configs|dataset_info):", front[1], re.MULTILINE):
            return True
    kinds = {_suffix(file) for file in files if file.stem.upper() not in ("README", "LICENSE")}
    return bool(kinds & TABLES) and not kinds & (PROSE | CODE | ROWS)


def _dataset_folder(
    kind: Literal["saved", "dataset"], folder: Path, files: list[Path], field: str, split: str
) -> Source:
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    listing = "\n".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)
    absolute = str(folder.resolve())
    fingerprint = f"{kind}:{absolute}:{split}:{field}:{hashlib.sha256(listing.encode(errors='replace')).hexdigest()}"
    return Source(kind, folder.resolve().name, absolute, fingerprint, field, split)


def _hub(path: str, field: str, split: str) -> Source:
    """A dataset of the hub, pinned to the commit that it has now."""
    from huggingface_hub import HfApi  # here and below: heavy, and most corpora are files
    from huggingface_hub.errors import RepositoryNotFoundError

    name, _, config = path.partition(":")
    near = difflib.get_close_matches(path, catalogue.names("text"), n=1)
    local = f"{path!r} is no file, folder or packaged text" + (f" (did you mean {near[0]!r}?)" if near else "")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise SkipwiseError(f"{local}, and no datasets id, which looks like owner/name or owner/name:configuration")
    try:
        revision = HfApi().dataset_info(name, timeout=10).sha
    except RepositoryNotFoundError as error:
        raise SkipwiseError(f"{local}, and the hub has no dataset of this id that is open to you") from error
    except Exception as error:  # the hub's client raises what its HTTP library raises
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SkipwiseError(f"{local}, and the hub of datasets cannot be reached ({reason})") from error
    fingerprint = f"dataset:{path}:{split}:{field}:{revision}"
    return Source("dataset", path, name, fingerprint, field, split, config or None, revision)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file as it is, whose place tells the progress, and its unpacked content."""
    with path.open("rb") as raw:
        if path.suffix.lower() == ".gz":
            yield raw, cast(IO[bytes], gzip.GzipFile(fileobj=raw))
        elif path.suffix.lower() == ".zst":
            import pyarrow  # the zstandard package ends a truncated file without a word

            yield raw, io.BufferedReader(pyarrow.CompressedInputStream(raw, "zstd"))
        else:
            yield raw, raw


def _file_pieces(source: Source) -> Iterator[Piece]:
    with _opened(Path(source.path)) as (raw, file):
        text = io.TextIOWrapper(file, encoding="utf-8-sig")
        first = True
        for part in split_text(text.read):
            if "\0" in part:
                raise SkipwiseError(f"{source.name} holds NUL bytes: it is no text; exclude it")
            yield Piece(source.name, part, first, raw.tell())
            first = False


def _row_pieces(source: Source) -> Iterator[Piece]:
    rows = {"jsonl": _jsonl_rows, "parquet": _parquet_rows}.get(source.kind, _dataset_rows)
    characters = 0
    for number, row, read in rows(source):
        name = f"{source.name}:{number}"
        if source.field not in row:
            there = ", ".join(map(repr, row)) or "none"
            raise SkipwiseError(f"{name} has no field {source.field!r}; its fields: {there}")
        text = row[source.field]
        if not isinstance(text, str | None):
            raise SkipwiseError(f"{name}: field {source.field!r} holds {type(text).__name__}, expected text")
        if not text or text.isspace():
            continue
        characters += len(text)
        first = True
        for part in split_text(io.StringIO(text, newline="\n").read):
            yield Piece(name, part, first, characters if read is None else read)
            first = False


def _jsonl_rows(source: Source) -> Iterator[tuple[int, dict[str, Any], int | None]]:
    with _opened(Path(source.path)) as (raw, file):
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except ValueError as error:
                raise SkipwiseError(f"{source.name}:{number} is no JSON ({' '.join(str(error).split())})") from error
            if not isinstance(row, dict):
                raise SkipwiseError(f"{source.name}:{number} is no JSON object but {type(row).__name__}")
            text = row.get(source.field)
            # JSON can escape half a surrogate pair, which no tokenizer takes.
            if isinstance(text, str) and not text.isascii():
                row[source.field] = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            yield number, row, raw.tell()


def _parquet_rows(source: Source) -> Iterator[tuple[int, dict[str, Any], int | None]]:
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(source.path, pre_buffer=False, buffer_size=2**20) as table:
            columns = table.schema_arrow.names
            if source.field not in columns:
                there = ", ".join(map(repr, columns))
                raise SkipwiseError(f"{source.name} has no column {source.field!r}; its columns: {there}")
            number, total = 0, max(table.metadata.num_rows, 1)
            for batch in table.iter_batches(batch_size=16, columns=[source.field]):
                for text in batch.column(0):
                    number += 1
                    yield number, {source.field: text.as_py()}, (source.size or 0) * number // total
    except pyarrow.ArrowException as error:
        raise SkipwiseError(f"{source.name} is no readable parquet file: {' '.join(str(error).split())}") from error


def _dataset_rows(source: Source) -> Iterator[tuple[int, dict[str, Any], int | None]]:
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
        if columns and source.field not in columns:
            there = ", ".join(map(repr, columns))
            raise SkipwiseError(f"{source.name} has no column {source.field!r}; its columns: {there}")
        for number, row in enumerate(rows.select_columns([source.field]) if columns else rows, start=1):
            yield number, row, None
    except SkipwiseError:
        raise
    except Exception as error:  # `datasets` raises what its many readers raise
        reason = " ".join(str(error).split())[:200]
        raise SkipwiseError(f"cannot read dataset {source.name}: {reason or type(error).__name__}") from error
