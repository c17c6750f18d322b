"""Cache sizes: against the caches that real models fill, and numbers worked out by hand."""

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DynamicCache,
    FalconConfig,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
    SmolLM3Config,
)

from skipwise.models import families
from skipwise.models.kv_cache_size import kv_cache
from support.tiny import llama_config, tiny_model

SMALL = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4, "vocab_size": 64}
MLA = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6}
CONFIGS = {
    "llama, 2 key heads": llama_config(layers=3),
    "qwen3, head_dim given": Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=24, intermediate_size=32),
    "mistral, all slide": MistralConfig(**SMALL, num_key_value_heads=2, intermediate_size=32, sliding_window=8),
    "gemma3, some slide": Gemma3TextConfig(
        **SMALL, num_key_value_heads=1, head_dim=16, intermediate_size=32, sliding_window=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "deepseek, latent": DeepseekV3Config(
        **SMALL, **MLA, intermediate_size=32, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2,
        n_group=1, topk_group=1, first_k_dense_replace=1, num_key_value_heads=4,
    ),
    "falcon, one key head": FalconConfig(**SMALL, multi_query=True, new_decoder_architecture=False),
    "falcon, all key heads": FalconConfig(**SMALL, multi_query=False, new_decoder_architecture=False),
    "falcon, new": FalconConfig(**SMALL, num_kv_heads=2, new_decoder_architecture=True),
    "gpt_neox": GPTNeoXConfig(**SMALL, intermediate_size=32),
    "smollm3": SmolLM3Config(**SMALL, num_key_value_heads=2, intermediate_size=32, pad_token_id=0),
}  # fmt: skip


def held(cache: DynamicCache) -> int:
    return sum(t.numel() * t.itemsize for layer in cache.layers for t in (layer.keys, layer.values))


@pytest.mark.parametrize("name", CONFIGS)
def test_sizes_are_those_of_a_real_cache(name: str) -> None:
    config = CONFIGS[name]
    model, sizes = tiny_model(config), kv_cache(config, families.architecture(config), itemsize=4)
    for tokens in (5, 20, 21):
        cache = DynamicCache(config=model.config)
        with torch.no_grad():
            model(torch.arange(tokens)[None], past_key_values=cache, use_cache=True)
        assert sizes.bytes_at(tokens) == held(cache), tokens
    assert sizes.bytes_per_token == sizes.bytes_at(21) - sizes.bytes_at(20)


def test_sizes_worked_out_by_hand() -> None:
    llama2 = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32)
    sizes = kv_cache(llama2, families.architecture(llama2), itemsize=2)
    assert sizes.bytes_per_token == 32 * 2 * 32 * 128 * 2 == 524_288
    assert sizes.bytes_at(4096) == 2 * 2**30
    llama3 = LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8)
    assert kv_cache(llama3, families.architecture(llama3), itemsize=2).bytes_per_token == 131_072
    deepseek = DeepseekV3Config()  # 61 layers, latent 512, rotated part 64
    assert kv_cache(deepseek, families.architecture(deepseek), itemsize=2).bytes_per_token == 61 * 576 * 2
