"""The weight files of a model folder: which ones count, and whether they are all there and whole.

Only names, sizes and headers are read. A file that is cut short is therefore refused before anything is loaded.
"""

import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from skipwise.errors import SkipwiseError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

_LFS_POINTER = b"version https://git-lfs"
_HEADER_LIMIT = 100_000_000
"""The largest header, in bytes, that the safetensors library accepts."""


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights of `folder`, in one order: what transformers reads, or what there is.

    `model.safetensors` counts before an index with its shards; pickled files count where no safetensors are.
    """
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if (folder / INDEX).is_file():
        return [folder / name for name in _shards(folder / INDEX)]
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def check_folder(folder: Path, *, pickled: bool = False) -> None:
    """Check that the weights of `folder` can be loaded.

    Args:
        folder: A folder with a config.json.
        pickled: Whether pickled files will do.

    Raises:
        SkipwiseError: No weights, an incomplete set of files, or a file that is not whole.
    """
    files = weight_files(folder)
    pickles = [path.name for path in files if path.suffix != ".safetensors"]
    if pickles and pickled:
        return
    if not files or pickles:
        old = pickles or any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        hint = "; only pickled ones, which can run code: convert them to safetensors first" if old else ""
        raise SkipwiseError(f"{folder} has no .safetensors weights{hint}")
    unreadable = f"cannot read the weights of {folder}: "
    absent = [path.name for path in files if not path.is_file()]
    if absent:
        raise SkipwiseError(
            f"{unreadable}{len(absent)} of the {len(files)} files that {INDEX} names are missing, e.g. {absent[0]}; "
            "download or copy the folder again"
        )
    if not pickled and not any((folder / name).is_file() for name in (WHOLE, INDEX)):
        raise SkipwiseError(
            f"{unreadable}no file named {WHOLE}, and no {INDEX} that says which of {_some(files)} holds which weight"
        )
    for path in files:
        try:
            read_header(path)
        except SkipwiseError as error:
            raise SkipwiseError(f"{unreadable}{error}") from error


def read_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and place of each tensor, by name.

    Raises:
        SkipwiseError: The file is not a safetensors file, or its size is not the one its header gives.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise SkipwiseError(f"{path.name} is a Git LFS pointer in place of the weights; run: git lfs pull")
        length = struct.unpack("<Q", start[:8])[0] if len(start) >= 8 else 0
        file.seek(8)
        text = file.read(length) if length <= _HEADER_LIMIT else b""  # a length that is no length is not allocated
    if size < 8 or size < 8 + length <= 8 + _HEADER_LIMIT:
        raise SkipwiseError(f"{path.name} is incomplete: it ends inside its header; download or copy it again")
    try:
        header: dict[str, Any] = json.loads(text)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        end = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise SkipwiseError(f"{path.name} has no safetensors header; download or copy it again") from error
    if size < end:
        raise SkipwiseError(
            f"{path.name} is incomplete: {size:,} of {end:,} bytes are there; download or copy it again"
        )
    return tensors


def _shards(index: Path) -> list[str]:
    """The names of the files that an index lists, sorted."""
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SkipwiseError(f"{index} is not an index of weights; download or copy it again") from error
    odd = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if odd:
        raise SkipwiseError(f"{index} names {odd[0]!r}, expected files beside it")
    return sorted(names)


def _some(files: Iterable[Path]) -> str:
    """The first names of some files."""
    names = [path.name for path in files]
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")
