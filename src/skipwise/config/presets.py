"""Named settings of evaluations: those that others published, and our suites."""

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
"""Values of the section `evaluation` by the name for `skipwise eval --preset`; a recipe, `--set` and the options of the
command replace them."""

SUITES: dict[str, dict[str, Any]] = {
    "quick": {
        "tasks": ["perplexity", "passkey", "key_value"],
        "documents": 4,
        "trials": 2,
        "key_value": {"protocols": ["lines"], "lists": 2},
    },
    "standard": {
        "tasks": ["perplexity", "passkey", "key_value", "needle", "non_literal"],
        "documents": 8,
        "trials": 4,
        "key_value": {"lists": 4},
    },
    "thorough": {
        "tasks": [
            *("perplexity", "longppl", "passkey", "key_value", "needle", "non_literal", "k_max", "document_qa"),
            *("ruler", "babilong", "mrcr", "placed"),
        ],
        "documents": 16,
        "trials": 10,
        "key_value": {"lists": 10},
    },
}
"""Values of the section `evaluation` by the name of `evaluation.suite`: sets of tasks for people who do not know
the tasks. None needs files of the user but documents for perplexity, and each one asks more than the one before it."""

SCALINGS = {"h2ogpt": ["dynamic:2", "dynamic:4"], "h2ogpt-papers": ["dynamic:2", "dynamic:4"]}
"""Scalings of each preset, with which models in process are measured too where they carry none (factor 1)."""
