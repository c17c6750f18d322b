"""RoPE scaling: parity with transformers' own frequencies, numbers worked out by hand, and what is refused."""

import copy
import json
import math

import numpy as np
import pytest
from transformers import (
    DeepseekV3Config,
    Gemma3Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    ModernBertConfig,
    Olmo3Config,
    Phi3Config,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from skipwise.config import ScalingConfig, validate
from skipwise.errors import SkipwiseError
from skipwise.rope import hf_config, methods
from skipwise.rope.scale import scale, sharpen
from support.tiny import llama_config

SHAPES = [  # head_dim, partial_rotary_factor, theta, original, target
    (64, 1.0, 10_000.0, 2048, 16_384),
    (64, 1.0, 100_000.0, 8192, 32_768),
    (128, 1.0, 500_000.0, 8192, 131_072),
    (128, 0.5, 10_000.0, 4096, 12_000),
    (80, 0.4, 10_000.0, 2048, 2_600),
    (96, 0.25, 1_000_000.0, 32_768, 1_048_576),
]


def config_of(head_dim: int, partial: float, theta: float, original: int) -> LlamaConfig:
    parameters = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": partial}
    return llama_config(window=original, head_dim=head_dim, hidden=4 * head_dim, rope_parameters=parameters)


def transformers_frequencies(config: PreTrainedConfig) -> tuple[np.ndarray, float]:
    frequencies, factor = ROPE_INIT_FUNCTIONS[config.rope_parameters["rope_type"]](config)
    return frequencies.double().numpy(), factor


@pytest.mark.parametrize(("head_dim", "partial", "theta", "original", "target"), SHAPES)
def test_linear_is_what_transformers_computes(head_dim, partial, theta, original, target):
    config = config_of(head_dim, partial, theta, original)
    scaled = scale(config, "linear", target_length=target)
    frequencies, factor = transformers_frequencies(scaled)
    ours = methods.Linear().inv_freq(int(head_dim * partial), theta, original, target)
    np.testing.assert_allclose(ours, frequencies, rtol=2e-6)
    np.testing.assert_array_equal(hf_config.inv_freq(scaled), ours)
    assert factor == methods.Linear().attention_scaling(original, target) == 1.0


@pytest.mark.parametrize(("head_dim", "partial", "theta", "original", "target"), SHAPES)
def test_ntk_is_what_transformers_computes_for_dynamic_at_the_target(head_dim, partial, theta, original, target):
    """transformers has no static NTK; `dynamic` with factor 1 and an input of `target` tokens is the same formula."""
    config = config_of(head_dim, partial, theta, original)
    dynamic = copy.deepcopy(config)
    dynamic.rope_parameters.update(rope_type="dynamic", factor=1.0)
    frequencies, _ = ROPE_INIT_FUNCTIONS["dynamic"](dynamic, seq_len=target)
    scaled = scale(config, "ntk", target_length=target)
    np.testing.assert_allclose(hf_config.inv_freq(scaled), frequencies.double().numpy(), rtol=1e-5)
    assert scaled.rope_parameters["rope_type"] == "default"
    assert set(scaled.rope_parameters) == {"rope_type", "rope_theta", "partial_rotary_factor"}


@pytest.mark.parametrize(("head_dim", "partial", "theta", "original", "target"), SHAPES)
@pytest.mark.parametrize(
    "given",
    [{}, {"beta_fast": 16.0}, {"beta_slow": 2.75}, {"beta_fast": 48.0, "beta_slow": 0.5, "attention_factor": 1.5}],
)
def test_yarn_is_what_transformers_computes(head_dim, partial, theta, original, target, given):
    scaled = scale(
        config_of(head_dim, partial, theta, original), ScalingConfig(method="yarn", **given), target_length=target
    )
    frequencies, factor = transformers_frequencies(scaled)
    scaling = methods.Yarn(**given)
    ours = scaling.inv_freq(int(head_dim * partial), theta, original, target)
    np.testing.assert_allclose(ours, frequencies, rtol=3e-6)
    np.testing.assert_array_equal(hf_config.inv_freq(scaled), ours)
    assert scaling.attention_scaling(original, target) == pytest.approx(factor)
    assert ("attention_factor" in scaled.rope_parameters) == ("attention_factor" in given)


@pytest.mark.parametrize("extra", [{"truncate": False}, {"mscale": 1.0, "mscale_all_dim": 0.707}])
def test_yarn_keys_of_other_families_are_what_transformers_computes(extra):
    scaled = llama_config(head_dim=64, hidden=256, window=16_384)
    scaled.rope_parameters = {**methods.Yarn(**extra).to_hf(64, 10_000.0, 2048, 16_384), "rope_theta": 10_000.0}
    frequencies, factor = transformers_frequencies(scaled)
    np.testing.assert_allclose(methods.Yarn(**extra).inv_freq(64, 10_000.0, 2048, 16_384), frequencies, rtol=3e-6)
    assert methods.Yarn(**extra).attention_scaling(2048, 16_384) == pytest.approx(factor)


def yarn_by_bisection(dim: int, theta: float, original: int, target: int, fast: float, slow: float) -> list[float]:
    """YaRN again, one pair at a time: the borders are searched for as the places where a pair makes so many turns."""

    def place(turns: float) -> float:
        left, right = -float(dim), float(dim)
        for _ in range(100):
            middle = (left + right) / 2
            made = original / (2 * math.pi * theta ** (2 * middle / dim))
            left, right = (middle, right) if made > turns else (left, middle)
        return left

    first, last = max(math.floor(place(fast)), 0), min(math.ceil(place(slow)), dim - 1)
    frequencies = []
    for pair in range(dim // 2):
        share = min(max((pair - first) / ((last - first) or 0.001), 0.0), 1.0)
        wavelength = theta ** (2 * pair / dim)
        frequencies.append((1 - share) / wavelength + share / (wavelength * target / original))
    return frequencies


@pytest.mark.parametrize(("head_dim", "partial", "theta", "original", "target"), SHAPES)
@pytest.mark.parametrize(("fast", "slow"), [(32.0, 1.0), (16.0, 2.75)])
def test_yarn_is_what_a_second_implementation_computes(head_dim, partial, theta, original, target, fast, slow):
    dim = int(head_dim * partial)
    ours = methods.Yarn(beta_fast=fast, beta_slow=slow).inv_freq(dim, theta, original, target)
    np.testing.assert_allclose(ours, yarn_by_bisection(dim, theta, original, target, fast, slow), rtol=1e-9)


def test_numbers_by_hand():
    # d = 4, theta = 10^4: 10^(-4·0/4) = 1 and 10^(-4·2/4) = 0.01; factor 8192 / 2048 = 4.
    np.testing.assert_allclose(methods.plain_inv_freq(4, 1e4), [1, 0.01])
    np.testing.assert_allclose(methods.Linear().inv_freq(4, 1e4, 2048, 8192), [0.25, 0.0025])
    # NTK: 10^4 · 4^(4/2) = 160,000, whose root is 400: the slowest pair is interpolated by 4, the fastest kept.
    assert methods.Ntk().base(4, 1e4, 2048, 8192) == pytest.approx(160_000)
    np.testing.assert_allclose(methods.Ntk().inv_freq(4, 1e4, 2048, 8192), [1, 0.0025])
    np.testing.assert_allclose(methods.Theta(1e6).inv_freq(4, 1e4, 2048, 8192), [1, 0.001])
    # YaRN, d = 8, theta = 10^4: pairs 1, 0.1, 0.01, 0.001; the pair with t turns is log10(2048 / (2 pi t)):
    # t = 32: log10(10.19) = 1.01 → 1; t = 1: log10(325.9) = 2.51 → 3; so pair 2 is half and half: (0.01 + 0.0025) / 2.
    np.testing.assert_allclose(methods.Yarn().inv_freq(8, 1e4, 2048, 8192), [1, 0.1, 0.00625, 0.00025])
    # 0.1 · ln 4 + 1 = 0.1 · 1.386294 + 1
    assert methods.Yarn().attention_scaling(2048, 8192) == pytest.approx(1.1386294)


@pytest.mark.parametrize(
    "scaling", [methods.Unscaled(), methods.Linear(), methods.Ntk(), methods.Yarn(), methods.Theta(1e5)]
)
def test_factor_one_changes_nothing(scaling):
    plain = methods.plain_inv_freq(64, 1e5)
    np.testing.assert_allclose(scaling.inv_freq(64, 1e5, 8192, 8192), plain, rtol=1e-12)
    assert scaling.attention_scaling(8192, 8192) == 1.0


@pytest.mark.parametrize(("method", "given"), [("linear", {}), ("ntk", {}), ("yarn", {}), ("theta", {"theta": 5e5})])
def test_scaled_configuration_keeps_theta_and_the_window_when_saved(tmp_path, method, given):
    config = llama_config(window=2048, theta=100_000.0)
    before = copy.deepcopy(config.to_dict())
    scaled = scale(config, ScalingConfig(method=method, **given), target_length=16_384)
    assert config.to_dict() == before, "the given configuration was changed"
    scaled.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["max_position_embeddings"] == 16_384
    assert isinstance(saved["max_position_embeddings"], int)
    wanted = {"linear": 1e5, "yarn": 1e5, "theta": 5e5, "ntk": 1e5 * 8 ** (16 / 14)}
    assert saved["rope_parameters"]["rope_theta"] == pytest.approx(wanted[method])
    again = LlamaConfig.from_pretrained(tmp_path)
    assert again.rope_parameters == scaled.rope_parameters
    np.testing.assert_array_equal(hf_config.inv_freq(again), hf_config.inv_freq(scaled))
    assert hf_config.window(again) == 16_384
    # A new base belongs to the model, and its whole window with it; a factor is told apart from the original window.
    assert hf_config.true_original_length(again) == (2048 if method in ("linear", "yarn") else 16_384)


def test_rope_parameters_without_theta_would_lose_it():
    """The premise of the test above: transformers falls back to its default base without a word."""
    lost = llama_config(rope_parameters={"rope_type": "linear", "factor": 2.0})
    assert lost.rope_parameters["rope_theta"] == 10_000.0


def test_none_changes_the_window_only():
    config = llama_config(window=2048)
    scaled = scale(config, "none", target_length=8192)
    assert scaled.max_position_embeddings == 8192
    scaled.max_position_embeddings = 2048
    assert scaled.to_dict() == config.to_dict()


@pytest.mark.parametrize("kind", [Gemma3TextConfig, Olmo3Config, ModernBertConfig])
def test_nested_parameters_are_scaled_for_full_attention_only(kind):
    config = kind(max_position_embeddings=4096)
    before = copy.deepcopy(config.rope_parameters)
    scaled = scale(config, "linear", target_length=16_384)
    assert scaled.rope_parameters["sliding_attention"] == before["sliding_attention"]
    theta = before["full_attention"]["rope_theta"]
    assert scaled.rope_parameters["full_attention"] == {"rope_type": "linear", "rope_theta": theta, "factor": 4.0}
    assert config.rope_parameters == before
    frequencies, _ = ROPE_INIT_FUNCTIONS["linear"](scaled, layer_type="full_attention")
    np.testing.assert_allclose(hf_config.inv_freq(scaled), frequencies.double().numpy(), rtol=2e-6)


def test_the_text_part_of_a_composite_model_is_scaled():
    config = Gemma3Config(text_config={"max_position_embeddings": 4096})
    scaled = scale(config, "ntk", target_length=8192)
    theta = scaled.text_config.rope_parameters["full_attention"]["rope_theta"]
    assert theta == pytest.approx(1e6 * 2 ** (256 / 254))
    assert scaled.text_config.max_position_embeddings == 8192
    assert config.text_config.max_position_embeddings == 4096


def test_rotary_dimension_is_not_always_the_head():
    assert hf_config.rotary_dim(GPTNeoXConfig(hidden_size=512, num_attention_heads=8, rotary_pct=0.25)) == 16
    assert hf_config.rotary_dim(DeepseekV3Config(qk_rope_head_dim=32)) == 32
    assert hf_config.rotary_dim(llama_config(hidden=64, head_dim=32)) == 32
    scaled = scale(GPTNeoXConfig(hidden_size=512, num_attention_heads=8), "ntk", target_length=8192)
    assert scaled.rope_parameters["rope_theta"] == pytest.approx(10_000 * 4 ** (16 / 14))
    assert scaled.rope_parameters["partial_rotary_factor"] == 0.25


def test_older_forms_are_read():
    config = LlamaConfig(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}, max_position_embeddings=4096)
    assert hf_config.parameters(config)["rope_theta"] == 5e5
    assert scale(config, "linear", target_length=8192, original_length=2048).rope_parameters["factor"] == 4.0

    class Older(PreTrainedConfig):
        model_type = "older"

    plain = Older(rope_theta=5e5, max_position_embeddings=2048, head_dim=64)
    scaled = scale(plain, "ntk", target_length=4096)
    assert scaled.rope_theta == scaled.rope_parameters["rope_theta"] == pytest.approx(5e5 * 2 ** (64 / 62))
    assert plain.rope_theta == 5e5


def test_yarn_is_extended_from_its_true_original_window():
    config = llama_config(window=2048, theta=1e5)
    first = scale(config, ScalingConfig(beta_fast=24.0), target_length=8192)
    second = scale(first, "yarn", target_length=32_768)
    direct = scale(config, ScalingConfig(beta_fast=24.0), target_length=32_768)
    assert second.rope_parameters == direct.rope_parameters
    assert second.rope_parameters["factor"] == 16.0
    other = scale(first, ScalingConfig(beta_fast=16.0), target_length=32_768)
    assert other.rope_parameters["beta_fast"] == 16.0


def test_yarn_with_its_own_attention_factor_asks_for_the_next_one():
    config = llama_config(window=2048)
    usual = ScalingConfig(attention_factor=0.1 * math.log(4) + 1)
    longer = scale(scale(config, usual, target_length=8192), "yarn", target_length=16_384)
    assert "attention_factor" not in longer.rope_parameters
    odd = scale(config, ScalingConfig(attention_factor=1.0), target_length=8192)
    with pytest.raises(SkipwiseError, match=r"own attention_factor 1\.0"):
        scale(odd, "yarn", target_length=16_384)
    kept = scale(odd, ScalingConfig(attention_factor=1.0), target_length=16_384)
    assert kept.rope_parameters["attention_factor"] == 1.0


@pytest.mark.parametrize("extra", [{"truncate": False}, {"mscale": 1.0, "mscale_all_dim": 0.7}])
def test_yarn_of_other_families_keeps_its_keys_when_extended(extra):
    config = llama_config(window=8192, rope_parameters=methods.Yarn(**extra).to_hf(16, 1e4, 2048, 8192))
    scaled = scale(config, "yarn", target_length=16_384)
    assert {**extra, "factor": 8.0}.items() <= scaled.rope_parameters.items()


def test_linear_is_extended_from_its_true_original_window():
    config = llama_config(window=2048)
    twice = scale(scale(config, "linear", target_length=4096), "linear", target_length=16_384)
    assert twice.rope_parameters["factor"] == 8.0
    unknown = llama_config(window=4096, rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(SkipwiseError, match=r"does not say from which window; give model\.original_length"):
        scale(unknown, "linear", target_length=16_384)
    known = scale(unknown, "linear", target_length=16_384, original_length=2048)
    assert known.rope_parameters["factor"] == 8.0


def test_ntk_twice_is_ntk_once():
    config = llama_config(window=2048)
    twice = scale(scale(config, "ntk", target_length=4096), "ntk", target_length=16_384)
    once = scale(config, "ntk", target_length=16_384)
    assert twice.rope_parameters["rope_theta"] == pytest.approx(once.rope_parameters["rope_theta"])


def test_phi3_takes_a_new_base_only_and_is_not_scaled_twice():
    config = Phi3Config(max_position_embeddings=4096, original_max_position_embeddings=4096)
    with pytest.raises(SkipwiseError, match=r"'phi3' does not take 'yarn' scaling .*; use ntk"):
        scale(config, "yarn", target_length=16_384)
    once = scale(config, "ntk", target_length=65_536)
    twice = scale(scale(config, "ntk", target_length=16_384), "ntk", target_length=65_536)
    assert twice.rope_parameters["rope_theta"] == pytest.approx(once.rope_parameters["rope_theta"])


def test_a_family_that_loses_a_scaling_when_saved_is_refused():
    class Stubborn(LlamaConfig):
        def standardize_rope_params(self):
            self.rope_parameters = {"rope_type": "default", "rope_theta": 1e4}

    with pytest.raises(SkipwiseError, match="does not take 'linear' scaling: it comes back as 'default'"):
        scale(Stubborn(max_position_embeddings=2048), "linear", target_length=8192)


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "factor": 2.0,
    "short_factor": [1.0] * 8,
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 2048,
}


@pytest.mark.parametrize(
    ("carried", "method", "reason"),
    [
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, "ntk", "already carries 'linear'"),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}, "yarn", "scale it twice: extend it with 'linear'"),
        (LLAMA3, "yarn", "already carries 'llama3'"),
        (LLAMA3, "ntk", "already carries 'llama3'"),
        (LONGROPE, "ntk", "scale it twice: give the factors of the longer window"),
        (methods.Yarn().to_hf(16, 1e4, 2048, 8192), "ntk", "scale it twice: extend it with 'yarn'"),
    ],
)
def test_a_second_scaling_is_refused(carried, method, reason):
    config = llama_config(window=16_384, rope_parameters=dict(carried))
    with pytest.raises(SkipwiseError, match=reason):
        scale(config, method, target_length=131_072)


@pytest.mark.parametrize("target", [1024, 2048])
def test_a_target_within_the_original_window_is_an_error(target):
    with pytest.raises(SkipwiseError, match=rf"target_length \({target}\) must be above the original window \(2048"):
        scale(llama_config(window=2048), target_length=target)


def test_no_rope_is_an_error():
    with pytest.raises(SkipwiseError, match="'gpt2' has no RoPE"):
        scale(GPT2Config(), target_length=8192)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"method": "linear", "beta_fast": 16}, "'linear' does not take beta_fast; it takes no parameters"),
        ({"method": "yarn", "theta": 1e6}, "'yarn' does not take theta; it takes beta_fast"),
        ({"method": "ntk", "theta": 1e6, "beta_slow": 2}, "does not take beta_slow, theta"),
        ({"method": "none", "attention_factor": 1.0}, "does not take attention_factor"),
        ({"method": "theta"}, "needs the new base"),
        ({"method": "theta", "theta": 0.5}, r"scaling\.theta = 0\.5: expected a number above 1"),
        ({"method": "yarn", "beta_fast": -1}, r"scaling\.beta_fast = -1"),
        ({"method": "yarn", "beta_fast": 1, "beta_slow": 2}, "must be above beta_slow"),
        ({"method": "yarn", "attention_factor": float("nan")}, "attention_factor = nan"),
    ],
)
def test_parameters_that_do_not_fit_are_named(given, reason):
    with pytest.raises(SkipwiseError, match=reason):
        methods.from_config(validate(ScalingConfig, given, "scaling"))


def test_an_unknown_method_is_an_error():
    with pytest.raises(SkipwiseError, match="method"):
        scale(llama_config(), "dynamics", target_length=8192)


def test_describe():
    config = llama_config(window=2048)
    assert hf_config.describe(config) is None
    assert hf_config.describe(scale(config, "ntk", target_length=8192)) is None
    assert hf_config.describe(scale(config, ScalingConfig(beta_slow=2.0), target_length=8192)) == {
        "method": "yarn",
        "factor": 4.0,
        "beta_slow": 2.0,
        "theta": 10_000.0,
        "original_length": 2048,
    }


def test_lengths_may_be_written_as_texts() -> None:
    config = llama_config(window=64)
    assert scale(config, "yarn", target_length="1k").to_dict() == scale(config, "yarn", target_length=1024).to_dict()
    assert scale(config, target_length="1k", original_length="128").rope_parameters["factor"] == 8
    for value in ("lots", "", 256.0, True, None, [256]):
        with pytest.raises(
            SkipwiseError, match=r"^target_length .*: expected a number of tokens, e\.g\. 32k or 32768$"
        ):
            scale(config, target_length=value)


@pytest.mark.parametrize("method", ["yarn", "critical", "yarn_revised"])
def test_sharpening_multiplies_the_factor_on_cos_and_sin_alone(method: str) -> None:
    """As transformers computes it: 0.1·ln 16 + 1 = 1.2773 becomes 1.5327 with 1.2."""
    plain = scale(llama_config(max_position_embeddings=256), method, target_length=4096)
    sharp = copy.deepcopy(plain)
    sharpen(sharp, 1.2)
    kind = plain.rope_parameters["rope_type"]
    (before, one), (after, other) = (ROPE_INIT_FUNCTIONS[kind](config, "cpu", 4096) for config in (plain, sharp))
    assert other == pytest.approx(1.2 * one)
    assert method == "yarn_revised" or other == pytest.approx(1.53271, abs=1e-5)
    assert (before == after).all()
    assert hf_config.attention_factor(sharp) == pytest.approx(other)
    assert sharp.rope_parameters.get("long_mscale", other) == pytest.approx(other)  # what vLLM reads


def test_sharpening_changes_the_layers_of_the_whole_window_alone() -> None:
    config = scale(Gemma3TextConfig(max_position_embeddings=8192), "yarn", target_length=32_768)
    sliding = copy.deepcopy(config.rope_parameters["sliding_attention"])
    sharpen(config, 1.5)
    assert config.rope_parameters["full_attention"]["attention_factor"] == pytest.approx(1.5 * (0.1 * math.log(4) + 1))
    assert config.rope_parameters["sliding_attention"] == sliding


def test_a_scaling_without_an_attention_factor_is_not_sharpened() -> None:
    config = scale(llama_config(), "linear", target_length=4096)
    with pytest.raises(SkipwiseError, match=r"training\.sharpen=1\.2: 'linear' has no attention factor"):
        sharpen(config, 1.2)
