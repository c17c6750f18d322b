"""What model families allow, probed on their configurations."""

import pytest
from transformers import (
    BloomConfig,
    CodeGenConfig,
    Cohere2Config,
    DeepseekV3Config,
    Exaone4Config,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    GPT2Config,
    GPTJConfig,
    GraniteMoeHybridConfig,
    MambaConfig,
    MistralConfig,
    MptConfig,
    OPTConfig,
    Qwen2Config,
    Qwen3NextConfig,
    RecurrentGemmaConfig,
    SmolLM3Config,
    T5Config,
)

from skipwise.errors import SkipwiseError
from skipwise.models import families
from support.tiny import llama_config


def test_a_plain_model():
    found = families.architecture(llama_config(layers=3, theta=5e5))
    assert (found.family, found.rotary_dim, found.theta, found.layers) == ("llama", 16, 5e5, 3)
    assert found.sliding_layers == found.nope_layers == found.linear_layers == found.notes == ()
    assert found.sliding_window is None


def test_sliding_layers_are_told():
    layers = ["sliding_attention", "full_attention"] * 2
    shared = families.architecture(Gemma2Config(num_hidden_layers=4, layer_types=layers, sliding_window=512))
    assert shared.sliding_layers == (0, 2)
    assert shared.sliding_window == 512
    assert "2 of 4 layers attend within 512 tokens" in shared.notes[0]
    assert "share the RoPE of the others" in shared.notes[1]
    nested = families.architecture(Gemma3Config(text_config={"num_hidden_layers": 4, "layer_types": layers}))
    assert len(nested.notes) == 1
    assert families.architecture(MistralConfig(num_hidden_layers=2, sliding_window=4096)).sliding_layers == (0, 1)
    assert families.architecture(MistralConfig(num_hidden_layers=2, sliding_window=None)).sliding_layers == ()
    assert families.architecture(Qwen2Config(sliding_window=4096, use_sliding_window=False)).sliding_layers == ()


def test_layers_without_rope_or_attention_are_told():
    found = families.architecture(SmolLM3Config(num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0]))
    assert found.nope_layers == (3,)
    assert "1 of 4 layers have no RoPE" in found.notes[0]
    hybrid = families.architecture(Qwen3NextConfig(num_hidden_layers=4))
    assert hybrid.linear_layers == (0, 1, 2)
    assert "3 of 4 layers have no softmax attention" in hybrid.notes[0]
    assert "latent attention" in families.architecture(DeepseekV3Config()).notes[0]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (BloomConfig(), "'bloom' uses ALiBi"),
        (MptConfig(), "'mpt' uses ALiBi"),
        (FalconConfig(alibi=True), "'falcon' uses ALiBi"),
        (GPT2Config(), r"'gpt2' has no RoPE.*learned or absent"),
        (OPTConfig(), r"'opt' has no RoPE.*learned or absent"),
        (MambaConfig(), "state-space"),
        (GPTJConfig(), "table of n_positions rows fixed in its code"),
        (CodeGenConfig(), "table of n_positions rows fixed in its code"),
        (Cohere2Config(), "'cohere2' rotates only its sliding-window layers"),
        (Exaone4Config(), "'exaone4' rotates only its sliding-window layers"),
        (GraniteMoeHybridConfig(), "position_embedding_type None, not RoPE"),
        (RecurrentGemmaConfig(), "no full-attention layer"),
        (T5Config(), "encoder-decoder"),
    ],
)
def test_refusals_say_why(config, reason):
    with pytest.raises(SkipwiseError, match=reason):
        families.architecture(config)


def test_falcon_with_rope_and_exaone_without_sliding_layers_are_welcome():
    assert families.refusal(FalconConfig()) is None
    assert families.refusal(Exaone4Config(num_hidden_layers=2, layer_types=["full_attention"] * 2)) is None
