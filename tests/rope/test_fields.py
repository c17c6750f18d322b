"""What a configuration's fields may hold: one line with the field, its value and what to write."""

import json
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from skipwise.errors import SkipwiseError
from skipwise.rope import fields
from skipwise.rope.scale import scale
from support import family_configs
from support.tiny import llama_config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": "8"}}, 'rope_scaling.factor = "8": expected a number'),
        ({"rope_scaling": {"type": "linear", "factor": "8"}}, 'write "factor": 8, unquoted'),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling.factor is missing: 'linear' needs it"),
        ({"rope_scaling": {"factor": 4.0}}, "rope_scaling.factor = 4.0, but no rope_type: write the type"),
        (
            {"rope_scaling": {"type": "linear", "factor": -4}},
            "rope_scaling.factor = -4: expected a number of",
        ),
        ({"rope_scaling": {"type": "linear", "factor": float("nan")}}, "rope_scaling.factor = NaN"),
        ({"rope_scaling": "linear"}, 'rope_scaling = "linear": expected null, or a mapping'),
        ({"rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2}}, "remove the one that is wrong"),
        ({"rope_scaling": {"type": "longrope", "long_factor": [1, "2"], "short_factor": [1]}}, "long_factor = [1, "),
        ({"rope_theta": 0}, "rope_theta = 0: expected a number above 1"),
        ({"rope_theta": "x"}, 'rope_theta = "x": expected a number above 1; write e.g. "rope_theta": 10000'),
        ({"sliding_window": -5}, "sliding_window = -5: expected a whole number of tokens, or null for none"),
        ({"num_hidden_layers": -1}, "num_hidden_layers = -1: expected a whole number from 1"),
        ({"max_position_embeddings": True}, "max_position_embeddings = true"),
        ({"text_config": {"num_hidden_layers": 0}}, "text_config.num_hidden_layers = 0"),
        ({"text_config": [1]}, "text_config = [1]: expected a mapping"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": []}, "sliding_attention": None}},
            "rope_parameters.full_attention.factor = []",
        ),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4, "beta_fast": 1, "beta_slow": 2}},
            "beta_fast = 1: expected a number above beta_slow, which is 2",
        ),
    ],
)
def test_a_wrong_value_is_named_with_what_to_write(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SkipwiseError) as caught:
        fields.check(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_family_passes() -> None:
    for family in family_configs.CONFIGS:
        if family in CONFIG_MAPPING:
            fields.check(family_configs.config(family).to_dict())


def test_what_older_tools_wrote_is_read_as_they_did() -> None:
    old = {
        "max_position_embeddings": 4096.0,
        "rope_theta": 10_000.0,
        "rope_scaling": {"type": "su", "original_max_position_embeddings": 4096.0, "long_factor": [1.0]},
        "text_config": {"num_hidden_layers": 2.0},
        "layer_norm_eps": 1.0,
    }
    new = fields.normalised(old)
    assert json.dumps(new) == json.dumps(
        {
            "max_position_embeddings": 4096,
            "rope_theta": 10_000.0,
            "rope_scaling": {"type": "longrope", "original_max_position_embeddings": 4096, "long_factor": [1.0]},
            "text_config": {"num_hidden_layers": 2},
            "layer_norm_eps": 1.0,
        }
    )
    assert fields.normalised(new) == new


@pytest.mark.parametrize("value", [[1], "x", float("nan"), 0, True])
def test_a_live_configuration_is_checked_before_it_is_scaled(value: object) -> None:
    with pytest.raises(SkipwiseError, match=r"original_max_position_embeddings = .*: expected a whole number from 2"):
        scale(llama_config(original_max_position_embeddings=value), "yarn", target_length=8192)
