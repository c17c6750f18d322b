"""Skipwise: extend the context window of RoPE language models by training on short windows with skipped positions."""

__version__ = "0.1.0"
