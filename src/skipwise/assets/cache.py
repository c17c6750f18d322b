"""The folder where fetched packages and tokenised texts are kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$SKIPWISE_CACHE`, or `skipwise` in `$XDG_CACHE_HOME`, or `~/.cache/skipwise`. It may not exist yet."""
    if own := os.environ.get("SKIPWISE_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "skipwise"
