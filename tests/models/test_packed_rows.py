"""Several sequences in one row: none sees another, and the chunks of each see one another although positions skip."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.models.checks import check_packing
from skipwise.models.forward import hidden_states, loss
from skipwise.models.packed_rows import decoder_arguments
from support.family_configs import CONFIGS, config
from support.tiny import llama_config, tiny_model

# Two rows: sequences of 5 and 7 tokens with skips, and 4 left over; then one of 16.
SEQUENCES = torch.tensor([[1] * 5 + [2] * 7 + [0] * 4, [1] * 16])
POSITIONS = torch.tensor(
    [[0, 1, 2, 40, 41, 0, 1, 20, 21, 22, 23, 50, 0, 1, 2, 3], [*range(8), *range(40, 48)]],
)
IDS = torch.randint(2, 500, (2, 16), generator=torch.Generator().manual_seed(0))
PLACES = [(0, slice(0, 5)), (0, slice(5, 12)), (1, slice(0, 16))]


def varlen(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """What flash attention's varlen function computes: causal attention inside each stretch of the flattened batch."""
    SEEN.append({name: kwargs.get(name) for name in ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")})
    assert attention_mask is None
    batch, heads, length, _ = query.shape
    groups = heads // key.shape[1]
    parts = [query, key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)]
    q, k, v = (part.transpose(1, 2).reshape(batch * length, heads, -1).transpose(0, 1) for part in parts)
    ends = kwargs["cu_seq_lens_q"].tolist() if kwargs.get("cu_seq_lens_q") is not None else [0, batch * length]
    out = [
        F.scaled_dot_product_attention(q[:, a:b], k[:, a:b], v[:, a:b], is_causal=True, scale=scaling)
        for a, b in itertools.pairwise(ends)
    ]
    return torch.cat(out, dim=1).transpose(0, 1).reshape(batch, length, heads, -1), None


SEEN: list[dict[str, Any]] = []
AttentionInterface.register("recorded_varlen", varlen)
IMPLEMENTATIONS = ["sdpa", "eager", "flex_attention", "recorded_varlen"]


def model_with(attention: str) -> PreTrainedModel:
    model = tiny_model(llama_config())
    model.config._attn_implementation = attention
    return model


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@torch.no_grad()
def test_a_packed_sequence_is_read_as_if_it_were_alone(attention: str) -> None:
    model, alone = model_with(attention), model_with("eager")
    packed = hidden_states(model, IDS, POSITIONS, SEQUENCES)
    for row, place in PLACES:
        expected = hidden_states(alone, IDS[row : row + 1, place], POSITIONS[row : row + 1, place])
        torch.testing.assert_close(packed[row : row + 1, place], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@torch.no_grad()
def test_neighbours_are_hidden_and_chunks_of_one_conversation_are_not(attention: str) -> None:
    model = model_with(attention)
    base = hidden_states(model, IDS, POSITIONS, SEQUENCES)
    other = IDS.clone()
    other[0, 0] += 1  # first token of the first conversation
    changed = (hidden_states(model, other, POSITIONS, SEQUENCES) - base).abs().amax(dim=-1) > 0
    assert changed[0].tolist() == [True] * 5 + [False] * 11, "it is seen across its own skips, and nowhere else"
    assert not changed[1].any()
    other = IDS.clone()
    other[0, 5] += 1  # first token of the second
    changed = (hidden_states(model, other, POSITIONS, SEQUENCES) - base).abs().amax(dim=-1) > 0
    assert changed[0].tolist() == [False] * 5 + [True] * 7 + [False] * 4


@torch.no_grad()
def test_without_borders_the_second_conversation_sees_the_first() -> None:
    model = model_with("sdpa")
    other = IDS.clone()
    other[0, 0] += 1
    change = hidden_states(model, other, POSITIONS) - hidden_states(model, IDS, POSITIONS)
    assert (change[0, 5:].abs().amax(dim=-1) > 0).all()


@torch.no_grad()
def test_flash_attention_gets_the_borders_of_the_flattened_batch() -> None:
    SEEN.clear()
    hidden_states(model_with("recorded_varlen"), IDS, POSITIONS, SEQUENCES)
    assert len(SEEN) == 2, "once for each layer"
    for seen in SEEN:
        assert seen["cu_seq_lens_q"].dtype == torch.int32
        assert seen["cu_seq_lens_q"].tolist() == seen["cu_seq_lens_k"].tolist() == [0, 5, 12, 16, 32]
        assert seen["max_length_q"] == seen["max_length_k"] == 16


def test_transformers_own_flash_function_takes_these_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_flash_attention_forward` hands borders to the varlen kernel as they are and looks at no position."""
    from transformers import modeling_flash_attention_utils as flash

    calls: list[dict[str, Any]] = []

    def kernel(q: Tensor, k: Tensor, v: Tensor, **kwargs: Any) -> Tensor:
        calls.append({"tokens": len(q), **kwargs})
        return q

    def prepare(**kwargs: Any) -> dict[str, Any]:
        return {name: kwargs[name] for name in ("max_seqlen_q", "max_seqlen_k") if name in kwargs}

    functions = (None, kernel, None, None, None), (prepare, None)
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: functions)
    decoder = model_with("flash_attention_2").get_decoder()
    arguments = decoder_arguments(decoder, SEQUENCES)
    assert arguments.pop("attention_mask") is None
    states = torch.zeros(2, 16, 4, 8)
    flash._flash_attention_forward(states, states, states, None, 16, True, position_ids=POSITIONS, **arguments)
    assert calls[0]["tokens"] == 32
    assert calls[0]["cu_seqlens_q"].tolist() == [0, 5, 12, 16, 32]
    assert calls[0]["max_seqlen_k"] == 16


def test_rows_of_one_sequence_get_the_mask_of_ones() -> None:
    decoder = model_with("sdpa").get_decoder()
    arguments = decoder_arguments(decoder, torch.ones(2, 6, dtype=torch.int64))
    assert list(arguments) == ["attention_mask"]
    assert arguments["attention_mask"].tolist() == [[1] * 6] * 2


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize("sequences", [None, torch.ones_like(SEQUENCES), SEQUENCES], ids=["none", "one", "several"])
@torch.no_grad()
def test_a_training_step_always_says_where_sequences_end(attention: str, sequences: Tensor | None) -> None:
    """Without a mask or borders, transformers would read the skips of the positions as borders."""
    model, calls = model_with(attention), list[dict[str, Any]]()
    model.get_decoder().register_forward_pre_hook(lambda _, args, kwargs: calls.append(kwargs), with_kwargs=True)
    loss(model, IDS, POSITIONS, IDS, sequences=sequences)
    (call,) = calls
    assert call["attention_mask"] is not None or call["cu_seq_lens_q"] is not None
    assert call["use_cache"] is False


@pytest.mark.parametrize("family", CONFIGS)
def test_every_family_keeps_packed_conversations_apart(family: str) -> None:
    check_packing(tiny_model(config(family)))


def test_a_model_whose_mask_is_ignored_is_refused() -> None:
    model = model_with("sdpa")

    def ignores_masks(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        key, value = (part.repeat_interleave(query.shape[1] // part.shape[1], 1) for part in (key, value))
        return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2), None

    AttentionInterface.register("ignores_masks", ignores_masks)
    model.config._attn_implementation = "ignores_masks"
    with pytest.raises(SkipwiseError, match="'llama' lets a conversation see the one before it"):
        check_packing(model)


def test_the_loss_of_packed_conversations_is_that_of_each_alone() -> None:
    model = model_with("sdpa")
    labels = IDS.clone()
    for row, place in PLACES:
        labels[row, place.start] = -100
    labels[0, 12:] = -100
    whole = loss(model, IDS, POSITIONS, labels, sequences=SEQUENCES)
    parts = [loss(model, IDS[r : r + 1, p], POSITIONS[r : r + 1, p], labels[r : r + 1, p], count=1) for r, p in PLACES]
    torch.testing.assert_close(whole, torch.stack(parts).sum() / (4 + 6 + 15))
    whole.backward()
    assert all(weight.grad is not None and torch.isfinite(weight.grad).all() for weight in model.parameters())
