"""Operations and bytes of a model: against counters that torch has, real passes, and numbers worked out by hand."""

import gc

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, MistralConfig, MixtralConfig

from skipwise.config import AdapterConfig
from skipwise.errors import SkipwiseError
from skipwise.models import families as families
from skipwise.models import sliced_loss
from skipwise.planning import operations_and_bytes
from skipwise.planning.operations_and_bytes import Bytes, Workload, bytes_of, work
from skipwise.training import adapters
from support import family_configs
from support.tiny import llama_config, tiny_model

CONFIG = llama_config(layers=3)
MIXTRAL = MixtralConfig(
    **{"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 1, "vocab_size": 512},
)


def test_operations_worked_out_by_hand() -> None:
    found = work(CONFIG)
    layer = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 128  # q and o, k and v, the feed-forward's three
    assert found.layer_flops == 2 * 3 * layer
    assert found.head_flops == 2 * 512 * 64
    assert found.pair_flops == 2 * 4 * (16 + 16)
    assert found.adapter == 3 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    assert found.parameters == tiny_model(CONFIG).num_parameters()
    assert found.attention_flops(10) == 3 * 256 * 55


def test_operations_are_those_that_torch_counts() -> None:
    config = llama_config(layers=3, _attn_implementation="eager")
    model, tokens = tiny_model(config), 20
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    found = work(config)
    square = 3 * found.pair_flops * tokens**2  # eager attention computes what it masks
    assert counter.get_total_flops() == tokens * (found.layer_flops + found.head_flops) + square


def test_a_token_uses_its_experts_only() -> None:
    dense = 2 * 32 * 32 + 2 * 32 * 16 + 4 * 32  # attention and the router
    assert work(MIXTRAL).layer_flops == 2 * 2 * (dense + 3 * 32 * 48)
    assert work(MIXTRAL).parameters == tiny_model(MIXTRAL).num_parameters()


def test_sliding_layers_compute_the_whole_square() -> None:
    config = MistralConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
                           intermediate_size=32, vocab_size=64, sliding_window=8)  # fmt: skip
    found = work(config)
    assert found.attention_flops(8) == 2 * found.pair_flops * 36
    assert found.attention_flops(16) == 2 * found.pair_flops * 256
    inside, beyond = (bytes_of(config, Workload(1, n, False), alike=True).forward for n in (8, 2048))
    assert beyond > 2048**2 > inside, "a mask of one byte a pair"


@pytest.mark.parametrize("family", [family for family in family_configs.CONFIGS if family != "cohere2"])
def test_every_family_is_counted(family: str) -> None:
    config = family_configs.config(family)
    found = work(config)
    assert found.parameters == tiny_model(config).num_parameters()
    assert found.eager == (family in ("gemma2", "gpt_oss"))
    assert bytes_of(config, Workload(1, 16, True), alike=found.alike).backward > 0


def test_eager_attention_computes_and_holds_the_whole_square() -> None:
    config, tokens = family_configs.config("gemma2"), 20
    model, found = tiny_model(config), work(config)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    products = tokens * (found.layer_flops + found.head_flops)
    assert counter.get_total_flops() == products + found.attention_flops(tokens)
    assert bytes_of(config, Workload(1, 1024, False), alike=True).forward > 4 * 4 * 1024**2, (
        "scores of four heads in fp32"
    )


def saved_bytes(batch: int, tokens: int) -> int:
    """What a real forward pass of CONFIG keeps for its backward pass, and the gradients that its loss has made."""
    model = tiny_model(CONFIG).train()
    own = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.zeros(batch, tokens, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        sliced_loss.mean_nll(model, hidden, ids.flatten())
    return sum(kept.values()) + hidden.nbytes + 4 * 512 * 64  # gradients of the hidden states and of the head


def test_bytes_are_those_that_a_real_pass_keeps() -> None:
    found, scores = bytes_of(CONFIG, Workload(2, 256, True), alike=True), 4 * 512 * 2 * 256
    assert found.weights == pytest.approx(4 * work(CONFIG).parameters, rel=0.01)  # tables of RoPE come on top
    assert found.trained == 4 * work(CONFIG).parameters
    assert saved_bytes(2, 256) + scores <= found.forward <= 1.03 * saved_bytes(2, 256) + 3 * scores


@pytest.mark.parametrize("run", [Workload(1, 64, True), Workload(1, 4096, False)])
def test_few_layers_stand_for_all(run: Workload) -> None:
    config = llama_config(layers=5)
    assert bytes_of(config, run, alike=True) == bytes_of(config, run, alike=False)


def test_what_makes_training_smaller() -> None:
    plain, half, again, adapted = (
        bytes_of(CONFIG, Workload(1, 512, True, *more), alike=True)
        for more in ((), (True,), (False, 0, True), (False, 4))
    )
    assert half.forward < plain.forward
    assert again.forward < 0.5 * plain.forward
    assert adapted.trained == 4 * 4 * work(CONFIG).adapter
    assert adapted.weights == plain.weights + adapted.trained
    assert adapted.peak() < plain.peak()


def test_adapters_hold_what_the_real_ones_do() -> None:
    """PEFT on a bf16 base under autocast: the inputs of its layers must not be copied to fp32."""
    config, run = llama_config(layers=3, hidden=128), Workload(2, 256, True, bf16=True, rank=8)
    expected = bytes_of(config, run, alike=True)
    with operations_and_bytes._Live() as live:
        model = tiny_model(config).to(torch.bfloat16)
        adapters.attach(model, AdapterConfig(method="lora", rank=8))
        gc.collect()
        real = operations_and_bytes._peaks(model, run, live, autocast=True)
    for estimate, bytes_held in zip((expected.forward, expected.backward), real, strict=True):
        assert 0.8 * estimate < bytes_held < estimate


def test_experts_are_run_in_bf16() -> None:
    half, full = (bytes_of(MIXTRAL, Workload(1, 64, False, bf16), alike=True) for bf16 in (True, False))
    assert (half.weights, full.weights) == pytest.approx(
        (2 * work(MIXTRAL).parameters, 4 * work(MIXTRAL).parameters), rel=0.01
    )
    assert full.forward == 2 * half.forward > 0
    trained = bytes_of(MIXTRAL, Workload(1, 64, True, True), alike=True)
    assert trained.trained == 4 * work(MIXTRAL).parameters
    assert trained.backward > trained.trained // 2


def test_states_are_shared_out() -> None:
    # 100 of weights, all trained: 100 of gradients, 200 of moments
    found = Bytes(weights=100, trained=100, forward=50, backward=150)
    assert (found.states, found.peak()) == (400, 100 + 200 + 150)
    assert found.peak(4) == 100 + 150
    assert Bytes(100, 100, 50, 60).peak() == 400
    assert Bytes(100, 0, 50, 0).peak() == 150


def test_layers_of_every_kind_are_kept() -> None:
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    config = MistralConfig(num_hidden_layers=6, layer_types=kinds, sliding_window=8)
    short = operations_and_bytes.shortened(config, 3)
    assert short.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    assert (short.num_hidden_layers, config.num_hidden_layers) == (3, 6)
    assert families.architecture(short).sliding_layers == (0, 2)


def test_a_model_that_cannot_be_built_is_told() -> None:
    with pytest.raises(SkipwiseError, match="'gpt2'"):
        work(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=64))
