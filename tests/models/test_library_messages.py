"""What the libraries say is put into words that help here, or is kept silent."""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import transformers
from huggingface_hub.utils import are_progress_bars_disabled
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models.library_messages import one_line, quiet
from skipwise.models.load import load
from support.tiny import tiny_llama

THEIRS = ("trust_remote_code=True", "ignore_mismatched_sizes", "above report", "huggingface.co/docs", "from_pretrained")


def complaint(folder: Path, kind: Any = AutoConfig) -> str:
    """What transformers itself says of a folder, in our words."""
    with pytest.raises(Exception) as caught, quiet():  # noqa: PT011
        kind.from_pretrained(folder)
    text = one_line(caught.value)
    assert "\n" not in text
    assert not [words for words in THEIRS if words in text]
    return text


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        (
            {"model_type": "frobnicate"},
            f"model type 'frobnicate' is not known to transformers {transformers.__version__}",
        ),
        ({"model_type": "odd", "auto_map": {"AutoConfig": "own.Config"}}, "add --set model.trust_remote_code=true"),
        ({"hidden_size": 8}, "config.json names no model_type"),
        ({"model_type": "llama", "num_attention_heads": None}, "num_attention_heads = null: expected a whole number"),
        ({"model_type": "llama", "rms_norm_eps": "x"}, 'rms_norm_eps = "x": expected a number; correct it'),
        ({"model_type": "llama", "tie_word_embeddings": "false"}, 'tie_word_embeddings = "false": expected true or'),
        (
            {"model_type": "llama", "hidden_size": 63},
            "hidden_size = 63: expected a multiple of num_attention_heads, 32",
        ),
        ({"model_type": "qwen2", "layer_types": ["x"] * 32}, "expected a kind of attention for each layer"),
        (
            {"model_type": "qwen2", "layer_types": ["full_attention"]},
            "layer_types names 1 layers: expected 32, as many as num_hidden_layers",
        ),
        (
            {"model_type": "llama", "head_dim": 15},
            "head_dim = 15 times partial_rotary_factor = 1.0: expected an even number",
        ),
    ],
)
def test_configurations(saved: dict[str, object], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(saved))
    assert sentence in complaint(tmp_path)


def test_weights_and_tokenizers(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert (
        complaint(folder, AutoModelForCausalLM)
        == "there is no model.safetensors; convert the weights to safetensors first"
    )
    (folder / "tokenizer.json").write_text('{"version": "1.0", "model": {}}')
    assert complaint(folder, AutoTokenizer) == "it lacks the entry 'added_tokens'"
    (folder / "tokenizer.json").write_text('{"version": "1.0", "added_tokens": [], "model": {}}')
    assert "tokenizer.json is not the file of a tokenizer" in complaint(folder, AutoTokenizer)


def test_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(SkipwiseError, match="the cache holds no copy"):
        load(ModelConfig(path="nobody/nothing"))


def test_other_errors_are_cut_to_one_line() -> None:
    assert one_line(ValueError("first\n  second")) == "first second"
    assert len(one_line(ValueError("word " * 1000))) == 300
    assert one_line(KeyError()) == "KeyError"


def test_nothing_of_theirs_is_printed_while_a_model_loads(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    """Its configuration holds `attn_factor`, which only older loaders know: transformers 5 warns about it."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}
    folder = tiny_llama(tmp_path / "model", rope_parameters={**yarn, "attention_factor": 1.5, "attn_factor": 1.3})
    capfd.readouterr()
    load(ModelConfig(path=str(folder), device="cpu"))
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
    assert not recwarn.list


def test_retries_of_the_hub_are_told_in_our_words(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("huggingface_hub.utils._http")
    with quiet():
        logger.warning("'[Errno 111] Connection refused' thrown while requesting HEAD http://127.0.0.1:9/x")
        logger.warning("Retrying in 8s [Retry 4/5].")
        logger.warning("Rate limited. Waiting 31.0s before retry [Retry 1/5].")
    assert capfd.readouterr().err.splitlines() == [
        "the hub does not answer; asking again in 8 s (4 of 5)",
        "the hub does not answer; asking again in 31 s (1 of 5)",
    ]


def test_the_libraries_speak_again_afterwards() -> None:
    level, bars = transformers.logging.get_verbosity(), are_progress_bars_disabled()
    handlers = list(logging.getLogger("huggingface_hub").handlers)
    with quiet():
        assert are_progress_bars_disabled()
        warnings.warn("theirs", UserWarning, stacklevel=1)
    assert transformers.logging.get_verbosity() == level
    assert are_progress_bars_disabled() == bars
    assert logging.getLogger("huggingface_hub").handlers == handlers
