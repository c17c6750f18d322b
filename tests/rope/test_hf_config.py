"""Models that already carry a scaling, configured as the checkpoints in the wild are: read right, then continued from
their true original window, or refused with the reason."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, DeepseekV3Config, LlamaConfig
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from skipwise.config import ScalingConfig
from skipwise.errors import SkipwiseError
from skipwise.models.forward import token_nll
from skipwise.models.load import apply
from skipwise.rope import hf_config
from skipwise.rope.scale import scale
from support.tiny import llama_config, tiny_model

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 8}
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
PHI3 = {
    **{"model_type": "phi3", "hidden_size": 3072, "num_attention_heads": 32, "num_key_value_heads": 32},
    **{"max_position_embeddings": 131_072, "original_max_position_embeddings": 4096, "rope_theta": 10_000.0},
    "sliding_window": 262_144,
}
LONG, SHORT = np.linspace(1.07, 64.9, 48).round(4).tolist(), np.linspace(1.0, 2.9, 48).round(4).tolist()

# name: (config.json, method, original window, window, factor)
WILD: dict[str, tuple[dict[str, Any], str, int, int, float]] = {
    "Llama-3.1-8B": (
        {
            **LLAMA,
            "max_position_embeddings": 131_072,
            "rope_theta": 500_000.0,
            "rope_scaling": {"factor": 8.0, **LLAMA3, "rope_type": "llama3"},
        },
        *("llama3", 8192, 131_072, 8.0),
    ),
    "Llama-3.2-1B": (
        {
            **{**LLAMA, "hidden_size": 2048, "head_dim": 64, "max_position_embeddings": 131_072},
            "rope_theta": 500_000.0,
            "rope_scaling": {"factor": 32.0, **LLAMA3, "rope_type": "llama3"},
        },
        *("llama3", 8192, 131_072, 32.0),
    ),
    "Qwen2.5-7B-Instruct with YaRN as its card says": (
        {
            **{"model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28, "num_key_value_heads": 4},
            **{"max_position_embeddings": 32_768, "rope_theta": 1_000_000.0, "max_window_layers": 28},
            **{"sliding_window": 131_072, "use_sliding_window": False},
            "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32_768, "type": "yarn"},
        },
        *("yarn", 32_768, 131_072, 4.0),
    ),
    "Phi-3-mini-128k": (
        {**PHI3, "rope_scaling": {"long_factor": LONG, "short_factor": SHORT, "type": "longrope"}},
        *("longrope", 4096, 131_072, 32.0),
    ),
    "DeepSeek-V3": (
        {
            **{"model_type": "deepseek_v3", "hidden_size": 7168, "num_attention_heads": 128, "qk_rope_head_dim": 64},
            **{"max_position_embeddings": 163_840, "rope_theta": 10_000},
            "rope_scaling": {
                **{"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0},
                **{"original_max_position_embeddings": 4096, "type": "yarn"},
            },
        },
        *("yarn", 4096, 163_840, 40.0),
    ),
    "gpt-oss-20b": (
        {
            **{"model_type": "gpt_oss", "hidden_size": 2880, "head_dim": 64, "num_attention_heads": 64},
            **{"max_position_embeddings": 131_072, "initial_context_length": 4096, "rope_theta": 150_000},
            "rope_scaling": {
                **{"beta_fast": 32.0, "beta_slow": 1.0, "factor": 32.0, "original_max_position_embeddings": 4096},
                **{"rope_type": "yarn", "truncate": False},
            },
        },
        *("yarn", 4096, 131_072, 32.0),
    ),
    "Olmo-3-7B": (
        {
            **{"model_type": "olmo3", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 4},
            **{"max_position_embeddings": 65_536, "rope_theta": 500_000, "sliding_window": 4096},
            "rope_scaling": {
                **{"attention_factor": 1.2079441541679836, "beta_fast": 32.0, "beta_slow": 1.0, "factor": 8.0},
                **{"original_max_position_embeddings": 8192, "rope_type": "yarn"},
            },
        },
        *("yarn", 8192, 65_536, 8.0),
    ),
    "deepseek-coder-6.7b": (
        {
            **{**LLAMA, "max_position_embeddings": 16_384, "rope_theta": 100_000},
            "rope_scaling": {"factor": 4.0, "type": "linear"},
        },
        *("linear", 16_384, 16_384, 4.0),
    ),
    "InternLM2.5 as llama": (
        {
            **{**LLAMA, "max_position_embeddings": 32_768, "rope_theta": 1_000_000},
            "rope_scaling": {"type": "dynamic", "factor": 2.0},
        },
        *("dynamic", 32_768, 65_536, 2.0),
    ),
}


def saved(values: dict[str, Any], folder: Path) -> PreTrainedConfig:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return AutoConfig.from_pretrained(folder)


def without_scaling(name: str) -> PreTrainedConfig:
    return AutoConfig.for_model(**{**WILD[name][0], "rope_scaling": None})


@pytest.fixture(params=["old rope_scaling", "new rope_parameters"])
def wild(request, tmp_path):
    """Reads a checkpoint's configuration as it was published, or as transformers 5 writes it again."""

    def read(name: str) -> PreTrainedConfig:
        config = saved(WILD[name][0], tmp_path / "old")
        if request.param == "old rope_scaling":
            return config
        config.save_pretrained(tmp_path / "new")
        assert "rope_parameters" in json.loads((tmp_path / "new/config.json").read_text())
        return AutoConfig.from_pretrained(tmp_path / "new")

    return read


@pytest.mark.parametrize("name", WILD)
def test_what_a_checkpoint_carries_is_read_as_transformers_computes_it(wild, name):
    _, method, original, window, factor = WILD[name]
    config = wild(name)
    carried = hf_config.carried(config)
    assert (carried.method, carried.original, carried.target / carried.original) == (method, original, factor)
    assert (hf_config.true_original_length(config), hf_config.window(config)) == (original, window)
    described = hf_config.describe(config)
    assert described.items() >= {"method": method, "factor": factor, "original_length": original}.items()
    nested = {"layer_type": "full_attention"} if hf_config.is_nested(config.rope_parameters) else {}
    kind = hf_config.parameters(config)["rope_type"]
    for length in (original // 2, original + 1, window):
        frequencies, attention = ROPE_INIT_FUNCTIONS[kind](config, seq_len=length, **nested)
        np.testing.assert_allclose(hf_config.inv_freq(config, length), frequencies.double().numpy(), rtol=2e-5)
        assert hf_config.attention_factor(config) == pytest.approx(attention)
    np.testing.assert_allclose(hf_config.inv_freq(config), hf_config.inv_freq(config, window))


@pytest.mark.parametrize("name", WILD)
def test_a_longer_window_alone_leaves_the_frequencies_as_they_are(wild, name):
    """`none`: to evaluate beyond the window. Phi-3's attention factor depends on its window unless it is written."""
    config = wild(name)
    longer = scale(config, "none", target_length=1_048_576)
    np.testing.assert_array_equal(hf_config.inv_freq(longer, 500_000), hf_config.inv_freq(config, 500_000))
    assert hf_config.attention_factor(longer) == pytest.approx(hf_config.attention_factor(config))
    if hf_config.carried(config).method == "longrope":
        _, attention = ROPE_INIT_FUNCTIONS["longrope"](longer, seq_len=500_000)
        assert attention == pytest.approx(hf_config.attention_factor(config))
        with pytest.raises(SkipwiseError, match="'longrope' RoPE changes with the length"):
            hf_config.refuse_training(longer)


@pytest.mark.parametrize(("name", "factor"), [("Llama-3.1-8B", 16.0), ("Llama-3.2-1B", 64.0)])
def test_llama3_grows_with_the_window(wild, name, factor):
    """Twice the window, twice the factor: the slowest pairs turn no further at its end than they did before."""
    config = wild(name)
    reached = hf_config.window(config)
    scaled = scale(config, "llama3", target_length=2 * reached)
    assert {"factor": factor, **LLAMA3}.items() <= scaled.rope_parameters.items()
    assert scaled.max_position_embeddings == 2 * reached
    np.testing.assert_allclose(hf_config.inv_freq(scaled)[-1] * 2 * reached, hf_config.inv_freq(config)[-1] * reached)
    np.testing.assert_array_equal(hf_config.inv_freq(scaled)[:10], hf_config.inv_freq(config)[:10])
    with pytest.raises(SkipwiseError, match=rf"must be above the model's present window \({reached} tokens\)"):
        scale(config, "llama3", target_length=reached)
    wider = scale(config, ScalingConfig(method="llama3", high_freq_factor=8.0), target_length=2 * reached)
    assert (wider.rope_parameters["high_freq_factor"], wider.rope_parameters["factor"]) == (8.0, factor)


def test_qwens_yarn_is_continued_from_the_window_before_it(wild):
    name = "Qwen2.5-7B-Instruct with YaRN as its card says"
    config = wild(name)
    plain = without_scaling(name)
    for method in ("yarn", "critical"):
        scaled = scale(config, method, target_length=262_144)
        direct = scale(plain, method, target_length=262_144)
        assert scaled.rope_parameters == direct.rope_parameters
        assert scaled.rope_parameters["factor"] == 8.0
        assert scaled.max_position_embeddings == 262_144
    assert scaled.rope_parameters["beta_slow"] == 2.75


def test_gpt_oss_keeps_its_borders(wild):
    scaled = scale(wild("gpt-oss-20b"), "yarn", target_length=262_144)
    wanted = {"factor": 64.0, "truncate": False, "original_max_position_embeddings": 4096, "rope_theta": 150_000.0}
    assert wanted.items() <= scaled.rope_parameters.items()
    frequencies, attention = ROPE_INIT_FUNCTIONS["yarn"](scaled)
    np.testing.assert_allclose(hf_config.inv_freq(scaled), frequencies.double().numpy(), rtol=2e-5)
    assert attention == pytest.approx(0.1 * math.log(64) + 1)


def test_deepseek_keeps_both_mscales(wild):
    scaled = scale(wild("DeepSeek-V3"), "yarn", target_length=327_680)
    assert {"factor": 80.0, "mscale": 1.0, "mscale_all_dim": 1.0}.items() <= scaled.rope_parameters.items()
    assert hf_config.attention_factor(scaled) == 1.0
    other = scale(
        wild("DeepSeek-V3"), ScalingConfig(mscale=0.8, mscale_all_dim=1.0), target_length=327_680
    ).rope_parameters
    assert (other["mscale"], other["mscale_all_dim"], other["factor"]) == (0.8, 1.0, 80.0)


def test_deepseeks_attention_scores_follow_when_a_live_model_is_scaled():
    """They carry the square of mscale, which a new rotary table alone would leave as it was."""
    yarn = {"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": 1.0, "rope_theta": 1e4}
    config = DeepseekV3Config(
        **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "moe_intermediate_size": 16},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "n_routed_experts": 4},
        **{"kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8},
        **{"num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "initializer_range": 0.2},
        max_position_embeddings=128,
        rope_parameters={**yarn, "original_max_position_embeddings": 64},
    )
    ids = torch.arange(90)[None]
    loaded = tiny_model(scale(config, "yarn", target_length=1024))
    applied = apply(tiny_model(config), "yarn", target_length=1024)
    torch.testing.assert_close(token_nll(applied, ids), token_nll(loaded, ids))
    usual = (8 + 8) ** -0.5 * (0.1 * math.log(16) + 1) ** 2
    assert applied.model.layers[1].self_attn.scaling == pytest.approx(usual)
    listed = ScalingConfig(method="longrope", factors=[1.0, 2.0, 4.0, 16.0])  # which has no mscale
    replaced = apply(tiny_model(config), listed, target_length=1024)
    alone = tiny_model(scale(config, listed, target_length=1024))
    torch.testing.assert_close(token_nll(replaced, ids), token_nll(alone, ids))
    assert replaced.model.layers[1].self_attn.scaling == (8 + 8) ** -0.5


def test_olmo3_scales_its_full_attention_alone(wild):
    config = wild("Olmo-3-7B")
    scaled = scale(config, "yarn", target_length=131_072)
    assert scaled.rope_parameters["sliding_attention"] == config.rope_parameters["sliding_attention"]
    assert scaled.rope_parameters["full_attention"]["factor"] == 16.0
    assert hf_config.attention_factor(scaled) == pytest.approx(0.1 * math.log(16) + 1)


def test_phi3s_lists_are_replaced_by_those_of_the_longer_window(wild):
    config = wild("Phi-3-mini-128k")
    longer = [2 * factor for factor in LONG]
    scaled = scale(config, ScalingConfig(method="longrope", factors=longer), target_length=262_144)
    written = scaled.rope_parameters
    assert written["short_factor"] == written["long_factor"] == longer
    assert (written["factor"], written["original_max_position_embeddings"]) == (64.0, 4096)
    assert written["attention_factor"] == pytest.approx(math.sqrt(1 + math.log(64) / math.log(4096)))
    assert (scaled.max_position_embeddings, scaled.original_max_position_embeddings) == (262_144, 4096)
    frequencies, attention = ROPE_INIT_FUNCTIONS["longrope"](scaled)
    np.testing.assert_allclose(hf_config.inv_freq(scaled), frequencies.double().numpy(), rtol=2e-5)
    assert hf_config.attention_factor(scaled) == attention
    hf_config.refuse_training(scaled)


def test_linear_needs_to_know_its_original_window(wild):
    config = wild("deepseek-coder-6.7b")
    with pytest.raises(SkipwiseError, match=r"'linear' scaling by 4 and does not say from which window; give model\."):
        scale(config, "linear", target_length=32_768)
    assert scale(config, "linear", target_length=32_768, original_length=4096).rope_parameters["factor"] == 8.0


@pytest.mark.parametrize("method", ["yarn", "ntk", "linear", "yarn_revised", "llama3"])
def test_dynamic_is_dropped_since_it_left_the_original_window_as_it_was(wild, method):
    config = wild("InternLM2.5 as llama")
    plain = without_scaling("InternLM2.5 as llama")
    scaled, direct = (scale(each, method, target_length=131_072) for each in (config, plain))
    assert scaled.rope_parameters == direct.rope_parameters
    assert scaled.max_position_embeddings == 131_072


@pytest.mark.parametrize(
    ("name", "method", "way"),
    [
        ("Llama-3.1-8B", "yarn", "extend it with 'llama3'"),
        ("Llama-3.1-8B", "ntk", "extend it with 'llama3'"),
        ("Llama-3.1-8B", "dynamic", "extend it with 'llama3'"),
        ("gpt-oss-20b", "yarn_revised", "extend it with 'yarn'"),
        ("DeepSeek-V3", "linear", "extend it with 'yarn'"),
        ("Phi-3-mini-128k", "ntk", "give the factors of the longer window"),
        ("Phi-3-mini-128k", "yarn_revised", "give the factors of the longer window"),
        ("deepseek-coder-6.7b", "yarn", "extend it with 'linear'"),
    ],
)
def test_another_method_would_scale_twice(wild, name, method, way):
    with pytest.raises(SkipwiseError, match=rf"already carries '.*'{method}' would scale it twice: {way}, or replace"):
        scale(wild(name), method, target_length=1_048_576)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "gpt-oss-20b", "Qwen2.5-7B-Instruct with YaRN as its card says"])
def test_a_list_replaces_whatever_a_model_carries(wild, name):
    config = wild(name)
    factors = np.linspace(1, 100, hf_config.rotary_dim(config) // 2).tolist()
    scaled = scale(config, ScalingConfig(method="longrope", factors=factors), target_length=524_288)
    np.testing.assert_allclose(hf_config.factors(scaled), factors)
    assert hf_config.carried(scaled).original == WILD[name][2]


def test_yarn_revised_is_known_again_and_continued():
    config = llama_config(window=2048, theta=1e5)
    first = LlamaConfig(**scale(config, "yarn_revised", target_length=8192).to_dict())
    assert hf_config.describe(first)["method"] == "yarn_revised"
    second, direct = (scale(each, "yarn_revised", target_length=32_768) for each in (first, config))
    assert second.rope_parameters == direct.rope_parameters
    assert second.rope_parameters["factor"] == 16.0
    with pytest.raises(SkipwiseError, match="already carries 'yarn_revised' scaling; 'yarn' would scale it twice"):
        scale(first, "yarn", target_length=32_768)
    other = scale(config, ScalingConfig(method="yarn_revised", beta_slow=2.0), target_length=8192)
    assert hf_config.describe(other)["method"] == "longrope"


def test_a_list_with_its_own_attention_factor_asks_for_the_next_one():
    given = {"method": "longrope", "factors": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]}
    own = scale(llama_config(window=2048), ScalingConfig(**given, attention_factor=1.0), target_length=8192)
    with pytest.raises(SkipwiseError, match=r"carries 'longrope' with its own attention_factor 1\.0"):
        scale(own, ScalingConfig(**given), target_length=16_384)
    usual = scale(llama_config(window=2048), ScalingConfig(**given), target_length=8192)
    again = scale(usual, ScalingConfig(**given), target_length=16_384)
    assert hf_config.attention_factor(again) == pytest.approx(math.sqrt(1 + math.log(8) / math.log(2048)))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"rope_type": "dynamic", "factor": 1.0, "alpha": 1000.0}, "RoPE type 'dynamic' with alpha is not known here"),
        ({"rope_type": "proportional", "partial_rotary_factor": 0.5}, "RoPE type 'proportional' is not known here"),
    ],
)
def test_a_scaling_that_is_not_known_is_refused(parameters, reason):
    config = llama_config(window=2048, rope_parameters={"rope_theta": 1e4, **parameters})
    with pytest.raises(SkipwiseError, match=reason):
        scale(config, "yarn", target_length=8192)
