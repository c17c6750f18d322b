"""What Skipwise uses of transformers beyond its documented interface; the trainer's part is tested beside the trainer.

A test here fails when an update of transformers has changed one of these names or habits, and says which module of
Skipwise needs it. The upper bound of the dependency in pyproject.toml is raised after this file has passed.
"""

import importlib
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.requirements import Requirement
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from support.tiny import llama_config, tiny_llama, tiny_model

ROOT = Path(__file__).parents[2]


def gone(what: str, module: str) -> str:
    return f"transformers {transformers.__version__} has no {what}, which skipwise.{module} uses"


NAMES = [
    ("cache_utils", "Cache", "models.chunked_reader"),
    ("cache_utils", "DynamicLayer.lazy_initialization", "models.chunked_reader"),
    ("cache_utils", "DynamicLayer.update", "models.chunked_reader"),
    ("cache_utils", "DynamicLayer.get_seq_length", "models.chunked_reader"),
    ("", "AttentionInterface.register", "models.causal_attention"),
    ("", "PreTrainedModel.set_attn_implementation", "models.chunked_reader"),
    ("", "PreTrainedModel.get_decoder", "models.forward"),
    ("", "PreTrainedModel.get_output_embeddings", "models.sliced_loss"),
    ("", "PreTrainedConfig.get_config_dict", "models.configuration"),
    ("", "PreTrainedConfig.get_text_config", "rope.hf_config"),
    ("", "PreTrainedConfig.to_diff_dict", "models.checkpoint"),
    ("", "AutoConfig.from_pretrained", "models.configuration"),
    ("modeling_rope_utils", "ROPE_INIT_FUNCTIONS", "export.gguf_writer"),
    ("utils.logging", "get_verbosity", "models.library_messages"),
    ("utils.logging", "set_verbosity", "models.library_messages"),
    ("utils.logging", "is_progress_bar_enabled", "models.library_messages"),
    ("utils.logging", "disable_progress_bar", "models.library_messages"),
    ("utils.logging", "enable_progress_bar", "models.library_messages"),
    ("PreTrainedTokenizerFast", "backend_tokenizer", "export.gguf_tokenizer"),
    ("PreTrainedTokenizerFast", "added_tokens_decoder", "models.agreement"),
]


@pytest.mark.parametrize(("place", "name", "module"), NAMES)
def test_names(place: str, name: str, module: str) -> None:
    value: Any = getattr(transformers, place) if place[:1].isupper() else transformers
    if place and value is transformers:
        value = importlib.import_module(f"transformers.{place}")
    for part in name.split("."):
        assert hasattr(value, part), gone(f"{place}.{name}".strip("."), module)
        value = getattr(value, part)


def test_rope_functions_by_type() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    for kind in ("linear", "dynamic", "yarn", "longrope", "llama3"):
        assert kind in ROPE_INIT_FUNCTIONS, gone(f"ROPE_INIT_FUNCTIONS[{kind!r}]", "export.gguf_writer")
    given = list(inspect.signature(ROPE_INIT_FUNCTIONS["yarn"]).parameters)
    assert given[:3] == ["config", "device", "seq_len"], gone("seq_len third in ROPE_INIT_FUNCTIONS", "export")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    return tiny_model(llama_config(rope_parameters=parameters))


def test_tables_of_frequencies(model: PreTrainedModel) -> None:
    rotary = model.model.rotary_emb
    buffers = dict(rotary.named_buffers())
    for name, module in (("inv_freq", "models.checks"), ("original_inv_freq", "models.forward")):
        assert name in buffers, gone(f"rotary buffer {name}", module)
    for name in ("attention_scaling", "max_seq_len_cached", "original_max_seq_len"):
        assert hasattr(rotary, name), gone(f"attribute {name} of rotary modules", "models.forward")
    assert list(inspect.signature(rotary.forward).parameters)[:2] == ["x", "position_ids"], gone(
        "forward(x, position_ids) of rotary modules", "models.checks"
    )
    assert "config" in inspect.signature(type(rotary).__init__).parameters, gone("rotary(config=…)", "models.load")


def test_attention_implementations(model: PreTrainedModel) -> None:
    assert model.config._attn_implementation == "sdpa", gone("config._attn_implementation", "models.chunked_reader")
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager", gone("set_attn_implementation", "models.chunked_reader")
    model.set_attn_implementation("sdpa")


def test_attributes_of_cached_layers(model: PreTrainedModel) -> None:
    with torch.no_grad():
        cache = model(torch.arange(5)[None], use_cache=True).past_key_values
    for name in ("keys", "values", "is_initialized", "dtype", "device"):
        assert hasattr(cache.layers[0], name), gone(f"attribute {name} of cache layers", "models.chunked_reader")
    assert cache.layers[0].keys.shape == (1, 2, 5, 16)  # (B, K, S, D)


def test_layers_of_latent_attention() -> None:
    """`models.load.apply` computes the scale of scores anew for DeepSeek's layers."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    source = inspect.getsource(DeepseekV3Attention.__init__)
    for name in ("self.scaling", "self.layer_idx"):
        assert name in source, gone(f"{name} in DeepseekV3Attention", "models.load")


def test_the_report_of_loading(tmp_path: Path) -> None:
    loaded, report = AutoModelForCausalLM.from_pretrained(tiny_llama(tmp_path), output_loading_info=True)
    assert isinstance(loaded, PreTrainedModel)
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert name in report, gone(f"{name} in output_loading_info", "models.agreement")
    # One tensor for both, so that `is` tells a tied head.
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight
    assert AutoTokenizer.from_pretrained(tmp_path).is_fast


def test_a_gguf_file_can_be_loaded_as_plain_weights() -> None:
    kind = getattr(transformers, "GgufConfig", None)
    if kind is None:
        pytest.skip(f"transformers {transformers.__version__} always dequantises")
    assert "dequantize" in inspect.signature(kind).parameters, gone("GgufConfig(dequantize=…)", "models.checkpoint")


def test_the_installed_version_is_within_the_bounds_that_pyproject_gives() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["serving"]]
    wanted = [Requirement(line) for line in named if line.startswith("transformers")]
    assert len(wanted) == 2
    for requirement in wanted:
        assert {bound.operator for bound in requirement.specifier} == {">=", "<"}, "give an upper bound that was tested"
        assert transformers.__version__ in requirement.specifier
