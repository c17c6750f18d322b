"""Decoder layers for training on a CPU: the losses of transformers, gradients as exact, and fewer bytes stored."""

import contextlib
import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from skipwise.config import AdapterConfig, TrainingConfig
from skipwise.models import fused_layers
from skipwise.models.forward import loss, token_nll
from skipwise.training import adapters
from skipwise.training.trainer import light_layers
from support import family_configs
from support.tiny import llama_config, tiny_model

IDS = torch.randint(3, 64, (2, 24), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.cat([torch.arange(12), torch.arange(40, 52)])[None].expand(2, -1)


def gradients(model: PreTrainedModel, *, fused: bool, bf16: bool = False) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients, in fp64, of a batch with skipped positions."""
    model = copy.deepcopy(model)
    layers = fused_layers.fused_layers(model) if fused else contextlib.nullcontext()
    with layers:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value = loss(model, IDS, POSITIONS, IDS)
        value.backward()
    return value.item(), {n: w.grad.double() for n, w in model.named_parameters() if w.grad is not None}


def error(computed: dict[str, Tensor], exact: dict[str, Tensor]) -> float:
    assert computed.keys() == exact.keys()
    wrong = sum(((computed[name] - exact[name]) ** 2).sum() for name in exact)
    return float((wrong / sum((gradient**2).sum() for gradient in exact.values())).sqrt())


@pytest.fixture(params=fused_layers.FAMILIES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    model = tiny_model(family_configs.config(request.param)).train()
    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "norm" in name or "bias" in name:  # ones and zeros hide what is left out
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
    return model


def test_the_loss_has_the_same_bits(model: PreTrainedModel) -> None:
    assert fused_layers.fits(model)
    for bf16 in (False, True):
        assert gradients(model, fused=True, bf16=bf16)[0] == gradients(model, fused=False, bf16=bf16)[0]


def test_gradients_are_those_of_transformers(model: PreTrainedModel) -> None:
    exact = gradients(copy.deepcopy(model).double(), fused=False)[1]
    assert error(gradients(model, fused=True)[1], exact) < 5e-6
    plain = error(gradients(model, fused=False, bf16=True)[1], exact)
    assert plain > 1e-3, "bf16 has errors to compare with"
    assert error(gradients(model, fused=True, bf16=True)[1], exact) < 1.15 * plain


@pytest.mark.parametrize("targets", [None, ["q_proj", "v_proj"]])
def test_adapters(targets: list[str] | None) -> None:
    model = tiny_model(llama_config()).train()
    adapters.attach(model, AdapterConfig(method="lora", rank=4, **({"targets": targets} if targets else {})))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.1
    exact = gradients(copy.deepcopy(model).double(), fused=False)[1]
    assert all("lora" in name for name in exact)
    assert error(gradients(model, fused=True)[1], exact) < 5e-6
    assert error(gradients(model, fused=True, bf16=True)[1], exact) < 1.15 * error(
        gradients(model, fused=False, bf16=True)[1], exact
    )


@pytest.mark.parametrize("also", [["norms"], ["norms", "embeddings"]])
def test_trained_norms_of_a_base_in_bf16(also: list[str]) -> None:
    """Such a norm gives fp32, which the projections read in bf16: the stored input must be rounded as they read it."""
    model = tiny_model(llama_config()).train().to(torch.bfloat16)
    adapters.attach(model, AdapterConfig(method="lora", rank=4, also_train=also))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data += 0.1
    exact = gradients(copy.deepcopy(model).double(), fused=False)[1]
    plain, fused = (error(gradients(model, fused=chosen, bf16=True)[1], exact) for chosen in (False, True))
    assert fused < 1.15 * plain


def test_recomputed_layers_may_be_fused_too() -> None:
    model = tiny_model(llama_config()).train()
    exact = gradients(copy.deepcopy(model).double(), fused=False)[1]
    with light_layers(model, TrainingConfig(gradient_checkpointing=True)):
        loss(model, IDS, POSITIONS, IDS).backward()
    assert error({name: weight.grad.double() for name, weight in model.named_parameters()}, exact) < 5e-6


def test_a_base_in_bf16_loses_nothing() -> None:
    """With adapters the residual stream is bf16, too: RoPE in fp32 may then be the more exact."""
    model = tiny_model(llama_config()).train().to(torch.bfloat16)
    exact = gradients(copy.deepcopy(model).double(), fused=False)[1]
    plain, fused = (error(gradients(model, fused=chosen)[1], exact) for chosen in (False, True))
    assert fused < 1.15 * plain


def test_everything_is_put_back() -> None:
    model = tiny_model(llama_config()).eval()
    before = token_nll(model, IDS, POSITIONS)
    code = __import__(type(model).__module__, fromlist=["apply_rotary_pos_emb"])
    rotate = code.apply_rotary_pos_emb
    with contextlib.suppress(KeyError), fused_layers.fused_layers(model):
        assert code.apply_rotary_pos_emb is not rotate
        assert torch.equal(token_nll(model, IDS, POSITIONS), before)
        raise KeyError
    assert code.apply_rotary_pos_emb is rotate
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(token_nll(model, IDS, POSITIONS), before)


def stored_bytes(model: PreTrainedModel, *, fused: bool) -> int:
    """Bytes that the backward pass reads, beside weights."""
    weights = {weight.data_ptr() for weight in model.parameters()}
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    alive = []  # a freed tensor's address would be given out again

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        return note(tensor)

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    layers = fused_layers.fused_layers(model) if fused else contextlib.nullcontext()
    with layers, hooks, torch.autocast("cpu", torch.bfloat16):
        loss(model, IDS.repeat(1, 8), None, IDS.repeat(1, 8))
    return sum(storages.values())


def test_less_is_stored() -> None:
    """By hand, for T tokens of hidden size H, D = H of queries, keys and values, I of the network: the inputs of two
    norms (4H each), queries, keys, values, attention (2H each), gate and up (2I each): 16H + 4I bytes a token."""
    config = llama_config(layers=4, hidden=64)
    model = tiny_model(config).train()
    tokens, hidden, inner = IDS.numel() * 8, config.hidden_size, config.intermediate_size
    shared = config.num_key_value_heads / config.num_attention_heads
    by_hand = config.num_hidden_layers * tokens * (8 * hidden + 4 * hidden + 4 * hidden * shared + 4 * inner)
    fused, plain = (stored_bytes(model, fused=chosen) for chosen in (True, False))
    assert by_hand <= fused < 1.25 * by_hand
    assert fused < 0.6 * plain


def recomputes(model: PreTrainedModel) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_other_layers_are_left_to_recomputation() -> None:
    for family in ("gpt_neox", "gemma2"):
        other = tiny_model(family_configs.config(family)).train()
        assert not fused_layers.fits(other)
        with light_layers(other, TrainingConfig()):
            assert recomputes(other)
    model = tiny_model(llama_config()).train()
    with light_layers(model, TrainingConfig(recompute_elementwise=False)):
        assert not any("forward" in vars(module) for module in model.modules())
    with light_layers(model, TrainingConfig(gradient_checkpointing=True)):
        assert recomputes(model)
        assert any("forward" in vars(module) for module in model.modules())
