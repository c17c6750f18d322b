"""Fixtures that tests of several tasks share."""

import contextlib
from typing import Any

import pytest

from support.tiny import tiny_tokenizer
from support.tokenizers_of_kinds import bytes_tokenizer, merging_tokenizer

with contextlib.suppress(ImportError):
    import setuptools  # noqa: F401  before anything imports distutils: torch's compiler refuses the other order


@pytest.fixture(scope="module", params=["bpe", "bos", "bytes", "merging"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param in ("bpe", "bos"):
        return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), adds_bos=request.param == "bos")
    return bytes_tokenizer() if request.param == "bytes" else merging_tokenizer()


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))
