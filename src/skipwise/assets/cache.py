"""The cache folder, which holds fetched packages and tokenised texts."""

import os
from pathlib import Path

from skipwise.utils.os_errors import user_path


def cache_folder() -> Path:
    """Return `$SKIPWISE_CACHE`, or `skipwise` in `$XDG_CACHE_HOME` or `~/.cache`. It may not exist yet."""
    if folder := os.environ.get("SKIPWISE_CACHE"):
        return user_path(folder)
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "skipwise"
