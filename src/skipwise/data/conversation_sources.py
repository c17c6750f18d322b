"""Which of the training sources hold conversations, judged by their first row."""

import contextlib
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skipwise.assets import catalogue
from skipwise.data import chat_rows
from skipwise.data.documents import dataset_rows
from skipwise.data.row_files import missing_field, read_rows, reading_errors
from skipwise.data.text_sources import TextSource, excluded, resolve, split_field
from skipwise.errors import SkipwiseError


def conversation_sources(
    path: str, *, exclude: Iterable[str] = (), field: str = "text", split: str = "train"
) -> list[TextSource]:
    """Find the sources of conversations that one path stands for. There are none where it stands for text.

    Args:
        path: What the user named: a file, a folder or a `datasets` id, with `::FIELD` or without. Packaged names stand
            for text and are not fetched.
        exclude: Shell patterns of files to leave out.
        field: Field with the text, of a path that names none.
        split: Split of a `datasets` source.

    Returns:
        Sources with a `chat` form.

    Raises:
        SkipwiseError: The path cannot be read, its first conversation cannot be learned from, or a folder holds
            conversations and texts.
    """
    if path in catalogue.names("text"):
        return []
    with reading_errors(path):
        bare, named = split_field(path)
        sources = resolve(bare, named or field, split, chats=True).sources
    matches = dict.fromkeys(exclude, 0)
    chats, texts = list[TextSource](), list[TextSource]()
    for source in sources:
        if not excluded(source.name, matches):
            form = _form(source, bool(named))
            chat = dataclasses.replace(source, chat=form or "", fingerprint=f"{source.fingerprint}:chat:{form}")
            (chats if form else texts).append(chat)
    if chats and texts:
        raise SkipwiseError(
            f"{path} holds conversations ({chats[0].name}) and texts ({texts[0].name}); name them as two of data.paths"
        )
    return chats


def _form(source: TextSource, named: bool) -> str | None:
    """The form of a source's conversations; None for text. `named`: the user named the field."""
    if source.kind == "text":
        return None
    number, row = _first_row(source)
    form = chat_rows.form(row, source.field) if row else None
    if form is None or (named and form != source.field):
        if named and row and chat_rows.is_pair(source.field) and source.field not in row:
            missing = next(name for name in source.field.split("+") if name not in row)
            raise missing_field(f"{source.name}:{number}", missing, row)
        return None
    chat_rows.conversation(row, form, f"{source.name}:{number}")
    return form


def _first_row(source: TextSource) -> tuple[int, dict[str, Any]]:
    """Number and fields of the first row; no fields where there is no row."""
    if source.kind in ("saved", "dataset"):
        with contextlib.closing(dataset_rows(source, None)) as rows:
            number, values, _ = next(rows, (1, {}, None))
            return number, values
    with contextlib.closing(read_rows(Path(source.path), source.name)) as file_rows:
        row = next(file_rows, None)
        return (1, {}) if row is None else (row.number, row.values)
