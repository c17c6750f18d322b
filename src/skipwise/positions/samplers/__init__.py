"""The samplers of positions: one file each, named after the sampler, with a `METHOD`."""

import importlib

from skipwise.positions.layouts import Method


def method(name: str) -> Method:
    """The method of that name, one of `config.sampler_names.sampler_names()`."""
    declared: Method = importlib.import_module(f"{__name__}.{name}").METHOD
    return declared
