"""A GGUF file's header is parsed once for configuration, tokenizer and weights, and again when the file changes."""

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models.load import load
from support.tiny import tiny_gguf


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files whose headers were parsed."""
    paths: list[str] = []

    class Counting(gguf.GGUFReader):
        def __init__(self, path: Any, *args: Any) -> None:
            paths.append(Path(path).name)
            super().__init__(path, *args)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    return paths


def test_one_parse_a_load(tmp_path: Path, parsed: list[str]) -> None:
    path = tmp_path / "model.gguf"
    embeddings = []
    for seed in (1, 2):  # the second file has the path of the first one
        tiny_gguf(path, seed=seed)
        embeddings.append(load(ModelConfig(path=str(path))).model.get_input_embeddings().weight)
        assert parsed == ["model.gguf"] * seed
    assert not torch.equal(*embeddings)
    reader, table = gguf.GGUFReader, gguf.get_tensor_name_map
    load(ModelConfig(path=str(path)))
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == (reader, table), "gguf is left as it was"


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:3000],
        lambda data: data[:-100],
        lambda data: b"",
        lambda data: b"XXXX" + data[4:],
        lambda data: data[:8] + b"\xff" * 8 + data[16:],
    ],
    ids=["in the header", "in the weights", "empty", "another kind", "count of tensors"],
)
def test_a_damaged_file_is_named_as_such(harm: Any, tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "model.gguf")
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(SkipwiseError, match=r"model\.gguf is no whole GGUF file \(.+\); download or copy it again$"):
        load(ModelConfig(path=str(path)))
