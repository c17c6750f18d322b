"""The fields of an export against what vLLM's released code looks up and makes of them, written down here by version.

vLLM itself is not run: it needs a GPU. Read were `get_rope` (rotary_embedding/__init__.py), `_get_and_verify_max_len`
(config/model.py) and `patch_rope_parameters` or `patch_rope_scaling` (transformers_utils/config.py) of two releases,
and pull request 56446 of September 2026, which stops multiplying windows by the factor of YaRN:

- 0.33.0, on transformers 5: `config.rope_parameters`;
- 0.11.0, on transformers 4: `config.rope_theta` and `config.rope_scaling`.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from transformers import AutoConfig

from skipwise.config import ScalingConfig
from skipwise.export import hugging_face
from skipwise.rope.scale import scale
from support import ROOT
from support.tiny import llama_config, tiny_model, tiny_tokenizer


class Names(NamedTuple):
    needed: set[str]
    """Looked up without a default."""
    taken: frozenset[str] | set[str] = frozenset()
    """Used where they are there."""


ORIGINAL = "original_max_position_embeddings"
EVERYWHERE = {"rope_type", "rope_theta", "partial_rotary_factor"}
VLLM_0_33_0 = {
    "default": Names(set()),
    "linear": Names({"factor"}),
    "dynamic": Names({"factor"}, {ORIGINAL}),
    "llama3": Names({"factor", "low_freq_factor", "high_freq_factor", ORIGINAL}),
    "yarn": Names(
        {"factor", ORIGINAL}, {"beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor", "truncate"}
    ),
    "longrope": Names({"short_factor", "long_factor", ORIGINAL}, {"short_mscale", "long_mscale"}),
}
VLLM_0_11_0 = {
    **VLLM_0_33_0,
    "yarn": Names({"factor", ORIGINAL}, {"extrapolation_factor", "attn_factor", "beta_fast", "beta_slow"}),
}
# Types whose factor 0.33.0 does not multiply the window by: max_position_embeddings holds the long one already.
WHOLE = {"longrope", "llama3", "yarn"}

SCALINGS: dict[str, dict[str, Any]] = {
    **{method: {} for method in ("linear", "ntk", "dynamic", "yarn", "yarn_revised", "llama3", "critical")},
    "theta": {"theta": 500000.0},
}


def exported(folder: Path, method: str, **parameters: Any) -> Path:
    scaling = ScalingConfig(method=method, **parameters)  # type: ignore[arg-type]
    tiny_model(scale(llama_config(window=64), scaling, target_length=256), folder / "model")
    tiny_tokenizer(folder / "model")
    return hugging_face.to_hf(str(folder / "model"), folder / "out")


@pytest.mark.parametrize("method", SCALINGS)
def test_new_vllm_finds_what_it_reads(method: str, tmp_path: Path) -> None:
    out = exported(tmp_path, method, **SCALINGS[method])
    config = AutoConfig.from_pretrained(out)
    found = config.rope_parameters
    names = VLLM_0_33_0[found["rope_type"]]
    assert names.needed | {"rope_type", "rope_theta"} <= set(found)
    # Nothing that changes the frequencies or their factor goes unread; of these the first is the older type's name,
    # `factor` of longrope is said by the window, and its attention_factor by both mscale.
    unread = set(found) - names.needed - names.taken - EVERYWHERE - {"type"}
    assert unread <= ({"factor", "attention_factor"} if found["rope_type"] == "longrope" else set())
    if found["rope_type"] == "longrope":
        assert found["short_mscale"] == found["long_mscale"] == found["attention_factor"]
        assert found["short_factor"] == found["long_factor"]

    tokenizer = json.loads((out / "tokenizer_config.json").read_text())
    length = min(config.max_position_embeddings, tokenizer["model_max_length"])
    if found["rope_type"] not in WHOLE:
        length *= found.get("factor", 1)
    # Without --max-model-len vLLM takes this for the window, four times too much under `linear`.
    assert length == (1024 if method == "linear" else 256)


@pytest.mark.parametrize("method", SCALINGS)
def test_old_vllm_finds_what_it_reads(method: str, tmp_path: Path) -> None:
    saved = json.loads((exported(tmp_path, method, **SCALINGS[method]) / "config.json").read_text())
    assert saved["rope_theta"] == saved["rope_parameters"]["rope_theta"]
    assert saved["torch_dtype"] == saved["dtype"]
    scaling = saved.get("rope_scaling")
    if saved["rope_parameters"]["rope_type"] == "default":
        assert scaling is None
        return
    assert scaling["type"] == scaling["rope_type"] == saved["rope_parameters"]["rope_type"]
    names = VLLM_0_11_0[scaling["rope_type"]]
    assert names.needed <= set(scaling)
    unread = set(scaling) - names.needed - names.taken - {"rope_type", "type"}
    assert unread <= ({"factor", "attention_factor"} if scaling["rope_type"] == "longrope" else set())
    if scaling["rope_type"] == "yarn":
        assert scaling[ORIGINAL] * scaling["factor"] == 256, "its window"


def test_an_attention_factor_of_its_own_reaches_both(tmp_path: Path) -> None:
    saved = json.loads((exported(tmp_path, "yarn", attention_factor=1.5) / "config.json").read_text())
    assert saved["rope_parameters"]["attention_factor"] == 1.5
    # 0.11.0 multiplies 0.1 · ln(factor) + 1 by it.
    assert (0.1 * math.log(4) + 1) * saved["rope_scaling"]["attn_factor"] == pytest.approx(1.5)


def derived_until_2026_09(config: dict[str, Any], tokenizer: dict[str, Any]) -> float:
    """The window that vLLM derives: `_get_and_verify_max_len` of vllm/config/model.py, as far as RoPE goes."""
    length: float = min(config["max_position_embeddings"], tokenizer.get("model_max_length", math.inf))
    rope = config["rope_parameters"]
    if rope["rope_type"] in ("su", "longrope", "llama3"):
        return length
    if rope["rope_type"] == "yarn":
        length = rope["original_max_position_embeddings"]
    return length * float(rope.get("factor", 1.0))


def derived_since_2026_09(config: dict[str, Any], tokenizer: dict[str, Any]) -> float:
    """The same after pull request 56446: the window of a YaRN model is `max_position_embeddings` itself."""
    if config["rope_parameters"]["rope_type"] == "yarn":
        return min(config["max_position_embeddings"], float(tokenizer.get("model_max_length", math.inf)))
    return derived_until_2026_09(config, tokenizer)


RULES = {"until 2026-09": derived_until_2026_09, "since 2026-09": derived_since_2026_09}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("method", SCALINGS)
def test_an_export_has_its_window_under_both_rules(method: str, rule: str, tmp_path: Path) -> None:
    """`--max-model-len` beyond the derived window is refused by vLLM; without the option the derived one counts."""
    out = exported(tmp_path, method, **SCALINGS[method])
    config, tokenizer = (json.loads((out / name).read_text()) for name in ("config.json", "tokenizer_config.json"))
    derived = RULES[rule](config, tokenizer)
    assert derived >= 256, "--max-model-len 256 is admitted"
    # Both multiply a linear window that is extended already: hence the docs' word to give the option.
    assert derived == (1024 if method == "linear" else 256)


def test_the_overrides_of_the_docs_are_admitted_under_both_rules() -> None:
    """`--hf-overrides` needs rope_theta, and since 2026-09 the window beside the factor."""
    text = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    (overrides,) = re.findall(r"--hf-overrides '(\{.+\})'", text)
    (wanted,) = {int(n) for n in re.findall(r"vllm serve BASE --max-model-len (\d+)", text)}
    given = json.loads(overrides)
    assert "rope_theta" in given["rope_parameters"]
    base = {"max_position_embeddings": given["rope_parameters"][ORIGINAL]}
    for rule in RULES.values():
        assert rule(base | given, {}) == wanted
    without = base | {"rope_parameters": given["rope_parameters"]}
    assert derived_until_2026_09(without, {}) == wanted
    assert derived_since_2026_09(without, {}) < wanted, "an override without the window is refused by newer ones"
