"""Model folders that lack something: one line says what, before a tensor is read."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from skipwise.cli import main
from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models import checkpoint, sources, weight_files
from support.tiny import tiny_llama, tiny_tokenizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture(scope="module")
def sharded(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded") / "model"
    AutoModelForCausalLM.from_pretrained(whole).save_pretrained(folder, max_shard_size="100KB")
    tiny_tokenizer(folder)
    return folder


def find(folder: Path) -> None:
    sources.find(ModelConfig(path=str(folder)))


def test_headers_are_those_that_safetensors_reads(whole: Path, sharded: Path) -> None:
    for folder in (whole, sharded):
        find(folder)
        for path in weight_files.weight_files(folder):
            with safe_open(path, "pt") as file:
                names = set(file.keys())
            assert weight_files.read_header(path).keys() == names
    assert len(weight_files.weight_files(sharded)) > 1


def test_one_whole_file_counts_before_an_index(whole: Path, sharded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded, tmp_path / "both")
    shutil.copy(whole / "model.safetensors", folder)
    (folder / "consolidated.safetensors").write_bytes(b"")  # as Mistral's repositories hold beside the others
    assert [path.name for path in weight_files.weight_files(folder)] == ["model.safetensors"]
    find(folder)


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: cut(path, -1), r"model\.safetensors is incomplete: [\d,]+ of [\d,]+ bytes are there"),
        (lambda path: cut(path, 200), r"model\.safetensors is incomplete: it ends inside its header"),
        (lambda path: cut(path, 3), r"model\.safetensors is incomplete: it ends inside its header"),
        (lambda path: cut(path, 0), r"model\.safetensors is incomplete"),
        (lambda path: path.write_text("<html>not found</html>" * 9), r"model\.safetensors has no safetensors header"),
        (lambda path: path.write_bytes(struct.pack("<Q", 2) + b"[]"), r"has no safetensors header"),
        (lambda path: path.write_bytes(struct.pack("<Q", 8) + b'{"a": 1}'), r"has no safetensors header"),
        (
            lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
            "Git LFS pointer in place of the weights; run: git lfs pull",
        ),
    ],
)
def test_damaged_files(damage: Callable[[Path], None], reason: str, whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "model")
    damage(folder / "model.safetensors")
    with pytest.raises(SkipwiseError, match=f"cannot read the weights of .*{reason}"):
        find(folder)


def test_a_shard_that_is_missing_or_cut(sharded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded, tmp_path / "model")
    second = weight_files.weight_files(folder)[1]
    content = second.read_bytes()
    second.unlink()
    with pytest.raises(SkipwiseError, match=rf"1 of the \d+ files that .* names are missing, e\.g\. {second.name}"):
        find(folder)
    second.write_bytes(content[:-9])
    with pytest.raises(SkipwiseError, match=f"{second.name} is incomplete"):
        find(folder)


@pytest.mark.parametrize(
    "index", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../b"}}']
)
def test_a_bad_index(index: str, sharded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded, tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(SkipwiseError, match=r"index\.json (is not an index of weights|names)"):
        find(folder)


def test_shards_without_their_index(sharded: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sharded, tmp_path / "model")
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(
        SkipwiseError, match=r"no file named model\.safetensors, and no model\.safetensors\.index\.json"
    ):
        find(folder)


# Folders that are no model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", [["verify"], ["export", "--out", "x"]])
def test_folders_that_hold_no_model(
    command: list[str], whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = {
        tmp_path: "no config.json and 0 .gguf files",
        whole.parent: f"give one of these: {whole}",
        whole / "model.safetensors": f"give its folder, {whole}",
        whole / "tokenizer.json": f"give its folder, {whole}",
    }
    for path, message in cases.items():
        assert main.main([command[0], str(path), *command[1:]]) == 2
        assert message in capsys.readouterr().err


def test_a_folder_without_a_tokenizer(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    source = sources.find(ModelConfig(path=str(folder)))
    with pytest.raises(SkipwiseError, match=r"no tokenizer\.json; copy the tokenizer of its base model there"):
        checkpoint.tokenizer(source)
