"""Folders of LoRA adapters are models: merged with their base while they are loaded, or refused with what to do."""

import argparse
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from skipwise.cli import main
from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.export.verify import verify
from skipwise.models import adapter_files, sources
from skipwise.models.load import LoadedModel, load
from support.tiny import tiny_llama

IDS = torch.arange(2, 202)[None]


def read(folder: Path, precision: str = "float32") -> LoadedModel:
    return load(ModelConfig(path=str(folder), precision=precision))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits.float()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", window=64, adds_bos=True)


@pytest.fixture(scope="module")
def run(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of large steps, so that the adapter, the norms and the tied embedding have moved."""
    out = tmp_path_factory.mktemp("runs") / "run"
    values = [
        *("adapter.method=lora", "adapter.rank=4", "adapter.also_train=[embeddings,norms]", "training.steps=4"),
        *("training.learning_rate=1e-2", "training.validation_examples=2", "model.precision=bfloat16"),
        *("evaluation.tasks=[]",),
    ]
    words = ["extend", "--model", str(base), "--target", "256", "--data", argparse.__file__, "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert main.main([*words, *(part for value in values for part in ("--set", value))]) == 0
    return out


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run / "adapter", tmp_path / "copied")


@pytest.fixture
def plain(base: Path, tmp_path: Path) -> Path:
    """An adapter that PEFT alone made and saved: no config.json, no tokenizer."""
    torch.manual_seed(1)
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, settings).save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def test_the_adapter_of_a_run_is_its_model(run: Path, base: Path) -> None:
    """With the scaling that it was trained with, which its base does not have."""
    merged, whole = read(run / "adapter", "bfloat16"), read(run / "model", "bfloat16")
    assert torch.equal(logits(merged.model), logits(whole.model))
    assert (merged.window, merged.original_length) == (whole.window, whole.original_length) == (256, 64)
    assert merged.scaling == whole.scaling
    assert len({merged.fingerprint, whole.fingerprint, read(base).fingerprint}) == 3
    difference = (logits(read(run / "adapter").model) - logits(whole.model)).norm() / logits(whole.model).norm()
    assert difference < 0.05  # bf16 against fp32
    assert all(weight.requires_grad for weight in merged.model.parameters())


def test_without_its_configuration_an_adapter_is_put_on_the_plain_base(copied: Path, run: Path) -> None:
    """So it is config.json beside an adapter that carries the scaling."""
    (copied / "config.json").unlink()
    merged = read(copied, "bfloat16")
    assert (merged.window, merged.scaling) == (64, None)
    assert not torch.allclose(logits(merged.model), logits(read(run / "model", "bfloat16").model), atol=0.1)


def test_verify_sees_what_peft_makes_of_it(run: Path) -> None:
    checks = {check.name: check for check in verify(str(run / "adapter"))}
    assert [name for name, check in checks.items() if check.state != "ok"] == ["passkey at the target"]
    assert "the recipe" in checks["frequencies of the training"].detail
    assert "0.0001 is allowed" in checks["logits at long positions"].detail


def test_an_adapter_of_peft_is_merged_as_peft_merges_it(plain: Path, base: Path) -> None:
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), plain).eval()
    merged = read(plain)
    torch.testing.assert_close(logits(merged.model), logits(expected), rtol=1e-4, atol=1e-4)
    assert (logits(merged.model) - logits(read(base).model)).abs().max() > 0.1
    assert (merged.window, merged.name) == (64, "plain")


def test_commands_take_an_adapter(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its export is an ordinary model, and training goes on from it."""
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path / "cache"))
    adapter = str(run / "adapter")
    assert main.main(["inspect", adapter]) == 0
    assert main.main(["export", adapter, "--out", str(tmp_path / "out")]) == 0
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.equal(logits(exported), logits(read(run / "model").model))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 256
    text = ["--data", argparse.__file__]
    rows = ["--tasks", "perplexity", "--set", "evaluation.lengths=[64]", "--out", str(tmp_path / "rows.jsonl")]
    assert main.main(["eval", adapter, *text, *rows]) == 0
    more = ["--set", "training.steps=1", "--set", "training.validation_examples=2", "--set", "evaluation.tasks=[]"]
    where = ["--model", adapter, "--target", "512", "--out", str(tmp_path / "on")]
    assert main.main(["extend", *where, *text, *more]) == 0
    assert read(tmp_path / "on/model").window == 512


def change(**values: Any) -> Any:
    def write(folder: Path) -> None:
        settings = json.loads((folder / adapter_files.SETTINGS).read_text())
        (folder / adapter_files.SETTINGS).write_text(json.dumps(settings | values))

    return write


def weights(change: Any) -> Any:
    def write(folder: Path) -> None:
        save_file(change(load_file(folder / adapter_files.WEIGHTS)), folder / adapter_files.WEIGHTS)

    return write


def pickled(folder: Path) -> None:
    (folder / adapter_files.WEIGHTS).rename(folder / "adapter_model.bin")


def itself(folder: Path) -> None:
    change(base_model_name_or_path=str(folder))(folder)


def nested(folder: Path) -> None:
    (folder / adapter_files.WEIGHTS).write_bytes(struct.pack("<Q", 100_000) + b"[" * 100_000)


def circle(folder: Path) -> None:
    other = shutil.copytree(folder, folder.with_name("other"))
    change(base_model_name_or_path=str(other))(folder)
    change(base_model_name_or_path=str(folder))(other)


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (change(base_model_name_or_path="/no/base-7b"), r"adapter of '/no/base-7b', and that base cannot be read"),
        (change(base_model_name_or_path=None), r"names no base model; write its folder or hub id"),
        (change(peft_type="IA3"), r"an adapter of type IA3: expected LORA"),
        (change(task_type="SEQ_CLS"), r"an adapter for SEQ_CLS: expected"),
        (change(layer_replication=[[0, 2], [1, 2]]), r"an adapter that repeats layers of its base"),
        (change(target_modules=["c_attn"]), r"does not fit its base, a llama model: "),
        (change(r=8), r"does not fit its base, a llama model: .*size mismatch"),
        (weights(lambda state: dict(list(state.items())[1:])), r"they differ in 1 weights, e\.g\. base_model"),
        (weights(lambda state: state | {"base_model.x.lora_A.weight": torch.ones(1)}), r"they differ in 1 weights"),
        (itself, r"which is the same folder"),
        (circle, r"adapter of '[^']*other', which is the same folder or leads back to it; write [^(]*$"),
        (pickled, r"without adapter_model\.safetensors; only pickled ones"),
        (lambda folder: (folder / adapter_files.SETTINGS).write_text("{"), r"adapter_config\.json cannot be read"),
        (lambda folder: (folder / adapter_files.SETTINGS).write_text("[]"), r"holds no JSON mapping"),
        (nested, r"has no safetensors header"),
        (lambda folder: (folder / adapter_files.WEIGHTS).write_bytes(b""), r"cannot read the adapter of .*incomplete"),
    ],
)
def test_what_cannot_be_merged_is_refused(harm: Any, reason: str, plain: Path) -> None:
    harm(plain)
    with pytest.raises(SkipwiseError, match=reason) as caught:
        read(plain)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("command", [["inspect"], ["verify"], ["export", "--out", "OUT"], ["eval", "--tasks", "k_max"]])
def test_a_base_that_is_gone_is_one_line(
    command: list[str], plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(base_model_name_or_path="/no/base-7b")(plain)
    words = [command[0], str(plain), *(str(tmp_path / "out") if part == "OUT" else part for part in command[1:])]
    assert main.main(words) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "'/no/base-7b'" in message
    assert not (tmp_path / "out").exists()


def test_the_configuration_of_an_adapter_needs_no_base(copied: Path) -> None:
    change(base_model_name_or_path="/no/base-7b")(copied)
    assert main.main(["inspect", str(copied)]) == 0
    with pytest.raises(SkipwiseError, match="that base cannot be read"):
        sources.find(ModelConfig(path=str(copied)))
