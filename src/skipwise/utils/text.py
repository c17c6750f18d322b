"""Numbers as text: lengths, quantities, durations."""


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
