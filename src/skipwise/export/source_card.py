"""What the card of a model says of the model that it was made from: its hub id, license and languages."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from skipwise.assets import catalogue
from skipwise.config import ModelConfig
from skipwise.models import sources

LICENSE = ("license", "license_name", "license_link")
COPIED = (*LICENSE, "language")
"""Fields of a card that hold for a model made from it too."""


def facts(config: ModelConfig) -> dict[str, Any]:
    """Read what is known of a model from its own card.

    Args:
        config: The model, as a run or an export names it.

    Returns:
        Fields for the front matter of a card: `base_model`, `license`, `license_name`, `license_link`, `language`.
        What is not known is left out; a model that cannot be read gives none.
    """
    if config.path in sources.PACKAGED:
        return {"license": catalogue.ASSETS[config.path].licence.lower()}
    path = Path(config.path).expanduser()
    if path.exists():
        return _front_matter((path if path.is_dir() else path.parent) / "README.md")
    try:
        cached = try_to_load_from_cache(config.path, "README.md", revision=config.revision or "main")
    except HFValidationError:  # neither a hub id nor a path that is there
        return {}
    card = _front_matter(Path(cached)) if isinstance(cached, str) else {}
    return {**card, "base_model": config.path}


def _front_matter(card: Path) -> dict[str, Any]:
    """The fields of a card that are copied, and its `base_model`."""
    try:
        text = card.read_text(encoding="utf-8")
        values = yaml.safe_load(text.split("---\n")[1]) if text.startswith("---\n") else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, IndexError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {key: values[key] for key in ("base_model", *COPIED) if _plain(values.get(key))}


def _plain(value: Any) -> bool:
    """Whether a field holds a text, or a list of texts."""
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(isinstance(each, str) and each for each in values)
