"""Named settings of evaluations that others published, for `skipwise eval --preset`."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # h2oGPT's tests/test_long_context.py: pairs of 8 and 4 hex digits, one key asked for at a fifth of the prompt.
    "h2ogpt": {
        "tasks": ["key_value"],
        "lengths": [5000, 6000],
        "depths": [0.2],
        "key_value": {"protocols": ["lines"], "depth": "token"},
    },
}
"""Values of the section `evaluation`; a recipe, `--set` and the options of the command replace them."""
