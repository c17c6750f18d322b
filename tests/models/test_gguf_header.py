"""GGUF files of several families, written by gguf's writer as llama.cpp has them, are the models they came from."""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedConfig

from skipwise.config import ModelConfig, ScalingConfig
from skipwise.errors import SkipwiseError
from skipwise.models import checkpoint, configuration, gguf_header, sources
from skipwise.models.load import LoadedModel
from skipwise.models.load import load as load_model
from skipwise.rope import hf_config
from skipwise.rope.scale import scale
from support.tiny import VOCABULARY, _bpe, tiny_model

SMALL: dict[str, Any] = {
    **{"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None, "tie_word_embeddings": False},
    "rope_parameters": {"rope_type": "default", "rope_theta": 5_000.0},
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
GEMMA = {"head_dim": 32, "sliding_window": 8, "query_pre_attn_scalar": 32, "tie_word_embeddings": True}
LOCAL = {"sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}
NESTED = {"rope_parameters": {**LOCAL, "full_attention": SMALL["rope_parameters"]}}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LLAMA", {}),
    "mistral": ("LLAMA", {}),
    "qwen2": ("QWEN2", {}),
    "qwen3": ("QWEN3", {"head_dim": 32}),
    "qwen3_moe": ("QWEN3MOE", {**MOE, "head_dim": 32}),
    "gemma2": ("GEMMA2", GEMMA),
    "gemma3_text": ("GEMMA3", {**GEMMA, **NESTED, "num_hidden_layers": 6}),
    "phi3": ("PHI3", {"sliding_window": 8}),
}


def config(family: str, **more: Any) -> PreTrainedConfig:
    return transformers.AutoConfig.for_model(family, **{**SMALL, **FAMILIES[family][1], **more})


def write(
    path: Path,
    small: transformers.PreTrainedModel,
    kind: str = "Q8_0",
    keys: dict[str, Any] | None = None,
    tables: dict[str, np.ndarray] | None = None,
) -> None:
    """A model as a GGUF file; its matrices are changed to what `kind` keeps of them. `keys` follow the family's name.

    `tables` are further F32 tensors.
    """
    has, family = small.config, small.config.model_type
    arch, of = gguf.MODEL_ARCH[FAMILIES[family][0]], gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_name(family)
    writer.add_context_length(has.max_position_embeddings)
    writer.add_embedding_length(has.hidden_size)
    writer.add_block_count(has.num_hidden_layers)
    writer.add_feed_forward_length(has.intermediate_size)
    writer.add_head_count(has.num_attention_heads)
    writer.add_head_count_kv(has.num_key_value_heads)
    writer.add_layer_norm_rms_eps(has.rms_norm_eps)
    head = getattr(has, "head_dim", None) or has.hidden_size // has.num_attention_heads
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(hf_config.parameters(has)["rope_theta"])
    if getattr(has, "sliding_window", None):
        writer.add_sliding_window(has.sliding_window)
    if getattr(has, "num_experts", None):
        writer.add_expert_count(has.num_experts)
        writer.add_expert_used_count(has.num_experts_per_tok)
        writer.add_expert_feed_forward_length(has.moe_intermediate_size)
    for key, value in (keys or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"{gguf.MODEL_ARCH_NAMES[arch]}.{key}", value)
    writer.add_file_type(gguf.LlamaFileType[("ALL_" if kind == "F32" else "MOSTLY_") + kind])
    tokens = json.loads(_bpe(VOCABULARY, False))["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(tokens["vocab"], key=tokens["vocab"].__getitem__))
    writer.add_token_merges([" ".join(merge) for merge in tokens["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_pad_token_id(0)
    for name, table in (tables or {}).items():
        writer.add_tensor(name, table.astype(np.float32))
    names = gguf.get_tensor_name_map(arch, has.num_hidden_layers)
    for name, weight in small.state_dict().items():
        if name == "lm_head.weight" and has.tie_word_embeddings:
            continue
        if weight.ndim > 1:
            kept = gguf.quants.dequantize(gguf.quants.quantize(weight.numpy(), of), of)
            weight.copy_(torch.from_numpy(kept))
        for target, value in llama_cpp(name, weight.numpy(), has, names):
            matrix = value.ndim > 1
            value = gguf.quants.quantize(np.ascontiguousarray(value), of) if matrix else value
            writer.add_tensor(target, value, raw_dtype=of if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def llama_cpp(name: str, value: np.ndarray, has: PreTrainedConfig, names: gguf.TensorNameMap) -> list[tuple[str, Any]]:
    """A weight by llama.cpp's name, in its layout."""
    if name.endswith("experts.gate_up_proj"):
        layer = name.split(".")[2]
        gate, up = np.split(value, 2, axis=1)
        return [(f"blk.{layer}.ffn_gate_exps.weight", gate), (f"blk.{layer}.ffn_up_exps.weight", up)]
    target = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert target is not None, name
    if has.model_type in ("llama", "mistral"):
        for part, heads in (("q_proj", has.num_attention_heads), ("k_proj", has.num_key_value_heads)):
            if part in name:  # llama.cpp rotates neighbours, transformers halves
                value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
    if has.model_type.startswith("gemma") and name.endswith("norm.weight"):
        value = value + 1
    return [(target, value)]


def ids() -> Tensor:
    return torch.arange(2, 50)[None] * 7 % VOCABULARY


def load(path: Path, **given: Any) -> LoadedModel:
    return load_model(ModelConfig(path=str(path), precision="float32", device="cpu"), **given)


def read(path: Path) -> transformers.PreTrainedModel:
    """The model alone: older transformers read no byte-level tokenizer for some of these families."""
    found = sources.find(ModelConfig(path=str(path)))
    return checkpoint.weights(found, configuration.read(found), "sdpa", torch.float32)


def same(found: transformers.PreTrainedModel, wanted: transformers.PreTrainedModel) -> None:
    with torch.no_grad():
        torch.testing.assert_close(found(ids()).logits, wanted(ids()).logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_the_model_that_it_was_made_of(family, tmp_path):
    small = tiny_model(config(family, attn_implementation="eager"))
    for name, weight in small.named_parameters():
        if weight.ndim == 1:
            torch.nn.init.normal_(weight, mean=float("norm" in name and "gemma" not in family), std=0.3)
    write(tmp_path / "m.gguf", small)
    found = read(tmp_path / "m.gguf")
    assert found.config.model_type == ("llama" if family == "mistral" else family)
    assert (hf_config.window(found.config), gguf_header.weight_type(tmp_path / "m.gguf")) == (64, "Q8_0")
    same(found, small)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "qwen3_moe"])
def test_a_file_is_loaded_with_its_tokenizer(family, tmp_path):
    write(tmp_path / "m.gguf", tiny_model(config(family)))
    found = load(tmp_path / "m.gguf")
    assert (found.quantised_from, found.window) == ("Q8_0", 64)
    assert found.tokenizer.decode(found.tokenizer("hello 123").input_ids) == "hello 123"


@pytest.mark.parametrize(
    ("family", "layers", "scalar"), [("gemma2", 46, 144), ("gemma2", 42, 128), ("gemma3", 62, 144)]
)
def test_attention_of_the_largest_gemmas_is_scaled_as_llama_cpp_does(family, layers, scalar, tmp_path):
    """By hidden_size / heads in the 27B models, by the size of a head in all others; no header says it."""
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", family)
    writer.add_block_count(layers)
    writer.add_embedding_length(4608)
    writer.add_head_count(32)
    writer.add_key_length(128)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    assert gguf_header.overlooked(tmp_path / "m.gguf")["query_pre_attn_scalar"] == scalar


def test_soft_caps_are_taken_from_the_file(tmp_path):
    caps = {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}
    small = tiny_model(config("gemma2", attn_implementation="eager", **caps))
    write(tmp_path / "m.gguf", small, keys=caps)
    same(read(tmp_path / "m.gguf"), small)


def scaled(parameters: dict[str, Any], window: int = 64, **more: Any) -> PreTrainedConfig:
    """A llama of this scaling whose heads have 32 dimensions."""
    full = {"rope_theta": 5_000.0, **parameters}
    return config("llama", rope_parameters=full, max_position_embeddings=window, head_dim=32, **more)


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize("original", [64, 256])
def test_llama_3_is_known_by_its_table(original, tmp_path):
    """As every Llama 3.1 and 3.2 file carries it: a table, and no word of the original window."""
    parameters = {**LLAMA3, "original_max_position_embeddings": original}
    small = tiny_model(scaled(parameters, window=2048))
    table = hf_config.factors(small.config)
    write(tmp_path / "m.gguf", small, "F32", tables={"rope_freqs.weight": table})
    found = load(tmp_path / "m.gguf")
    assert found.model.config.rope_parameters == {**parameters, "rope_theta": 5_000.0}
    assert (found.original_length, found.window, found.quantised_from) == (original, 2048, None)
    same(found.model, small)
    further = load(tmp_path / "m.gguf", target_length=4096, scaling=ScalingConfig(method="llama3"))
    assert further.scaling["factor"] == 16.0


@pytest.mark.parametrize("two", [False, True])
def test_other_tables_become_lists(two, tmp_path):
    short, long = (np.linspace(1, top, 16) for top in (2, 6))
    lists = {"short_factor": (short if two else long).tolist(), "long_factor": long.tolist()}
    parameters = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 32, **lists}
    small = tiny_model(scaled({**parameters, "attention_factor": 1.25}, window=128))
    tables = (
        {"rope_factors_short.weight": short, "rope_factors_long.weight": long} if two else {"rope_freqs.weight": long}
    )
    keys = {"rope.scaling.attn_factor": 1.25, "rope.scaling.original_context_length": 32}
    write(tmp_path / "m.gguf", small, "F32", keys=keys, tables=tables)
    found = load(tmp_path / "m.gguf")
    assert found.original_length == 32
    same(found.model, small)  # 48 tokens are beyond the original window …
    with torch.no_grad():  # … and 24 within it
        torch.testing.assert_close(found.model(ids()[:, :24]).logits, small(ids()[:, :24]).logits, rtol=1e-3, atol=1e-3)


def test_scalings_by_name(tmp_path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 24.0}
    keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 16}
    keys["rope.scaling.yarn_beta_fast"] = 24.0
    small = tiny_model(scaled({**yarn, "attention_factor": 1.2 * (0.1 * math.log(4) + 1)}))
    write(tmp_path / "m.gguf", small, "F32", keys={**keys, "rope.scaling.attn_factor": 1.2})
    same(load(tmp_path / "m.gguf").model, small)
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 5_000.0}
    gemma = tiny_model(
        config("gemma3_text", rope_parameters={**LOCAL, "full_attention": full}, attn_implementation="eager")
    )
    write(tmp_path / "g.gguf", gemma, keys={"rope.scaling.type": "linear", "rope.scaling.factor": 8.0})
    found = read(tmp_path / "g.gguf")
    same(found, gemma)
    assert hf_config.carried(found.config).method == "linear"
    with pytest.raises(SkipwiseError, match=r"does not say from which window; give model\.original_length"):
        scale(found.config, "linear", target_length=4096)


@pytest.mark.parametrize(
    "keys",
    [
        {"rope.scale_linear": 4.0},
        {"rope.scaling.factor": 4.0},
        {"rope.scaling.type": "linear", "rope.scale_linear": 4.0},
    ],
)
def test_linear_scaling_as_older_files_say_it(keys, tmp_path):
    small = tiny_model(scaled({"rope_type": "linear", "factor": 4.0}))
    write(tmp_path / "m.gguf", small, "F32", keys=keys)
    found = read(tmp_path / "m.gguf")
    assert hf_config.parameters(found.config)["rope_type"] == "linear"
    same(found, small)


@pytest.mark.parametrize(
    "keys", [{"rope.scale_linear": 1.0}, {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}]
)
def test_factors_that_scale_nothing(keys, tmp_path):
    write(tmp_path / "m.gguf", tiny_model(scaled({"rope_type": "default"})), "F32", keys=keys)
    assert gguf_header.rope_scaling(tmp_path / "m.gguf") is None


@pytest.mark.parametrize(
    ("keys", "tables"),
    [
        ({"rope.scaling.type": "longrope", "rope.scaling.factor": 2.0}, {}),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0, "rope.scaling.yarn_ext_factor": 0.5}, {}),
        ({"rope.scaling.type": "yarn", "rope.scaling.factor": 2.0}, {"rope_freqs.weight": np.ones(16)}),
    ],
)
def test_scalings_that_cannot_be_taken_over_are_refused(keys, tables, tmp_path):
    write(tmp_path / "m.gguf", tiny_model(scaled({"rope_type": "default"})), "F32", keys=keys, tables=tables)
    with pytest.raises(SkipwiseError, match="RoPE scaling, which is not read from GGUF files"):
        load(tmp_path / "m.gguf")


def test_families_that_transformers_does_not_read_are_refused_in_one_line(tmp_path):
    small = tiny_model(transformers.GemmaConfig(**{**SMALL, "tie_word_embeddings": True}, head_dim=32))
    FAMILIES["gemma"] = ("GEMMA", {})
    try:
        write(tmp_path / "m.gguf", small)
    finally:
        del FAMILIES["gemma"]
    with pytest.raises(SkipwiseError, match="architecture gemma is not supported"):
        load(tmp_path / "m.gguf")
