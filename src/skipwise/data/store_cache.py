"""Folders of the cache that are made once, whatever processes ask for them at the same time, and appear whole."""

from collections.abc import Callable
from pathlib import Path

from skipwise.assets.cache import cache_folder
from skipwise.config import DataConfig
from skipwise.errors import SkipwiseError
from skipwise.utils.locks import clear_partials, locked
from skipwise.utils.os_errors import user_path
from skipwise.utils.progress import say


def cache_of(data: DataConfig) -> Path:
    """The folder of tokenised texts."""
    return user_path(data.cache) if data.cache else cache_folder() / "tokens"


def cannot_write(cache: Path, error: OSError) -> SkipwiseError:
    """Say that the cache cannot be written, why, and what to do."""
    hint = "make room, or set data.cache or SKIPWISE_CACHE to another folder"
    return SkipwiseError(f"cannot write tokens to {cache}: {error.strerror or error}; {hint}")


def cached_folder(
    data: DataConfig, fingerprint: str, *, whole: Callable[[Path], bool], build: Callable[[Path], None]
) -> Path:
    """Find the folder of a fingerprint in the cache, or make it.

    Processes that want the same folder at once wait for the first of them.

    Args:
        data: Names the folder of the cache.
        fingerprint: Name of the folder.
        whole: Tells whether the folder is there with nothing missing.
        build: Makes it, atomically.

    Raises:
        SkipwiseError: The cache folder cannot be written. What `build` raises about its sources passes through.
    """
    cache = cache_of(data)
    folder = cache / fingerprint
    if whole(folder):
        return folder
    try:
        _clear_killed(cache)
        with locked(cache / f"{fingerprint}.lock", wait=False) as first:
            if first:
                build(folder)
                return folder
        say("another process is tokenising this corpus; waiting for it")
        with locked(cache / f"{fingerprint}.lock"):
            if not whole(folder):
                build(folder)
    except OSError as error:
        if not Path(error.filename or cache).is_relative_to(cache):  # about a text, and says so
            raise
        raise cannot_write(cache, error) from error
    return folder


def _clear_killed(cache: Path) -> None:
    """Remove what killed builds left, of any store that no process is building now."""
    for partial in cache.glob(".*.*"):
        store = cache / partial.name.split(".")[1]
        with locked(cache / f"{store.name}.lock", wait=False) as free:
            if free:
                clear_partials(store)
