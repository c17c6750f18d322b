"""Named settings of evaluations that others published, for `skipwise eval --preset`."""

from typing import Any

# h2oGPT's tests/test_long_context.py.
PRESETS: dict[str, dict[str, Any]] = {
    # Pairs of 8 and 4 hex digits, one key asked for at a fifth of the prompt.
    "h2ogpt": {
        "tasks": ["key_value"],
        "lengths": [5000, 6000],
        "depths": [0.2],
        "key_value": {"protocols": ["lines"], "depth": "token"},
    },
    # The title of a long paper, asked for below its text; the papers come from `--data`.
    "h2ogpt-papers": {
        "tasks": ["document_qa"],
        "document_qa": {"questions": ["title"], "documents": 50},
    },
}
"""Values of the section `evaluation`; a recipe, `--set` and the options of the command replace them."""

SCALINGS = {"h2ogpt": ["dynamic:2", "dynamic:4"], "h2ogpt-papers": ["dynamic:2", "dynamic:4"]}
"""Scalings of each preset, with which models in process are measured too where they carry none (factor 1)."""
