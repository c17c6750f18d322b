"""The label that says "no loss here"."""

IGNORED = -100
"""Label of a token without a loss, as torch and transformers write it."""
