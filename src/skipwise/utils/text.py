"""Numbers as text: lengths, values, quantities, durations."""

import math


def length_text(tokens: int | None) -> str:
    """32768 → `32k`, 12000 → `12,000`."""
    for unit, size in (("M", 2**20), ("k", 2**10)):
        if tokens and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return "unknown" if tokens is None else f"{tokens:,}"


def quantity(value: float, unit: str) -> str:
    """`1234567, "tok"` → `1.2M tok`; bytes likewise."""
    for threshold, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= threshold:
            shown = value / (1e3 if suffix == "k" else threshold)
            return f"{shown:.1f}{suffix} {unit}"
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"


def duration(seconds: float) -> str:
    """`75` → `1:15`, `3675` → `1:01:15`."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


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
