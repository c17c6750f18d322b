"""Scaling methods beside transformers' own frequencies, a second implementation, and numbers worked out by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from skipwise.config import RunConfig, ScalingConfig, TrainingConfig, validate
from skipwise.errors import SkipwiseError
from skipwise.models.forward import greedy, token_nll
from skipwise.models.load import apply
from skipwise.rope import hf_config, methods
from skipwise.rope.scale import scale
from skipwise.training.trainer import train
from support.tiny import llama_config, tiny_model

SHAPES = [  # head_dim, partial_rotary_factor, theta, original, target
    (64, 1.0, 10_000.0, 2048, 16_384),
    (128, 1.0, 500_000.0, 8192, 131_072),
    (128, 0.5, 10_000.0, 4096, 12_000),
    (80, 0.4, 10_000.0, 2048, 2_600),
    (96, 0.25, 1_000_000.0, 32_768, 1_048_576),
]
METHODS: list[dict[str, Any]] = [
    {"method": "linear"},
    {"method": "dynamic"},
    {"method": "yarn", "mscale": 1.0, "mscale_all_dim": 0.707, "truncate": False},
    {"method": "yarn_revised"},
    {"method": "yarn_revised", "beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 1.25},
    {"method": "critical"},
    {"method": "critical", "beta_slow": 3.5, "truncate": False},
    {"method": "llama3"},
    {"method": "llama3", "low_freq_factor": 2.0, "high_freq_factor": 16.0},
    {"method": "longrope"},
    {"method": "longrope", "attention_factor": 1.0},
]


def config_of(head_dim: int, partial: float, theta: float, original: int) -> LlamaConfig:
    parameters = {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": partial}
    return llama_config(window=original, head_dim=head_dim, hidden=4 * head_dim, rope_parameters=parameters)


def wanted(given: dict[str, Any], dim: int) -> ScalingConfig:
    """With a list of factors of the right length where the method takes one."""
    factors = {"factors": np.linspace(1, 9, dim // 2).tolist()} if given["method"] == "longrope" else {}
    return ScalingConfig(**given, **factors)


@pytest.mark.parametrize("given", METHODS, ids=str)
@pytest.mark.parametrize(("head_dim", "partial", "theta", "original", "target"), SHAPES)
def test_frequencies_are_what_transformers_computes(head_dim, partial, theta, original, target, given):
    dim = int(head_dim * partial)
    asked = wanted(given, dim)
    scaled = scale(config_of(head_dim, partial, theta, original), asked, target_length=target)
    kind = scaled.rope_parameters["rope_type"]
    for length in (original // 2, original, original + 1, (original + target) // 2, target):
        frequencies, factor = ROPE_INIT_FUNCTIONS[kind](scaled, seq_len=length)
        np.testing.assert_allclose(hf_config.inv_freq(scaled, length), frequencies.double().numpy(), rtol=2e-5)
        assert hf_config.attention_factor(scaled) == pytest.approx(factor)
    scaling = methods.from_config(asked)
    ours = scaling.inv_freq(dim, theta, original, target)
    np.testing.assert_allclose(ours, frequencies.double().numpy(), rtol=2e-5)
    np.testing.assert_allclose(hf_config.inv_freq(scaled), ours, rtol=1e-12)
    np.testing.assert_allclose(hf_config.factors(scaled), methods.plain_inv_freq(dim, theta) / ours, rtol=1e-12)
    assert scaling.attention_scaling(original, target) == pytest.approx(factor)


@pytest.mark.parametrize("given", METHODS, ids=str)
def test_a_real_model_holds_these_frequencies(tmp_path, given):
    scaled = scale(llama_config(window=64, theta=5e4), wanted(given, 16), target_length=512)
    scaled.save_pretrained(tmp_path)
    small = tiny_model(LlamaConfig.from_pretrained(tmp_path))
    rotary = small.model.rotary_emb
    assert isinstance(rotary, LlamaRotaryEmbedding)
    np.testing.assert_allclose(rotary.inv_freq.numpy(), hf_config.inv_freq(scaled, 1), rtol=2e-6)
    assert rotary.attention_scaling == pytest.approx(hf_config.attention_factor(scaled))
    rotary(torch.zeros(1), torch.arange(512)[None])  # an input that fills the target
    np.testing.assert_allclose(rotary.inv_freq.numpy(), hf_config.inv_freq(scaled), rtol=2e-5)


def revised_by_wavelength(dim: int, theta: float, original: int, target: int, fast: float, slow: float) -> list[float]:
    """What PoSE's authors trained, one pair at a time: the wavelength grows in proportion to the share of the blend."""
    border = [dim / 2 * math.log(original / turns / math.tau, theta) for turns in (fast, slow)]
    first, last = max(math.floor(border[0]), 0), min(math.ceil(border[1]), dim - 1)
    wavelengths = []
    for pair in range(dim // 2):
        share = min(max((pair - first) / ((last - first) or 0.001), 0.0), 1.0)
        plain = math.tau * theta ** (2 * pair / dim)
        wavelengths.append((1 - share) * plain + share * plain * target / original)
    return [math.tau / wavelength for wavelength in wavelengths]


@pytest.mark.parametrize(("head_dim", "partial", "theta", "original", "target"), SHAPES)
def test_yarn_revised_blends_wavelengths(head_dim, partial, theta, original, target):
    dim = int(head_dim * partial)
    ours = methods.YarnRevised(beta_fast=24.0, beta_slow=2.0).inv_freq(dim, theta, original, target)
    np.testing.assert_allclose(ours, revised_by_wavelength(dim, theta, original, target, 24, 2), rtol=1e-9)


def test_yarn_and_its_revision_agree_outside_the_blend():
    yarn, revised = (kind().inv_freq(128, 1e4, 2048, 16_384) for kind in (methods.Yarn, methods.YarnRevised))
    share = methods.Yarn().interpolated(128, 1e4, 2048)
    ends = (share == 0) | (share == 1)
    np.testing.assert_allclose(yarn[ends], revised[ends])
    assert (revised[~ends] < yarn[~ends]).all(), (
        "the mean of wavelengths turns more slowly than the mean of frequencies"
    )
    assert (~ends).sum() > 20


def test_numbers_by_hand():
    # d = 8, theta = 10^4: pairs 1, 0.1, 0.01, 0.001; YaRN's share of pair 2 is a half (see test_rope.py), factor 4.
    np.testing.assert_allclose(methods.YarnRevised().factors(8, 1e4, 2048, 8192), [1, 1, 2.5, 4])
    np.testing.assert_allclose(methods.YarnRevised().inv_freq(8, 1e4, 2048, 8192), [1, 0.1, 0.004, 0.00025])
    # The pair with 2.75 turns is log10(2048 / (2 pi 2.75)) = 2.07, rounded up 3: the same blend. With 4 turns: 1.91, so
    # pair 2 is interpolated fully.
    np.testing.assert_allclose(
        methods.Critical().inv_freq(8, 1e4, 2048, 8192), methods.Yarn().inv_freq(8, 1e4, 2048, 8192)
    )
    np.testing.assert_allclose(methods.Critical(beta_slow=4).inv_freq(8, 1e4, 2048, 8192), [1, 0.1, 0.0025, 0.00025])
    # Llama 3: turns in 2048 positions are 326, 32.6, 3.26, 0.326; kept share of pair 2: (3.2595 - 1) / 3 = 0.75316;
    # 0.01 · (0.75316 + 0.24684 / 4) = 0.0081487.
    np.testing.assert_allclose(methods.Llama3().inv_freq(8, 1e4, 2048, 8192), [1, 0.1, 0.0081487, 0.00025], rtol=1e-5)
    # Dynamic, d = 4: 8192 tokens, factor 4: 4·4 - 3 = 13; base 10^4·13² = 1,690,000, whose root is 1300.
    np.testing.assert_allclose(methods.Dynamic().inv_freq(4, 1e4, 2048, 8192), [1, 1 / 1300])
    # 4096 tokens: 4·2 - 3 = 5; 10^4·25 = 500². Within the window: plain.
    np.testing.assert_allclose(methods.Dynamic().inv_freq_at(4, 1e4, 2048, 8192, 4096), [1, 1 / 500])
    np.testing.assert_allclose(methods.Dynamic().inv_freq_at(4, 1e4, 2048, 8192, 100), [1, 0.01])
    listed = methods.Longrope((1.0, 4.0), (1.0, 2.0))
    np.testing.assert_allclose(listed.inv_freq(4, 1e4, 2048, 8192), [1, 0.0025])
    np.testing.assert_allclose(listed.inv_freq_at(4, 1e4, 2048, 8192, 2048), [1, 0.005])
    # √(1 + ln 4 / ln 2048) = √(1 + 2 / 11)
    assert listed.attention_scaling(2048, 8192) == pytest.approx(math.sqrt(13 / 11))
    # mscale 2 over 1, ln 4 = 1.386294: 1.2772589 / 1.1386294
    assert methods.Yarn(mscale=2.0, mscale_all_dim=1.0).attention_scaling(2048, 8192) == pytest.approx(1.1217511)


@pytest.mark.parametrize(
    "scaling",
    [
        methods.Dynamic(),
        methods.YarnRevised(),
        methods.Critical(),
        methods.Llama3(),
        methods.Longrope((1.0,) * 32),
    ],
    ids=lambda scaling: type(scaling).__name__,
)
def test_factor_one_changes_nothing(scaling):
    np.testing.assert_allclose(scaling.inv_freq(64, 1e5, 8192, 8192), methods.plain_inv_freq(64, 1e5), rtol=1e-12)
    assert scaling.attention_scaling(8192, 8192) == 1.0


@pytest.mark.parametrize(("dim", "theta", "original", "critical"), [(128, 5e5, 8192, 30), (96, 1e4, 2048, 25)])
def test_critical_starts_where_longrope2_found_the_critical_dimension(dim, theta, original, critical):
    """Within half a pair of Llama-3-8B's and Phi-3-mini's."""
    scaling = methods.Critical(truncate=False)
    share = scaling.interpolated(dim, theta, original)
    assert abs(int((share < 1).sum()) - critical) <= 1
    assert scaling._pair(2.75, dim, theta, original) == pytest.approx(critical, abs=0.2)
    assert (methods.Yarn().interpolated(dim, theta, original) < 1).sum() > critical + 3


@pytest.mark.parametrize("method", ["yarn", "critical", "yarn_revised", "llama3"])
def test_slower_pairs_are_stretched_at_least_as_much(method):
    scaled = scale(llama_config(window=2048, head_dim=128), method, target_length=32_768)
    stretched = hf_config.factors(scaled)
    assert (np.diff(stretched) >= -1e-9).all()
    assert stretched[0] == pytest.approx(1)
    assert stretched[-1] == pytest.approx(16)


def test_lists_are_written_for_every_loader(tmp_path):
    scaled = scale(llama_config(window=2048, theta=1e5), "yarn_revised", target_length=8192)
    scaled.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    attention = pytest.approx(0.1 * math.log(4) + 1)
    assert saved["rope_type"] == "longrope"
    assert saved["short_factor"] == saved["long_factor"] == pytest.approx(hf_config.factors(scaled))
    assert saved["attention_factor"] == saved["short_mscale"] == saved["long_mscale"] == attention
    assert (saved["factor"], saved["original_max_position_embeddings"], saved["rope_theta"]) == (4.0, 2048, 1e5)
    assert hf_config.window(LlamaConfig.from_pretrained(tmp_path)) == 8192


# Parameters and files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["[1.0, 2, 3.5]", '{"factors": [1, 2, 3.5], "target_length": 8192}', "1.0\n2\n3.5\n", "1 2 3.5"]
)
def test_factors_are_read_from_a_file(tmp_path, text):
    (tmp_path / "factors").write_text(text)
    config = validate(ScalingConfig, {"method": "longrope", "factors": str(tmp_path / "factors")})
    assert config.factors == [1.0, 2.0, 3.5], "the run's configuration keeps the numbers, not the name of the file"
    assert methods.from_config(config) == methods.Longrope((1.0, 2.0, 3.5))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, r"scaling\.factors = .*cannot read this file of factors \(No such file or directory\)"),
        ("", "0 RoPE factors"),
        ("1.0\ntwo\n", "holds no list of numbers .*'two'.*; expected a JSON list"),
        ('{"long_factor": [1]}', "holds no list of numbers .*expected a JSON list, a JSON object with 'factors'"),
        ("[1, [2]]", "holds no list of numbers"),
        ("3", "holds no list of numbers"),
        ("1 0 2", r"scaling\.factors = 0\.0: expected a number above 0"),
        ("1 nan 2", r"scaling\.factors = nan"),
        ("1 2 3", r"3 RoPE factors, but the model rotates 16 dimensions of a head and needs 8"),
    ],
)
def test_bad_files_of_factors_are_one_clear_line(tmp_path, text, reason):
    if text is not None:
        (tmp_path / "factors").write_text(text)
    values = {"target_length": 256, "scaling": {"method": "longrope", "factors": str(tmp_path / "factors")}}
    with pytest.raises(SkipwiseError, match=reason):
        scale(llama_config(window=64), validate(RunConfig, values).scaling, target_length=256)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"method": "longrope"}, "'longrope' needs factors: scaling.factors=FILE or a list; `skipwise search`"),
        ({"method": "yarn", "factors": [1.0]}, "'yarn' does not take factors"),
        ({"method": "dynamic", "attention_factor": 1.0}, "'dynamic' does not take attention_factor; .* no parameters"),
        ({"method": "yarn", "mscale": 1.0}, "mscale and scaling.mscale_all_dim have an effect together only"),
        ({"method": "yarn_revised", "mscale": 1.0}, "'yarn_revised' does not take mscale"),
        ({"method": "llama3", "low_freq_factor": 4.0}, r"high_freq_factor \(4\) must be above low_freq_factor \(4\)"),
        ({"method": "critical", "beta_fast": 2.0}, r"beta_fast \(2\) must be above beta_slow \(2\.75\)"),
    ],
)
def test_parameters_that_do_not_fit_are_named(given, reason):
    with pytest.raises(SkipwiseError, match=reason):
        methods.from_config(ScalingConfig(**given))


def test_truncate_is_refused_where_transformers_does_not_read_it():
    from transformers import Gemma3TextConfig

    config = Gemma3TextConfig(max_position_embeddings=4096)
    with pytest.raises(
        SkipwiseError, match="truncate=false: transformers does not read it for model type 'gemma3_text'"
    ):
        scale(config, ScalingConfig(method="yarn", truncate=False), target_length=16_384)


# Frequencies that change with the length ---------------------------------------------------------------------------


def test_nothing_is_trained_under_frequencies_that_change_with_the_length():
    config = llama_config(window=64)
    for scaled, static in [
        (scale(config, "dynamic", target_length=256), False),
        (scale(config, "yarn_revised", target_length=256), True),
        (scale(config, "yarn", target_length=256), True),
        (config, True),
    ]:
        assert hf_config.changes_with_length(scaled) is not static
        if static:
            hf_config.refuse_training(scaled)
        else:
            with pytest.raises(SkipwiseError, match="'dynamic' RoPE changes with the length of the input, so nothing"):
                hf_config.refuse_training(scaled)


def test_a_live_model_is_not_trained_under_them(tmp_path):
    small = apply(tiny_model(llama_config(window=64)), "dynamic", target_length=256)
    nothing: Any = None
    with pytest.raises(SkipwiseError, match="'dynamic' RoPE changes with the length"):
        train(small, TrainingConfig(steps=1), nothing, {}, folder=tmp_path, precision="float32")
    assert not list(tmp_path.iterdir())


def test_dynamic_keeps_the_window_that_it_is_computed_from():
    scaled = scale(llama_config(window=64), "dynamic", target_length=256)
    assert scaled.max_position_embeddings == 64
    assert hf_config.window(scaled) == 256
    assert hf_config.true_original_length(scaled) == 64
    assert hf_config.describe(scaled) == {"method": "dynamic", "factor": 4.0, "theta": 1e4, "original_length": 64}


def test_a_short_input_after_a_long_one_is_read_as_if_it_were_the_first():
    """transformers keeps the frequencies of the longest input; losses must not depend on what was read before."""
    small = tiny_model(llama_config(window=64))
    ids = torch.arange(200)[None] % 500
    apply(small, "dynamic", target_length=256)
    first = token_nll(small, ids[:, :100])
    token_nll(small, ids)
    torch.testing.assert_close(token_nll(small, ids[:, :100]), first)
    again = greedy(small, ids[:, :100], 3, lambda tokens: False)
    token_nll(small, ids)
    assert greedy(small, ids[:, :100], 3, lambda tokens: False) == again
    alone = tiny_model(scale(llama_config(window=64), "dynamic", target_length=256))
    torch.testing.assert_close(token_nll(alone, ids[:, :100]), first)


@pytest.mark.parametrize("given", METHODS, ids=str)
def test_applying_is_loading(given):
    asked = wanted(given, 16)
    applied = apply(tiny_model(llama_config(window=64)), asked, target_length=256)
    loaded = tiny_model(scale(llama_config(window=64), asked, target_length=256))
    ids = torch.arange(200)[None] % 500
    torch.testing.assert_close(token_nll(applied, ids), token_nll(loaded, ids))
    assert not torch.allclose(token_nll(applied, ids), token_nll(tiny_model(llama_config(window=64)), ids))


def test_every_method_of_the_configuration_exists():
    assert set(methods.METHODS) == set(ScalingConfig.model_fields["method"].annotation.__args__)
    fields = set(ScalingConfig.model_fields) - {"method"}
    assert fields == {key for keys in methods.TAKES.values() for key in keys}


def test_a_list_read_from_a_file_ends_in_the_folder_of_the_run(tmp_path: Path):
    from skipwise.config import dump_yaml, read_yaml

    (tmp_path / "factors.json").write_text("[1, 2]")
    values = {"target_length": 256, "scaling": {"method": "longrope", "factors": str(tmp_path / "factors.json")}}
    dump_yaml(validate(RunConfig, values), tmp_path / "config.yaml")
    (tmp_path / "factors.json").unlink()
    assert validate(RunConfig, read_yaml(tmp_path / "config.yaml")).scaling.factors == [1.0, 2.0]
