"""Adapters: only they are trained, merging gives the model that was trained, and plain PEFT loads them."""

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

from skipwise.config import AdapterConfig, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models.forward import loss
from skipwise.models.merging import merge
from skipwise.rope.scale import scale
from skipwise.training import adapters
from support.tiny import llama_config, tiny_model

WINDOW, TARGET = 32, 128
IDS = torch.tensor(np.random.default_rng(0).integers(2, 128, size=(2, 24)))


def scaled_config(*, tied: bool) -> Any:
    config = llama_config(window=WINDOW, vocab=128)
    config.tie_word_embeddings = tied
    return scale(config, "yarn", target_length=TARGET)


def trained(dtype: torch.dtype = torch.float32, *, tied: bool = False, **settings: Any) -> Any:
    """PEFT's model after a few large steps on skipped positions, so that adapters and saved modules have moved."""
    model = tiny_model(scaled_config(tied=tied)).to(dtype)
    wrapped = adapters.attach(model, AdapterConfig(**{"method": "lora", "rank": 4, **settings}))
    optimizer = torch.optim.SGD([w for w in wrapped.parameters() if w.requires_grad], lr=0.5)
    positions = torch.arange(24)[None].expand(2, -1) + 60 * (torch.arange(24) >= 12)
    for _ in range(4):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):  # as `Trainer` does
            loss(model, IDS, positions, IDS).backward()
        optimizer.step()
        optimizer.zero_grad()
    return wrapped.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


EVERYTHING = {"also_train": ["embeddings", "norms"]}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    "settings", [{}, {"rslora": True, "alpha": 4}, {"dora": True}, EVERYTHING, {"targets": ["q_proj", "v_proj"]}]
)
def test_merged_and_unmerged_agree(settings: dict[str, Any], tied: bool) -> None:
    wrapped = trained(tied=tied, **settings)
    unmerged, untouched = logits(wrapped), logits(tiny_model(scaled_config(tied=tied)))
    merged = merge(wrapped, torch.float32)
    assert (unmerged - untouched).abs().max() > 0.1, "training must matter"
    torch.testing.assert_close(logits(merged), unmerged, rtol=1e-4, atol=1e-4)
    plain = tiny_model(scaled_config(tied=tied))
    assert merged.state_dict().keys() == plain.state_dict().keys()
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied


def test_a_bf16_base_is_merged_in_fp32_and_rounded_once() -> None:
    wrapped = trained(torch.bfloat16, **EVERYTHING)
    layer = wrapped.base_model.model.model.layers[0].self_attn.q_proj
    exact = layer.get_base_layer().weight.float() + layer.get_delta_weight("default").float()
    merged = merge(wrapped, torch.bfloat16)
    weight = merged.model.layers[0].self_attn.q_proj.weight
    assert weight.dtype == torch.bfloat16
    assert torch.equal(weight, exact.to(torch.bfloat16))


def test_only_adapters_are_trained_with_fp32_masters() -> None:
    wrapped = trained(torch.bfloat16)
    weights = dict(wrapped.named_parameters())
    assert {w.dtype for w in weights.values() if w.requires_grad} == {torch.float32}
    assert {w.dtype for w in weights.values() if not w.requires_grad} == {torch.bfloat16}
    assert all("lora_" in name for name, w in weights.items() if w.requires_grad)
    before = tiny_model(scaled_config(tied=False)).to(torch.bfloat16).model.layers[0].mlp.up_proj.weight
    assert torch.equal(wrapped.base_model.model.model.layers[0].mlp.up_proj.get_base_layer().weight, before)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("settings", [{}, EVERYTHING, {"dora": True}])
def test_plain_peft_loads_the_adapter_on_the_scaled_base(settings: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    wrapped = trained(tied=tied, **settings)
    tiny_model(scaled_config(tied=tied)).save_pretrained(tmp_path / "base")
    (tmp_path / "adapter").mkdir()
    adapters.save(wrapped, tmp_path / "adapter", ModelConfig(path=str(tmp_path / "base")))
    config = AutoConfig.from_pretrained(tmp_path / "adapter")
    assert config.max_position_embeddings == TARGET
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base", config=config)
    again = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(again), logits(wrapped), rtol=1e-4, atol=1e-4)


def test_state_comes_back_and_another_adapters_is_refused() -> None:
    wrapped = trained(**EVERYTHING)
    state = {name: weight.clone() for name, weight in adapters.trainable_state(wrapped).items()}
    other = adapters.attach(tiny_model(scaled_config(tied=False)), AdapterConfig(method="lora", rank=4, **EVERYTHING))
    adapters.load_trainable_state(other, state)
    torch.testing.assert_close(logits(other.eval()), logits(wrapped))
    for settings in ({"rank": 8, **EVERYTHING}, {"rank": 4}):
        another = adapters.attach(tiny_model(scaled_config(tied=False)), AdapterConfig(method="lora", **settings))
        with pytest.raises(SkipwiseError, match="holds another adapter"):
            adapters.load_trainable_state(another, state)


def test_a_rank_that_no_layer_has_is_refused() -> None:
    """The largest layers that get an adapter are 64 × 64 (q_proj) and 32 × 64 (k_proj)."""
    model = tiny_model(llama_config())
    adapters.check_settings(model, AdapterConfig(method="lora", rank=64))
    adapters.check_settings(model, AdapterConfig(method="lora", rank=32, targets=["k_proj"]))
    with pytest.raises(SkipwiseError, match=r"adapter\.rank = 65: .* have a rank of 64 at most"):
        adapters.check_settings(model, AdapterConfig(method="lora", rank=65))
    with pytest.raises(SkipwiseError, match=r"have a rank of 32 at most"):
        adapters.check_settings(model, AdapterConfig(method="lora", rank=33, targets=["k_proj"]))


def test_targets_that_match_nothing_name_what_is_near() -> None:
    model = tiny_model(scaled_config(tied=False))
    with pytest.raises(SkipwiseError, match=r"no linear layer is called 'q_prj'; did you mean 'q_proj'"):
        adapters.attach(model, AdapterConfig(method="lora", targets=["q_prj"]))
    with pytest.raises(SkipwiseError, match=r"'zzz'; this model has down_proj, gate_proj"):
        adapters.attach(model, AdapterConfig(method="lora", targets=["zzz"]))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is not None, reason="needs a machine without it")
def test_qlora_without_bitsandbytes_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(SkipwiseError, match=r"needs bitsandbytes: pip install 'skipwise\[qlora\]'"):
        adapters.require_packages(AdapterConfig(method="qlora"), torch.device("cuda"))


def test_qlora_without_cuda_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(SkipwiseError, match=r"adapter\.method=qlora needs a CUDA device, this run is on cpu"):
        adapters.require_packages(AdapterConfig(method="qlora"), torch.device("cpu"))
