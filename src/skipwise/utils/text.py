"""Numbers as text (lengths, values, quantities, durations), and texts for Markdown."""

import html
import math
import re


def length_text(tokens: int | None) -> str:
    """32768 → `32k`, 12000 → `12,000`."""
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if tokens and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return "unknown" if tokens is None else f"{tokens:,}"


def count_text(n: int, unit: str) -> str:
    """`1, "prompt"` → `1 prompt`, `1200, "prompt"` → `1,200 prompts`."""
    return f"{n:,} {unit}{'' if n == 1 else 's'}"


def quantity(value: float, unit: str) -> str:
    """`1234567, "tok"` → `1.2M tok`; bytes likewise."""
    for threshold, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= threshold:
            shown = value / (1e3 if suffix == "k" else threshold)
            return f"{shown:.1f}{suffix} {unit}"
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"


def parameters_text(count: int) -> str:
    """`598000` → `0.598 M`, `134515008` → `135 M`, `8030261248` → `8.03 B`."""
    return f"{count / 1e9:.3g} B" if count >= 1e9 else f"{float(f'{count / 1e6:.3g}'):,.6g} M"


def bytes_text(count: float) -> str:
    """`1234567` → `1.23 MB`; units are powers of 1,000."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f} bytes"


def gigabytes_text(count: float) -> str:
    """`1234567890` → `1.2 GB`, for amounts that are compared with each other."""
    return f"{count / 1e9:,.1f} GB"


def duration(seconds: float) -> str:
    """`75` → `1:15`, `3675` → `1:01:15`."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def duration_words(seconds: float) -> str:
    """`45 seconds`, `12.5 minutes`, `3.1 hours`."""
    for unit, size in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"


TOKEN_METRICS = ("k_max", "effective_length", "tokens")
"""Metrics whose values are tokens."""
PLAIN_METRICS = ("word_perplexity", "byte_perplexity", "bits_per_byte", "bleu", "chrf", "ter")
"""Metrics of lm-eval that are no share of 1."""


def value_text(metric: str, value: float | None) -> str:
    """A value of a row, or an end of its interval: `31.04`, `75%`, `43.1%`, `8k`; `-` for none."""
    if value is None:
        return "-"
    if metric in TOKEN_METRICS:
        return length_text(round(value))
    if metric == "perplexity":
        return f"{value:,.2f}" if value < 1e6 or not math.isfinite(value) else f"{value:.2e}"
    if metric.split(",")[0] in PLAIN_METRICS:
        return f"{value:.3f}"
    return f"{value:.0%}" if metric == "accuracy" else f"{value:.1%}"


def short_value_text(metric: str, value: float) -> str:
    """A value for a headline, to three digits: `31.0` for a perplexity, `62.5%` for a share, `8k` for tokens."""
    if metric in TOKEN_METRICS:
        return length_text(round(value))
    if metric != "perplexity":
        return f"{100 * value:.3g}%"
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "∞"
    return f"{value:.2e}" if value >= 1e6 else f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def aligned(rows: list[list[str]]) -> list[str]:
    """The rows of a table as lines, the first column to the left and the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip() for row in rows]


def escape(text: str) -> str:
    """Text for Markdown, in one line, in which nothing is markup: neither HTML nor backticks, links or tables."""
    plain = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain)


def code(text: str) -> str:
    """Text as code in Markdown, in one line, whatever backticks it holds."""
    plain = " ".join(text.split())
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    space = " " if plain.startswith("`") or plain.endswith("`") else ""
    return f"{fence}{space}{plain}{space}{fence}"
