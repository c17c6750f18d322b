"""The table of model families against transformers' own classes: what turns, how far layers see, what is written."""

import math
import re
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import ArceeConfig, AutoModelForCausalLM, GPT2Config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from skipwise.config import ModelConfig, ScalingConfig
from skipwise.errors import SkipwiseError
from skipwise.models import families as families
from skipwise.models import sources
from skipwise.models.checks import probe
from skipwise.models.forward import hidden_states, loss
from skipwise.models.load import apply, load
from skipwise.rope import hf_config, methods
from skipwise.rope.scale import scale
from support import ROOT, family_configs
from support.family_configs import CONFIGS, WINDOW
from support.tiny import tiny_model, tiny_tokenizer

TARGET = 256
SKIPPED = torch.cat([torch.arange(8), torch.arange(90, 98), torch.arange(TARGET - 8, TARGET)])[None]
EXTENDED = [family for family in CONFIGS if family != "cohere2"]


def method(row: families.Family) -> ScalingConfig:
    """With the usual 32 turns, no pair of these small heads is kept whole."""
    return ScalingConfig(method="yarn_revised" if "yarn" in row.refuses else "yarn", beta_fast=4.0)


def tokens(length: int = 24) -> Tensor:
    return torch.randint(2, 97, (1, length), generator=torch.Generator().manual_seed(1))


def logits(small: Any, ids: Tensor, positions: Tensor) -> Tensor:
    with torch.no_grad():
        return small(ids, position_ids=positions, attention_mask=torch.ones_like(ids), use_cache=False).logits


def yarn(dim: int, theta: float, *, revised: bool = False, rounded: bool = True) -> tuple[Tensor, float]:
    """YaRN from its paper, for WINDOW to TARGET with β 4 and 1: frequencies and the factor on cos and sin.

    `revised` blends wavelengths instead of frequencies; `rounded` takes whole pairs as borders.
    """
    plain = theta ** (-np.arange(0, dim, 2) / dim)

    def pair(turns: float) -> float:
        return dim * math.log(WINDOW / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = (math.floor(pair(4)), math.ceil(pair(1))) if rounded else (pair(4), pair(1))
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / (high - low), 0, 1)
    factor = TARGET / WINDOW
    scaled = plain / (1 + (factor - 1) * ramp) if revised else plain / factor * ramp + plain * (1 - ramp)
    return torch.from_numpy(scaled), 0.1 * math.log(factor) + 1


@pytest.mark.parametrize("family", EXTENDED)
def test_a_scaled_model_is_what_rope_computed_independently_makes(family):
    row = families.FAMILIES[family]
    plain = family_configs.config(family)
    facts = families.architecture(plain)
    scaled = tiny_model(scale(plain, method(row), target_length=TARGET))
    if not row.sdpa:
        scaled.set_attn_implementation("eager")
    turns = {}
    for layer in range(facts.layers):
        if layer in facts.sliding_layers and row.layers == "separate":
            turns[layer] = torch.from_numpy(methods.plain_inv_freq(facts.rotary_dim, 500.0)), 1.0
        elif layer not in facts.nope_layers:
            turns[layer] = yarn(facts.rotary_dim, 10_000.0, revised="yarn" in row.refuses)
    assert len(turns) > 0
    wanted = family_configs.independent_logits(
        family, plain, tokens(), SKIPPED, turns, neighbours=row.pairs == "neighbours"
    )
    torch.testing.assert_close(logits(scaled, tokens(), SKIPPED), wanted, rtol=1e-3, atol=1e-3)
    assert (logits(tiny_model(plain), tokens(), SKIPPED) - wanted).abs().max() > 1e-2, "the scaling must matter"


@pytest.mark.parametrize("family", ["cohere2", "exaone4"])
def test_families_that_are_refused_rotate_only_sliding_layers(family):
    plain = family_configs.config(family, **family_configs.MIXED)
    neighbours = families.FAMILIES[family].pairs == "neighbours"
    turns = {layer: (torch.from_numpy(methods.plain_inv_freq(8, 10_000.0)), 1.0) for layer in (0, 2)}
    wanted = family_configs.independent_logits(family, plain, tokens(), SKIPPED, turns, neighbours=neighbours)
    torch.testing.assert_close(logits(tiny_model(plain), tokens(), SKIPPED), wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(SkipwiseError, match="rotates only its sliding-window layers"):
        families.architecture(plain)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", EXTENDED)
def test_every_chunk_sees_the_earlier_ones_as_far_as_windows_allow(family, attention):
    row = families.FAMILIES[family]
    if attention == "sdpa" and not row.sdpa:
        pytest.skip("loaded with eager attention")
    small = tiny_model(
        scale(family_configs.config(family, attn_implementation=attention), method(row), target_length=TARGET)
    )
    assert small.config._attn_implementation == attention
    ids = tokens()

    def changes(place: int) -> bool:
        other = ids.clone()
        other[0, place] = (ids[0, place] + 7) % 97
        with torch.no_grad():
            states = [hidden_states(small, tokens, SKIPPED)[:, -1] for tokens in (ids, other)]
        return bool((states[0] - states[1]).abs().max() > 1e-4)

    assert changes(17), "its own chunk"
    if row.layers == "window":  # two layers of six tokens reach ten tokens back, across one skip
        assert (changes(13), changes(12)) == (True, False)
    else:
        assert changes(9), "the chunk before"
        assert changes(1), "the first chunk"


@pytest.mark.parametrize("family", [family for family in EXTENDED if not families.FAMILIES[family].sdpa])
def test_families_without_fused_attention_refuse_it_or_compute_something_else(family):
    try:
        fused = tiny_model(family_configs.config(family, attn_implementation="sdpa"))
    except ValueError:
        return
    own = tiny_model(family_configs.config(family, attn_implementation="eager"))
    assert (logits(fused, tokens(), SKIPPED) - logits(own, tokens(), SKIPPED)).abs().max() > 1e-3


@pytest.mark.parametrize("family", EXTENDED)
def test_a_step_trains_and_the_checkpoint_is_plain(family, tmp_path):
    row = families.FAMILIES[family]
    small = tiny_model(scale(family_configs.config(family), method(row), target_length=TARGET)).train()
    ids = tokens()
    before = loss(small, ids, SKIPPED, ids)
    before.backward()
    turned = [weight for name, weight in small.named_parameters() if re.search(r"q_(b_)?proj|qkv|query_key", name)]
    assert len(turned) >= 2
    assert all(weight.grad.abs().max() > 0 for weight in turned)
    with torch.no_grad():
        length = sum(weight.grad.pow(2).sum() for weight in small.parameters() if weight.grad is not None).sqrt()
        for weight in small.parameters():
            if weight.grad is not None:
                weight -= 0.02 * weight.grad / length
    assert loss(small, ids, SKIPPED, ids) < before
    small.eval().save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.get_text_config().max_position_embeddings == TARGET
    torch.testing.assert_close(logits(again, ids, SKIPPED), logits(small, ids, SKIPPED))


@pytest.mark.parametrize("family", EXTENDED)
def test_scalings_that_a_configuration_cannot_express(family):
    """Held by `rope.scale`, which reads every result back from its saved form."""
    plain = family_configs.config(family)
    pairs = families.architecture(plain).rotary_dim // 2
    refused = []
    for name in get_args(ScalingConfig.model_fields["method"].annotation):
        given = {"theta": {"theta": 1e6}, "longrope": {"factors": [2.0] * pairs}}.get(name, {})
        try:
            scale(plain, ScalingConfig(method=name, **given), target_length=TARGET)
        except SkipwiseError as error:
            refused += [name] if "does not take" in str(error) else [f"{name}: {error}"]
    assert sorted(refused) == sorted(families.FAMILIES[family].refuses)


def test_layers_are_counted_as_the_table_says():
    """`architectures.inspect` reads a configuration; the tests above hold what it finds against the model."""
    for family in EXTENDED:
        if family not in CONFIG_MAPPING:
            continue
        facts, row = families.architecture(family_configs.config(family)), families.FAMILIES[family]
        some = (0, 2) if facts.layers == 4 else tuple(range(facts.layers))
        assert facts.row is row
        assert facts.sliding_layers == (some if row.layers in ("window", "shared", "separate") else ()), family
        assert facts.nope_layers == ((3,) if row.layers == "nope" else ()), family
        written = scale(family_configs.config(family), "ntk", target_length=TARGET).rope_parameters
        assert hf_config.is_nested(written) == (row.layers == "separate")
        assert ("partial_rotary_factor" in hf_config.parameters(family_configs.config(family))) >= (
            row.turns == "share"
        )


def test_deepseek_turns_neighbours_of_the_projected_key():
    small = tiny_model(family_configs.config("deepseek_v3"))
    seen: dict[str, Tensor] = {}
    small.model.layers[0].self_attn.kv_a_proj_with_mqa.register_forward_hook(lambda *given: seen.update(raw=given[2]))
    small.set_attn_implementation("rotated")
    family_configs.ROTATED.turns = {}
    family_configs.ROTATED.keys = seen
    try:
        logits(small, tokens(4), torch.tensor([[0, 1, 5, 30]]))
    finally:
        family_configs.ROTATED.keys = None
    raw = seen["raw"][0, :, -8:].double()  # (T, 8)
    angles = torch.tensor([0.0, 1, 5, 30]).double()[:, None] * 10_000.0 ** (-torch.arange(0, 8, 2).double() / 8)
    turned = torch.complex(raw[:, ::2], raw[:, 1::2]) * torch.polar(torch.ones_like(angles), angles)
    wanted = torch.cat([turned.real, turned.imag], dim=-1).float()  # its code keeps them as halves
    torch.testing.assert_close(seen["0"][0, 0, :, -8:], wanted, rtol=1e-4, atol=1e-4)


NAMED = """llama mistral mixtral qwen2 qwen3 qwen3_moe gemma2 gemma3_text phi phi3 gpt_neox gptj baichuan olmo2 olmo3
    smollm3 stablelm falcon granite glm4 starcoder2 cohere2 gpt_oss deepseek_v3 internlm3 exaone4""".split()


def test_every_family_has_a_row_that_is_tested():
    assert set(NAMED) <= set(families.FAMILIES)
    assert set(families.FAMILIES) == set(CONFIGS) | {"gptj", "baichuan"}, "test_twins.py holds those two"
    assert {family: row.twin for family, row in families.FAMILIES.items() if row.twin} == sources.EQUIVALENTS


def test_the_documentation_shows_the_table():
    page = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    assert families.table() in page, (
        "paste what python -c 'from skipwise.models.families import *; print(table())' says"
    )


# Families that are not in the table ----------------------------------------------------------------------------------


def test_an_unknown_family_is_probed_and_used_with_a_warning(tmp_path, capsys):
    strange = ArceeConfig(**{**family_configs.GROUPED, "vocab_size": 512})
    facts = families.architecture(strange)
    assert (facts.row, len(facts.notes)) == (None, 1)
    assert "'arcee' is not among the tested ones" in facts.notes[0]
    tiny_model(strange, tmp_path)
    tiny_tokenizer(tmp_path)
    loaded = load(ModelConfig(path=str(tmp_path), device="cpu"), target_length=TARGET, scaling=ScalingConfig())
    assert loaded.window == TARGET
    assert "'arcee' is not among the tested ones; its use of positions was probed" in capsys.readouterr().err
    apply(tiny_model(strange), "ntk", target_length=TARGET)
    assert "'arcee' is not among the tested ones" in capsys.readouterr().err
    apply(tiny_model(family_configs.config("llama")), "ntk", target_length=TARGET)
    assert capsys.readouterr().err == ""


def test_code_that_does_not_use_positions_as_rope_does_is_refused():
    learned = tiny_model(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=97, n_positions=64, initializer_range=0.3)
    )
    with pytest.raises(SkipwiseError, match="does not take position_ids as RoPE does"):
        probe(learned)
    short = tiny_model(family_configs.config("mistral"))
    with pytest.raises(SkipwiseError, match="do not see those before a skip"):
        probe(short)


def test_the_familys_own_attention_stands_in_where_there_is_no_fused_one(tmp_path):
    tiny_model(family_configs.config("gemma2", vocab_size=512), tmp_path)
    tiny_tokenizer(tmp_path)
    loaded = load(ModelConfig(path=str(tmp_path), device="cpu"))
    assert loaded.model.config._attn_implementation == "eager"


CARRIED = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 2.0, "original_max_position_embeddings": WINDOW}


def test_a_deepseek_that_carries_yarn_is_continued_with_its_attention_scale():
    """With mscale_all_dim the class also multiplies the logits of its attention, by the square of YaRN's factor."""
    carried = family_configs.config(
        "deepseek_v3",
        rope_parameters={**CARRIED, "beta_fast": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0},
        max_position_embeddings=2 * WINDOW,
    )
    scaled = tiny_model(scale(carried, "yarn", target_length=TARGET))
    frequencies, factor = yarn(8, 10_000.0)
    turns = {0: (frequencies, 1.0), 1: (frequencies, 1.0)}
    wanted = family_configs.independent_logits(
        "deepseek_v3", family_configs.config("deepseek_v3"), tokens(), SKIPPED, turns, neighbours=True, temper=factor**2
    )
    torch.testing.assert_close(logits(scaled, tokens(), SKIPPED), wanted, rtol=1e-3, atol=1e-3)
    applied = apply(tiny_model(carried), "yarn", target_length=TARGET)
    torch.testing.assert_close(logits(applied, tokens(), SKIPPED), wanted, rtol=1e-3, atol=1e-3)


def test_a_gpt_oss_that_carries_yarn_with_borders_between_pairs_is_continued():
    carried = family_configs.config(
        "gpt_oss", rope_parameters={**CARRIED, "beta_fast": 4.0, "truncate": False}, max_position_embeddings=2 * WINDOW
    )
    scaled = tiny_model(scale(carried, "yarn", target_length=TARGET))
    turns = dict.fromkeys(range(4), yarn(8, 10_000.0, rounded=False))
    plain = family_configs.config("gpt_oss")
    wanted = family_configs.independent_logits("gpt_oss", plain, tokens(), SKIPPED, turns, neighbours=False)
    torch.testing.assert_close(logits(scaled, tokens(), SKIPPED), wanted, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(turns[0][0], yarn(8, 10_000.0)[0])
