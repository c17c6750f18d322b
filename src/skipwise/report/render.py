"""Make one self-contained HTML page from plain data and scripts of this package."""

import base64
import hashlib
import html
import json
import math
import string
from importlib import resources
from typing import Any

STYLES = ["page.css", "answers.css", "charts.css", "tables.css", "media.css"]
"""Style sheets of every page, in order: later rules win."""


def _plain(value: Any) -> Any:
    """JSON has no infinity: `inf` becomes the text "Infinity", which the page's scripts read as a number again."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")
    return value


def render(data: dict[str, Any], scripts: list[str], kind: str = "report") -> str:
    """Make the page. The policy in its head lets it run its own script alone and load nothing.

    Args:
        data: What the scripts draw, as plain values; `headline` is the page's heading.
        scripts: Files of `static/`, in the order in which they are joined.
        kind: Word in the page's title.

    Returns:
        The HTML text.
    """
    page = resources.files("skipwise") / "report" / "static"
    script = "\n".join((page / name).read_text(encoding="utf-8") for name in scripts)
    values = json.dumps(_plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return string.Template((page / "page.html").read_text(encoding="utf-8")).substitute(
        headline=html.escape(data["headline"]),
        kind=kind,
        hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style="\n".join((page / name).read_text(encoding="utf-8") for name in STYLES),
        data=values.replace("<", "\\u003c"),  # so that no text can end the script element
        script=script,
    )


SHEET = ["base.js", "chart.js", "sheet.js"]
"""Scripts of a page of facts: tiles, charts and tables as plain data says."""
