"""What the backward pass computes again: the same gradients exactly, and fewer bytes stored."""

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from skipwise.config import AdapterConfig
from skipwise.models import recomputation
from skipwise.models.forward import loss
from skipwise.planning.operations_and_bytes import Workload, bytes_of
from skipwise.training import adapters
from support import family_configs
from support.tiny import llama_config, tiny_model

FAMILIES = ["llama", "gemma3_text", "phi3", "qwen3", "mixtral", "gpt_neox", "smollm3", "deepseek_v3"]


def gradients(model: PreTrainedModel, *, bf16: bool = True) -> dict[str, Tensor]:
    """Gradients of a batch with skipped positions."""
    torch.manual_seed(0)
    ids = torch.randint(3, model.config.get_text_config().vocab_size, (2, 24))
    positions = torch.cat([torch.arange(12), torch.arange(40, 52)])[None].expand(2, -1)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        value = loss(model, ids, positions, ids)
    value.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bf16", [True, False])
def test_elementwise_recomputation_changes_no_bit(family: str, bf16: bool) -> None:
    plain, again = (tiny_model(family_configs.config(family)).train() for _ in range(2))
    recomputation.recompute_elementwise(again)
    expected, found = gradients(plain, bf16=bf16), gradients(again, bf16=bf16)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        assert torch.equal(gradient, found[name]), name


def test_adapters_get_the_same_gradients() -> None:
    models = []
    for chosen in (False, True):
        model = tiny_model(llama_config()).train()
        adapters.attach(model, AdapterConfig(method="lora", rank=4))
        if chosen:
            recomputation.recompute_elementwise(model)
        models.append(gradients(model))
    assert models[0].keys() == models[1].keys()
    assert all(torch.equal(gradient, models[1][name]) for name, gradient in models[0].items())


def test_bytes_worked_out_fall() -> None:
    config = llama_config(layers=6, hidden=128)
    plain, light, layers = (
        bytes_of(config, Workload(4, 512, True, True, 0, whole, elementwise), alike=True).forward
        for whole, elementwise in ((False, False), (False, True), (True, False))
    )
    assert layers < light < 0.75 * plain


@pytest.mark.parametrize(("setting", "kind", "expected"), [
    (None, "cpu", True), (None, "cuda", False), (False, "cpu", False), (True, "cuda", True),
])  # fmt: skip
def test_what_suits_the_device(setting: bool | None, kind: str, expected: bool) -> None:
    assert recomputation.elementwise(setting, kind) is expected
