"""Read a GGUF file's header once for the configuration, the tokenizer and the weights.

transformers parses the header anew for each of them, and builds gguf's table of tensor names for every module: 4 s a
time for a vocabulary of 49,152 tokens, and 8 s for the tables of a model with 30 layers.
"""

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skipwise.models.library_messages import one_line


@functools.lru_cache(maxsize=1)
def _reader(kind: Any, path: str, modified: int, size: int) -> Any:
    return kind(path)


@contextlib.contextmanager
def remembered() -> Iterator[None]:
    """Let transformers share the parsed header of the last file inside the block, until `forget`."""
    import gguf  # here, so that other models are read without it

    reader, table = gguf.GGUFReader, gguf.get_tensor_name_map

    def shared(path: Any, mode: str = "r") -> Any:
        state = Path(path).stat()
        return _reader(reader, str(path), state.st_mtime_ns, state.st_size)

    gguf.GGUFReader, gguf.get_tensor_name_map = shared, functools.cache(table)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, table


def forget() -> None:
    """Free the header."""
    _reader.cache_clear()


def damage(path: Path) -> str | None:
    """Say why the header and the table of tensors of a file cannot be read; None where they can."""
    import gguf

    try:
        gguf.GGUFReader(path)
    except Exception as error:  # gguf raises ValueError, IndexError, struct.error, OverflowError …
        return one_line(error)
    return None
