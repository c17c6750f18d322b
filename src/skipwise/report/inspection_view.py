"""How `skipwise inspect` shows its facts: as text for a terminal, and as the data of an HTML page."""

import textwrap
from datetime import UTC, datetime
from typing import Any

from skipwise import __version__
from skipwise.planning.inspection import Facts
from skipwise.utils.text import bytes_text, length_text

WIDTH = 96
"""Characters of a line of text beside its label."""


def text(facts: Facts, *, table: bool = False) -> str:
    """The facts for a terminal: the window, what is recommended and the command first.

    Args:
        facts: Of one model.
        table: Whether the table of all pairs follows.
    """
    window, original = length_text(facts.window), length_text(facts.original_length)
    rows = [
        ("model", f"{facts.model} ({facts.family}, {facts.layers} layers)"),
        ("window", f"{window} tokens"),
        *([("original window", f"{original} tokens")] if original != window else []),
        *(("read from", line) for line in facts.reading),
        ("target", f"{length_text(facts.target_length)} tokens, ×{facts.factor:.4g}"),
        *_advice_rows(facts),
        ("", ""),
        ("RoPE", _rotation(facts)),
        ("critical", _critical(facts)),
        *(("layers", note) for note in facts.notes),
        (
            "KV cache",
            f"{facts.kv_bytes_per_token:,} bytes a token ({facts.dtype}): {bytes_text(facts.kv_bytes_at_window)} at "
            f"{window} tokens, {bytes_text(facts.kv_bytes_at_target)} at "
            f"{length_text(facts.target_length)}",
        ),
        *((f"not {method.name}", method.refused) for method in facts.methods if method.refused),
    ]
    lines: list[str] = []
    for i, (label, value) in enumerate(rows):
        named = "" if i and rows[i - 1][0] == label else label
        parts = [value] if label == "command" else textwrap.wrap(value, WIDTH) or [""]
        lines += [f"{named:<18}{parts[0]}".rstrip(), *(" " * 18 + part for part in parts[1:])]
    end = (
        _pair_table(facts)
        if table
        else ["--table adds every pair of rotated dimensions, --html PAGE.html writes plots"]
    )
    return "\n".join([*lines, "", *end])


def _advice_rows(facts: Facts) -> list[tuple[str, str]]:
    advice = facts.recommendation
    if facts.refusal:
        return [("not possible", facts.refusal)]
    if advice is None:
        return [("not possible", "no scaling method fits this model; the reasons are below")]
    chunks = f"{advice.chunks} chunks of {length_text(advice.train_length)} tokens"
    chosen = f"{advice.scaling}, {advice.sampler} with {chunks}"
    command = ("command", advice.command)
    return [("recommended", chosen), command, *(("because", reason) for reason in advice.reasons)]


def _rotation(facts: Facts) -> str:
    details = [f"{key} {value:g}" for key, value in (facts.scaling or {}).items() if _number(value)]
    return ", ".join([facts.rotation, f"θ {facts.theta:,.0f}"]) + (f" ({', '.join(details)})" if details else "")


def _critical(facts: Facts) -> str:
    return (
        f"the first {facts.critical_dimension} of {facts.rotary_dim} rotated dimensions turned at least once in the "
        f"original window; pairs from {facts.critical_pair} on never did"
    )


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cells(facts: Facts) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the table of pairs: wavelength, turns, and how far each method stretches the wavelength."""
    known = [(method.name, method.stretch) for method in facts.methods if method.stretch]
    titles = ["pair", "wavelength", "turns", *(name for name, _ in known)]
    rows = [
        [str(p.pair), _wave(p.wavelength), f"{p.turns:,.2f}", *(f"×{stretch[i]:.3g}" for _, stretch in known)]
        for i, p in enumerate(facts.pairs)
    ]
    return titles, rows


def _wave(tokens: float) -> str:
    return f"{tokens:,.2f}" if tokens < 1000 else f"{tokens:,.0f}"


def _pair_table(facts: Facts) -> list[str]:
    titles, rows = _cells(facts)
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in [titles, *rows]]
    border = f"--- no full turn in {length_text(facts.original_length)} tokens "
    lines.insert(1 + facts.critical_pair, border.ljust(len(lines[0]), "-"))
    return lines


def page(facts: Facts) -> dict[str, Any]:
    """Data of the HTML page, for the scripts `report.render.SHEET`."""
    span = f"{length_text(facts.original_length)} to {length_text(facts.target_length)} tokens"
    advice = facts.recommendation
    titles, rows = _cells(facts)
    refused = [f"{method.name}: {method.refused}" for method in facts.methods if method.refused]
    sections: list[dict[str, Any]] = [
        {
            "id": "pairs",
            "nav": "Pairs",
            "title": "What each scaling does to every pair",
            "lead": "Fast pairs (left) tell neighbouring tokens apart, slow ones (right) far places. Those that never "
            "turned once in the original window are the ones that fail beyond it.",
            "charts": _charts(facts),
        },
        {
            "id": "numbers",
            "nav": "Numbers",
            "title": "All numbers",
            "lead": "Stretch: wavelength after the scaling over wavelength before.",
            "tables": [{"title": "Pairs", "columns": titles, "rows": rows}],
            "notes": refused,
        },
    ]
    if advice:
        section: dict[str, Any] = {"id": "advice", "nav": "Advice", "title": "What Skipwise recommends", "lead": None}
        sections.insert(0, {**section, "code": advice.command, "notes": advice.reasons})
    return {
        "runs": [],
        "series": [],
        "headline": f"{facts.model}: from {span}",
        "kicker": f"{facts.model}, {facts.family}",
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "skipwise": __version__,
        "tiles": [
            ["Factor", f"×{facts.factor:.4g}", span, facts.rotation],
            ["Critical dimension", f"{facts.critical_dimension} of {facts.rotary_dim}", f"θ {facts.theta:,.0f}"],
            [
                "KV cache at target",
                bytes_text(facts.kv_bytes_at_target),
                f"{facts.kv_bytes_per_token:,} bytes a token, {facts.dtype}",
            ],
            ["Recommended", advice.scaling if advice else "none", f"pose, {advice.chunks} chunks" if advice else ""],
        ],
        "notes": [*([facts.refusal] if facts.refusal else []), *facts.reading, *facts.notes],
        "sections": sections,
    }


DASHES = (None, "9 3", "2 3", "9 3 2 3", "5 4", "14 3", "2 6", "9 3 2 3 2 3", "4 2")
"""Of the lines of methods, in turn: where two methods agree, the one beneath shows through the gaps."""
COLOURS = 9
"""Colours of methods on the page, `--c1` to `--c9` in page.css."""


def _charts(facts: Facts) -> list[dict[str, Any]]:
    """Wavelengths and stretches by pair: a line a method, the recommended one wide and named."""
    waves = [pair.wavelength for pair in facts.pairs]
    advised = facts.recommendation.scaling if facts.recommendation else None
    known = [(method.name, method.stretch) for method in facts.methods if method.stretch]
    after: list[dict[str, Any]] = []
    stretched: list[dict[str, Any]] = []
    for i, (name, stretch) in enumerate(known):
        style: dict[str, Any] = {"name": name, "colour": 1 + i % COLOURS, "dash": DASHES[i % len(DASHES)]}
        if name == advised:
            style |= {"note": "recommended", "wide": True, "dash": None}
        stretched.append(style | {"points": list(enumerate(stretch))})
        after.append(style | {"points": [(pair, waves[pair] * s) for pair, s in enumerate(stretch)]})
    windows = [("original window", facts.original_length), ("target window", facts.target_length)]
    levels = [
        {"name": name, "faint": True, "dash": "4 4", "colour": 0, "points": [(0, tokens), (len(waves) - 1, tokens)]}
        for name, tokens in windows
    ]
    shared = {
        "x": {"label": "pair of rotated dimensions", "scale": "linear", "unit": "count"},
        "marks": [{"x": facts.critical_pair, "label": "no full turn"}] if facts.critical_pair < len(waves) else [],
    }
    before = {"name": "before scaling", "colour": 0, "points": list(enumerate(waves))}
    return [
        shared
        | {
            "title": "Wavelength",
            "label": "Wavelength of every pair",
            "y": {"label": "tokens in one turn", "scale": "log", "unit": "wave"},
            "series": [before, *after, *levels],
        },
        shared
        | {
            "title": "Stretch",
            "label": "How far each method stretches every pair",
            "y": {"label": "wavelength after / before", "scale": "log", "unit": "ratio"},
            "series": stretched,
        },
    ]
