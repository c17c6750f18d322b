"""Which text sources there are: files, folders, names of packaged texts and `datasets` ids.

`sources` resolves what a user names into one `TextSource` for each file or dataset; `documents` reads them.
"""

import codecs
import collections
import contextlib
import difflib
import fnmatch
import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from skipwise.assets import catalogue
from skipwise.data import chat_rows
from skipwise.data.row_files import BLANK, ROW_KINDS, RowKind, missing_field, opened, read_rows, reading_errors, suffix
from skipwise.errors import SkipwiseError
from skipwise.utils.os_errors import user_path
from skipwise.utils.progress import say

HEAD = 2**16  # bytes looked at to tell text from binary
PROSE = {".txt", ".md", ".markdown", ".rst", ".tex", ".org", ".adoc"}
CODE = set(
    ".py .pyi .c .h .cc .cpp .cxx .hh .hpp .cu .cuh .java .kt .scala .go .rs .js .jsx .mjs .ts .tsx .rb .php"
    " .pl .pm .swift .m .mm .cs .fs .hs .ml .mli .lua .r .jl .sh .bash .sql .lisp .el .clj .ex .exs .erl .f90".split()
)
TABLES = {".parquet", ".csv", ".tsv", ".arrow", ".json"}  # a folder of one of them alone is read by `load_dataset`
LINES = {".jsonl", ".ndjson"}
MAYBE_ROWS = {".json", ".csv", ".tsv"}  # in a folder with other files these may be settings or figures


@dataclass(frozen=True)
class TextSource:
    """One file or dataset. `fingerprint` changes when its content may have changed; `size` is its bytes where known.

    `chat` is the form of its rows where they hold conversations (`chat_rows.form`), and empty where they hold text.
    """

    kind: Literal["text", "saved", "dataset"] | RowKind
    name: str
    path: str
    fingerprint: str
    field: str = "text"
    split: str = "train"
    config: str | None = None
    revision: str | None = None
    size: int | None = None
    chat: str = ""


class UnreadFile(NamedTuple):
    """A file of a folder that is not read, and why: `not UTF-8`, `kind` or `field`."""

    name: str
    why: Literal["not UTF-8", "kind", "field"]


class Resolved(NamedTuple):
    """What a folder, or anything else that was named, holds."""

    sources: list[TextSource]
    unread: list[UnreadFile]


def sources(
    paths: list[str], *, exclude: Iterable[str] = (), field: str = "text", split: str = "train"
) -> list[TextSource]:
    """Resolve files, folders, names of packaged texts and `datasets` ids (`id` or `id:configuration`), in this order.

    Files of a folder that are not read are counted and named in one line on stderr.

    Args:
        paths: What the user named. `path::field` names the field or column with the text of that one.
        exclude: Shell patterns, each compared with a file's name, its path inside the folder given, and the folders on
            that path.
        field: Field or column with the text, of sources that name none.
        split: Split of a `datasets` source.

    Raises:
        SkipwiseError: A source is missing, unreadable, empty or binary, or nothing is left to read.
    """
    if not paths:
        raise SkipwiseError("no text was given: name a file, a folder, a datasets id or a packaged text such as stdlib")
    matches = dict.fromkeys(exclude, 0)
    chosen: dict[tuple[str, str | None, str], TextSource] = {}
    for spec in paths:
        with reading_errors(spec):
            path, named = split_field(spec)
            folder = resolve(path, named or field, split)
        if named and all(source.kind == "text" for source in folder.sources):
            raise SkipwiseError(f"{spec}: {path} is text without fields; leave out '::{named}'")
        for source in folder.sources:
            if not excluded(source.name, matches):
                key = source.path, source.config, "" if source.kind == "text" else source.field
                chosen.setdefault(key, source)
        _say_unread(path, [file for file in folder.unread if not excluded(file.name, matches)], named or field)
    for pattern, count in matches.items():
        if not count:
            say(f"exclude {pattern!r} matches no file of {', '.join(paths)}")
    if not chosen:
        raise SkipwiseError(f"no documents: exclude {list(matches)} leaves nothing of {', '.join(paths)}")
    for source in chosen.values():
        if source.kind in ROW_KINDS.values():
            _check_field(source)
    return list(chosen.values())


def split_field(spec: str) -> tuple[str, str | None]:
    """Split `path::field` into both. The field is None if none is named, or if a file has the whole as its name.

    Raises:
        SkipwiseError: The path or the field is empty.
    """
    path, mark, field = spec.partition("::")
    if not mark or user_path(spec).exists():
        return spec, None
    if not path or not field:
        raise SkipwiseError(f"{spec!r}: expected PATH::FIELD, e.g. data.jsonl::body")
    return path, field


def excluded(name: str, matches: dict[str, int]) -> bool:
    """Whether a pattern matches the name, the path or a folder on it; counted in `matches`."""
    matching = [
        pattern
        for pattern in matches
        if fnmatch.fnmatch(name, pattern) or any(fnmatch.fnmatch(part, pattern) for part in name.split("/"))
    ]
    for pattern in matching:
        matches[pattern] += 1
    return bool(matching)


def _say_unread(folder: str, files: list[UnreadFile], field: str) -> None:
    """Count and name in one line what is left out of a folder."""
    parts = list[str]()
    names: dict[str, list[str]] = collections.defaultdict(list)
    for file in files:
        names[file.why].append(file.name)
    if broken := names["not UTF-8"]:
        parts.append(f"{_files_are(broken)} not UTF-8 text, e.g. {broken[0]}")
    if without := names["field"]:
        parts.append(f"{_files_are(without)} without rows with a field {field!r}, e.g. {without[0]}")
    if others := names["kind"]:
        kinds = sorted({suffix(Path(name)) or "no suffix" for name in others})
        shown = ", ".join(kinds[:6]) + (" …" if len(kinds) > 6 else "")
        parts.append(
            f"{_files_are(others)} of other kinds ({shown}), e.g. {others[0]}; name a text file itself to read it"
        )
    if parts:
        say(f"{folder}: left out: {'; '.join(parts)}")


def _files_are(names: list[str]) -> str:
    return "1 file is" if len(names) == 1 else f"{len(names):,} files are"


def resolve(path: str, field: str, split: str, *, chats: bool = False) -> Resolved:
    """Find the files or the dataset that one path stands for.

    Args:
        path: What the user named, without `::field`.
        field: Field with the text.
        split: Of a `datasets` source.
        chats: Take files of conversations in a folder, too.

    Raises:
        SkipwiseError: There is nothing, or nothing that can be read.
    """
    local = user_path(path)
    if local.is_dir():
        return _folder(local, path, field, split, chats)
    if local.is_file():
        if problem := _problem(local):
            raise SkipwiseError(f"{path} {problem}")
        return Resolved([_file(local, local.name, field)], [])
    if local.exists():
        raise SkipwiseError(f"{path} is neither a file nor a folder")
    if path in catalogue.names("text"):
        return resolve(str(catalogue.get(path)), field, split, chats=chats)
    if path in catalogue.names("model"):
        raise SkipwiseError(f"{path!r} is a packaged model; packaged texts are {', '.join(catalogue.names('text'))}")
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or re.fullmatch(r"\.[A-Za-z]\w{0,7}", local.suffix):
        raise SkipwiseError(f"{path}: no such file or folder")
    return Resolved([_hub(path, field, split)], [])


def _file(path: Path, name: str, field: str) -> TextSource:
    stat = path.stat()
    kind: Literal["text"] | RowKind = ROW_KINDS.get(suffix(path), "text")
    absolute = str(path.resolve())
    fingerprint = f"{kind}:{absolute}:{stat.st_size}:{stat.st_mtime_ns}" + (f":{field}" if kind != "text" else "")
    return TextSource(kind, name, absolute, fingerprint, field, size=stat.st_size)


def _problem(path: Path) -> str | None:
    """What keeps a file from being text, judged by its beginning; None for text and for parquet."""
    if path.stat().st_size == 0:
        return "is empty"
    if suffix(path) == ".parquet":
        return None
    with reading_errors(str(path)), opened(path) as (_, file):
        head = file.read(HEAD)
    if b"\0" in head:
        return "holds NUL bytes: it is binary, or text in another encoding than UTF-8"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        return f"is not UTF-8 text (byte 0x{head[error.start]:02x} at {error.start}); convert it, e.g. with iconv"
    return None if text.strip() or len(head) == HEAD else "is empty"


def _folder(folder: Path, given: str, field: str, split: str, chats: bool) -> Resolved:
    files = _walk(folder)
    saved = {"dataset_info.json", "state.json"} <= {file.name for file in files if file.parent == folder}
    if saved or (folder / "dataset_dict.json").is_file():
        return Resolved([_dataset_folder("saved", folder, files, field, split)], [])
    if _has_dataset_card(folder):
        return Resolved([_dataset_folder("dataset", folder, files, field, split)], [])
    table = _only_table(files)
    if arrays := _arrays(folder, split) if table == ".json" else []:
        return Resolved([_file(file, file.relative_to(folder).as_posix(), field) for file in arrays], [])
    if table:
        others = [file for file in files if suffix(file) != table and not _is_about(file)]
        unread = [UnreadFile(file.relative_to(folder).as_posix(), "kind") for file in others]
        return Resolved([_dataset_folder("dataset", folder, files, field, split)], unread)
    held = Resolved([], [])
    for file in files:
        if not file.stat().st_size:
            continue
        source = _file(file, file.relative_to(folder).as_posix(), field)
        if suffix(file) not in PROSE | CODE | ROW_KINDS.keys():
            held.unread.append(UnreadFile(source.name, "kind"))
        elif _problem(file):
            held.unread.append(UnreadFile(source.name, "not UTF-8"))
        elif suffix(file) in MAYBE_ROWS and not _has_field(file, field, chats):
            held.unread.append(UnreadFile(source.name, "field"))
        else:
            held.sources.append(source)
    if not held.sources:
        kinds = f"text, Markdown, source code, or rows (.jsonl, .json, .csv, .tsv, .parquet) with a field {field!r}"
        raise SkipwiseError(f"no documents in the folder {given} ({len(files)} files, none of them {kinds})")
    return held


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


def _check_field(source: TextSource) -> None:
    """Raise SkipwiseError where the first row of a file has no field with the text, before any work is done."""
    path, columns = Path(source.path), [source.field] if source.kind == "parquet" else None
    with contextlib.closing(read_rows(path, source.name, columns)) as rows:
        row = next(rows, None)
    if row is not None and source.field not in row.values:
        in_table = source.kind == "csv"
        place = source.name if in_table else f"{source.name}:{row.number}"
        raise missing_field(place, source.field, row.values, "column" if in_table else "field")


def _has_field(file: Path, field: str, chats: bool) -> bool:
    """Whether the first row of a file of rows has the field, or holds a conversation where these are wanted."""
    try:
        row = next(read_rows(file), None)
    except SkipwiseError:
        return False
    return row is not None and (field in row.values or (chats and chat_rows.form(row.values, field) is not None))


def _has_dataset_card(folder: Path) -> bool:
    """Whether a dataset card says how `load_dataset` is to read the folder."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    return bool(front and re.search(r"^(configs|dataset_info):", front[1], re.MULTILINE))


def _only_table(files: list[Path]) -> str | None:
    """The suffix of the tables of a folder that holds no documents. None if there are text tables of several kinds."""
    kinds = {suffix(file) for file in files if not _is_about(file)}
    tables = kinds & TABLES
    if kinds & (PROSE | CODE | LINES):
        return None
    binary = sorted(tables & {".parquet", ".arrow"}, reverse=True)  # text tables beside them tell about them
    return binary[0] if binary else tables.pop() if len(tables) == 1 else None


def _arrays(folder: Path, split: str) -> list[Path]:
    """The .json files of a split, where each is an array: `datasets`, which chooses them, would read each whole.

    None where there is no such split, or a file holds something else.
    """
    from datasets.data_files import DataFilesDict, get_data_patterns

    patterns = get_data_patterns(str(folder))
    files = [Path(file) for file in DataFilesDict.from_patterns(patterns, base_path=str(folder)).get(split, [])]
    for file in files:
        with opened(file) as (_, content):
            if content.read(HEAD).lstrip(BLANK)[:1] != b"[":
                return []
    return sorted(files)


def _is_about(file: Path) -> bool:
    """Whether a file describes a dataset and does not belong to its content."""
    return file.stem.upper() in ("README", "LICENSE") or file.name in ("dataset_info.json", "dataset_infos.json")


def _dataset_folder(
    kind: Literal["saved", "dataset"], folder: Path, files: list[Path], field: str, split: str
) -> TextSource:
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    listing = "\n".join(f"{name}:{stat.st_size}:{stat.st_mtime_ns}" for name, stat in stats)
    absolute = str(folder.resolve())
    fingerprint = f"{kind}:{absolute}:{split}:{field}:{hashlib.sha256(listing.encode(errors='replace')).hexdigest()}"
    return TextSource(kind, folder.resolve().name, absolute, fingerprint, field, split)


def _hub(path: str, field: str, split: str) -> TextSource:
    """A dataset of the hub, pinned to the commit that it has now."""
    from huggingface_hub import HfApi  # here: heavy, and most corpora are files
    from huggingface_hub.errors import RepositoryNotFoundError

    name, _, config = path.partition(":")
    near = difflib.get_close_matches(path, catalogue.names("text"), n=1)
    local = f"{path!r} is not a file, folder or packaged text" + (f" (did you mean {near[0]!r}?)" if near else "")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise SkipwiseError(f"{local}, and no datasets id, which looks like owner/name or owner/name:configuration")
    try:
        revision = HfApi().dataset_info(name, timeout=10).sha
    except RepositoryNotFoundError as error:
        raise SkipwiseError(f"{local}, and the hub has no dataset of this id that is open to you") from error
    except Exception as error:  # the hub's client raises what its HTTP library raises
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SkipwiseError(f"{local}, and the hub of datasets cannot be reached ({reason}); check the path") from error
    fingerprint = f"dataset:{path}:{split}:{field}:{revision}"
    return TextSource("dataset", path, name, fingerprint, field, split, config or None, revision)
