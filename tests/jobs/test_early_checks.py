"""What a run is checked for before anything slow: memory on several processes or with adapters, and idle settings."""

from typing import Any

import pytest

from skipwise.config import ModelConfig, RunConfig, validate
from skipwise.jobs.early_checks import _training_bytes, check_inputs
from skipwise.jobs.run_inputs import resolved_config
from skipwise.models.load import LoadedModel, load
from support.tiny import tiny_llama

PLENTY = 10**15


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = tiny_llama(tmp_path_factory.mktemp("models") / "tiny", layers=4, hidden=128)
    return load(ModelConfig(path=str(folder), precision="float32"))


def needed(loaded: LoadedModel, processes: int = 1, parallel: str | None = None, **adapter: Any) -> int:
    values = {
        "target_length": 256,
        "model": {"path": loaded.path, "precision": "float32"},
        "training": {"batch_size": 8, "parallel": parallel},
        "adapter": adapter,
    }
    return _training_bytes(loaded, validate(RunConfig, values), 64, PLENTY, processes)


def test_shards_divide_the_states_and_processes_the_batch(loaded: LoadedModel) -> None:
    parameters = loaded.model.num_parameters()
    alone, twice, shared = needed(loaded), needed(loaded, 2), needed(loaded, 2, "fsdp")
    assert alone > twice > shared >= 4 * parameters
    assert twice >= 16 * parameters
    assert twice - shared > 4 * parameters, "half of weights, gradients and moments"


def test_offloaded_states_are_not_on_the_device(loaded: LoadedModel) -> None:
    assert needed(loaded, 2, "deepspeed") < needed(loaded, 2, "fsdp")


def test_weights_in_four_bits_need_less(loaded: LoadedModel) -> None:
    lora, packed = needed(loaded, method="lora"), needed(loaded, method="qlora")
    linear = loaded.model.num_parameters() - loaded.model.get_input_embeddings().weight.numel()
    assert lora - packed == pytest.approx(linear * (4 - 0.52), rel=0.01)


@pytest.mark.parametrize(
    ("adapter", "said"), [({"rank": 8}, True), ({"method": "lora", "rank": 8}, False), ({"method": "none"}, False)]
)
def test_settings_of_an_adapter_without_one_have_no_effect(
    loaded: LoadedModel, adapter: dict[str, Any], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """`adapter.method=none` after a recipe with LoRA is how both are compared, so it is no error."""
    values = {"target_length": 256, "model": {"path": loaded.path}, "training": {"steps": 0}, "adapter": adapter}
    check_inputs(validate(RunConfig, {**values, "evaluation": {"tasks": []}}))
    assert ("the other settings of the adapter have no effect" in capsys.readouterr().err) is said


@pytest.mark.parametrize(
    ("target", "scaling", "said"), [(4096, {}, True), (2048, {}, False), (4096, {"method": "yarn"}, False)]
)
def test_a_far_target_without_a_scaling_of_ones_own_is_told_of_critical(
    loaded: LoadedModel, target: int, scaling: dict[str, str], said: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    values = {"target_length": target, "model": {"path": loaded.path, "original_length": 256}, "scaling": scaling}
    config = resolved_config(validate(RunConfig, values), loaded.model.config)
    assert config.scaling.method == "yarn"
    assert ("scaling.method=critical is recommended" in capsys.readouterr().err) is said
