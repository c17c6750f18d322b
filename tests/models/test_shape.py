"""`ModelShape` against the parameters of transformers' own classes, and against sizes worked out by hand."""

import pytest
from transformers import DeepseekV3Config, FalconConfig, LlamaConfig

from skipwise.models.shape import ModelShape
from support import family_configs
from support.family_configs import CONFIGS
from support.tiny import tiny_model


@pytest.mark.parametrize(
    "family", [name for name in CONFIGS if name not in ("falcon", "gpt_neox", "phi3", "deepseek_v3")]
)
def test_widths_are_those_of_the_projections(family: str) -> None:
    config = family_configs.config(family)
    shape, model = ModelShape.of(config), tiny_model(config)
    attention = model.get_decoder().layers[0].self_attn
    assert attention.q_proj.weight.shape == (shape.heads * shape.key_width, shape.hidden)
    assert attention.k_proj.weight.shape == (shape.key_heads * shape.key_width, shape.hidden)
    assert attention.v_proj.weight.shape == (shape.key_heads * shape.value_width, shape.hidden)
    assert model.get_output_embeddings().weight.shape == (shape.vocabulary, shape.hidden)
    assert len(model.get_decoder().layers) == shape.layers


def test_latent_attention_and_shared_keys() -> None:
    deepseek = ModelShape.of(DeepseekV3Config())
    assert (deepseek.key_width, deepseek.value_width, deepseek.latent) == (128 + 64, 128, 512 + 64)
    assert ModelShape.of(FalconConfig(multi_query=True, new_decoder_architecture=False)).key_heads == 1
    plain = ModelShape.of(LlamaConfig(hidden_size=4096, num_attention_heads=32, num_key_value_heads=8))
    assert (plain.key_width, plain.key_heads, plain.latent) == (128, 8, None)
