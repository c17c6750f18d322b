"""Configurations as they are met in the wild, and broken ones: read, or refused in one line; never a traceback."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from skipwise.cli import main
from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models import configuration, sources
from skipwise.planning.inspection import inspect
from skipwise.rope.fields import FIELDS, SCALING
from skipwise.rope.scale import scale
from support import family_configs
from support.family_configs import CONFIGS

LLAMA = {
    **{"model_type": "llama", "hidden_size": 256, "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 512},
    **{"max_position_embeddings": 4096, "rope_theta": 10_000.0, "intermediate_size": 512},
}
GPTJ = {"model_type": "gptj", "n_embd": 64, "n_head": 2, "n_layer": 2, "rotary_dim": 16, "n_positions": 64}
BAICHUAN = {**LLAMA, "model_type": "baichuan"}


def saved(values: object, folder: Path) -> ModelConfig:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(values))
    return ModelConfig(path=str(folder / "config.json"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": "8"}}, 'rope_scaling.factor = "8": expected a number'),
        ([LLAMA], "holds a list: expected a JSON mapping"),
        ({**LLAMA, "rope_theta": 0}, "rope_theta = 0: expected a number above 1"),
        ({**LLAMA, "num_hidden_layers": -2}, "num_hidden_layers = -2: expected a whole number from 1"),
        ({**LLAMA, "num_attention_heads": 0}, "num_attention_heads = 0: expected a whole number from 1"),
        ({**LLAMA, "num_key_value_heads": 3}, "num_key_value_heads = 3: expected a number that divides"),
        ({**LLAMA, "rope_scaling": {"factor": 4.0}}, "but no rope_type: write the type of this scaling"),
        (
            {**LLAMA, "rope_scaling": {"type": "longrope", "factor": 4, "long_factor": [1.0], "short_factor": [1.0]}},
            "short_factor holds 1 numbers: expected 32, one for each pair",
        ),
        ({**LLAMA, "model_type": None}, 'model_type is missing; write e.g. "model_type": "llama"'),
        ({**LLAMA, "model_type": "lama"}, "model type 'lama' is not known to transformers"),
        ({**LLAMA, "rms_norm_eps": "x"}, "rms_norm_eps"),
        ({**LLAMA, "layer_types": ["full_attention"]}, "layer"),
        (
            {**LLAMA, "model_type": "new", "auto_map": {"AutoConfig": "a.B"}},
            "add --set model.trust_remote_code=true",
        ),
    ],
)
def test_a_wrong_field_is_named_with_its_file(values: Any, message: str, tmp_path: Path, capsys: Any) -> None:
    model = saved(values, tmp_path)
    assert main.main(["inspect", model.path]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "config.json" in error
    assert error.count("\n") == 1


def test_a_configuration_nested_too_deeply(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"a": ' * 100_000 + "1" + "}" * 100_000)
    with pytest.raises(SkipwiseError, match="nested too deeply"):
        inspect(ModelConfig(path=str(tmp_path)))


def test_old_phi3_files_and_windows_written_as_decimals(tmp_path: Path) -> None:
    lists = {"long_factor": [2.0] * 32, "short_factor": [1.0] * 32}
    phi = {
        **{**LLAMA, "model_type": "phi3", "max_position_embeddings": 131_072.0, "pad_token_id": 0},
        **{"original_max_position_embeddings": 4096.0, "rope_scaling": {"type": "su", **lists}},
    }
    old, new = (configuration.read(sources.find(saved(values, tmp_path / name), weights=False)) for name, values in (
        ("old", phi), ("new", {**phi, "rope_scaling": {"type": "longrope", **lists}})))  # fmt: skip
    assert old.rope_parameters == new.rope_parameters
    assert old.rope_parameters["rope_type"] == "longrope"
    assert (old.max_position_embeddings, old.original_max_position_embeddings) == (131_072, 4096)


# Fuzz --------------------------------------------------------------------------------------------------------------

ODD: list[Any] = [
    None,
    0,
    -1,
    1,
    2,
    3,
    7,
    10**12,
    2**70,
    0.0,
    -0.5,
    0.3,
    1.5,
    4096.0,
    1e-300,
    1e300,
    float("nan"),
    True,
]
ODD += [float("inf"), "", "8", "x", "none", [], [1], [1.0, "2"], [None], {}, {"a": 1}, {"type": "linear"}, [[]]]
ODD += [True, False]
TYPES = ["linear", "dynamic", "yarn", "llama3", "longrope", "su", "default", "mrope", "proportional", "x", "", 3, None]
BASES = {
    name: json.loads(family_configs.config(name).to_json_string()) for name in CONFIGS if name in CONFIG_MAPPING
} | {"gptj": GPTJ, "baichuan": BAICHUAN}


@st.composite
def broken(draw: Any, family: str) -> dict[str, Any]:
    """A family's configuration with one to three fields of it, or of its RoPE, changed, dropped or added."""
    values = json.loads(json.dumps(BASES[family]))
    names = sorted({*values, *FIELDS} - {"architectures", "auto_map"})
    for _ in range(draw(st.integers(1, 3))):
        place, keys = values, names
        if draw(st.booleans()):
            key = draw(st.sampled_from(["rope_scaling", "rope_parameters"]))
            if draw(st.booleans()) or not isinstance(values.get(key), dict):
                lists = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
                whole = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **lists}
                values[key] = {"rope_type": draw(st.sampled_from(TYPES)), **whole}
            place, keys = values[key], sorted(SCALING)
            part = place.get("full_attention")
            place = part if isinstance(part, dict) and draw(st.booleans()) else place
        name = draw(st.sampled_from(keys))
        if draw(st.integers(0, 5)) == 0:
            place.pop(name, None)
        else:
            place[name] = draw(st.sampled_from(ODD) | st.integers(-10, 300) | st.floats() | st.text(max_size=3))
    return values


def refusal(action: Callable[[], object]) -> str:
    """The line that an action ends in; empty where it works. Any other error than SkipwiseError goes through."""
    try:
        action()
    except SkipwiseError as error:
        return str(error)
    return ""


def attempt(values: dict[str, Any]) -> None:
    """Inspect a file and scale a live configuration: each works, or fails in one line."""
    with tempfile.TemporaryDirectory() as folder:
        model = saved(values, Path(folder))
        line = refusal(lambda: inspect(model))
        assert "\n" not in line
        assert len(line) < 700
    try:
        config = CONFIG_MAPPING[values["model_type"]].from_dict(values)
    except Exception:  # transformers itself does not take it
        return
    for method in ("yarn", "ntk", "none"):
        assert "\n" not in refusal(lambda: scale(config, method, target_length=10**6))  # noqa: B023  called at once


QUICK = settings(
    max_examples=36,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("family", sorted(BASES))
def test_no_configuration_ends_in_a_traceback(family: str) -> None:
    @QUICK
    @given(broken(family))
    def run(values: dict[str, Any]) -> None:
        attempt(values)

    run()


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(BASES))
def test_no_configuration_of_thousands_ends_in_a_traceback(family: str) -> None:
    @settings(QUICK, max_examples=1000, derandomize=False)
    @given(broken(family))
    def run(values: dict[str, Any]) -> None:
        attempt(values)

    run()
