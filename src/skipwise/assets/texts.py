"""Turn packaged files into plain text."""

import gzip
import html
import os
import re
import shutil
import struct
import zlib
from pathlib import Path

from skipwise.errors import SkipwiseError

# Long files that every Python has; the bundled model has never met them. A dozen: an interval over texts needs many.
STDLIB_HELD_OUT = {
    "_pydecimal.py",
    "argparse.py",
    "difflib.py",
    "doctest.py",
    "inspect.py",
    "ipaddress.py",
    "mailbox.py",
    "optparse.py",
    "statistics.py",
    "tarfile.py",
    "threading.py",
    "typing.py",
}
STDLIB_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


def czs_text(folder: Path) -> str:
    """Read the text of a zipped SWORD commentary.

    `ot.czs` lists (offset, packed size, size) as little-endian u32 triples, each of one zlib block of `ot.czz`. OSIS
    paragraphs and verse lines become lines; other markup is dropped.
    """
    packed = (folder / "ot.czz").read_bytes()
    blocks = []
    for offset, length, size in struct.iter_unpack("<III", (folder / "ot.czs").read_bytes()):
        block = zlib.decompress(packed[offset : offset + length])
        assert len(block) == size, f"block at {offset}: {len(block)} bytes where the index says {size}"
        blocks.append(block)
    text = b"".join(blocks).decode("utf-8")
    text = re.sub(r"</?(?:div|title|chapter|lg?|list|item)\b[^>]*>", "\n", text)
    text = html.unescape(re.sub(r"<[^>]*>", "", text))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n\n".join(line for line in lines if line) + "\n"


def prepare_spurgeon(folder: Path) -> None:
    """Replace the commentary's files by `treasury_of_david.txt`."""
    (folder / "treasury_of_david.txt").write_text(czs_text(folder), encoding="utf-8")
    for index in ("ot.czs", "ot.czz"):
        (folder / index).unlink()


def prepare_jargon(folder: Path) -> None:
    """Unpack `jargon.txt`."""
    with gzip.open(folder / "jargon.txt.gz") as packed, (folder / "jargon.txt").open("wb") as out:
        shutil.copyfileobj(packed, out)
    (folder / "jargon.txt.gz").unlink()


def reference_text(topics: dict[str, str]) -> str:
    """Join the plain paragraphs of Python's help topics, each once, without lists, tables, grammar and code."""
    paragraphs: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            if re.match("[A-Z]", paragraph) and not re.search(r"^([=*~^-]{3}|\s{2})|::=", paragraph, re.M):
                text = " ".join(paragraph.split())
                if text.endswith("."):
                    paragraphs[text] = None
    return "\n\n".join(paragraphs) + "\n"


def prepare_reference(folder: Path) -> None:
    """Write `python_reference.txt`. Raise SkipwiseError for a Python without help topics."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise SkipwiseError("this Python carries no help topics (pydoc_data); use another text") from error

    (folder / "python_reference.txt").write_text(reference_text(topics), encoding="utf-8")


def copy_stdlib(stdlib: Path, folder: Path, *, held_out: bool = False) -> None:
    """Copy the Python sources below `stdlib` to `folder`, without tests and installed packages.

    Args:
        stdlib: Folder of the standard library.
        folder: Where the copies go, in the same folders.
        held_out: Copy only the files of STDLIB_HELD_OUT, or all others.

    Raises:
        SkipwiseError: There are no sources.
    """
    copied = 0
    for root, folders, files in os.walk(stdlib):
        folders[:] = sorted(name for name in folders if name not in STDLIB_LEFT_OUT)
        for name in sorted(files):
            if name.endswith(".py") and (name in STDLIB_HELD_OUT) == held_out:
                target = folder / Path(root).relative_to(stdlib) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(Path(root) / name, target)
                copied += 1
    if not copied:
        raise SkipwiseError(f"this Python has no sources of its standard library in {stdlib}; use another text")
