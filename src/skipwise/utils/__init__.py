"""Helpers with no knowledge of models: atomic files, locks, progress."""
