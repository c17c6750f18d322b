"""Initial weights with an induction circuit: before any training, heads attend where they should."""

import pytest
import torch

from lab import pretrain


def test_heads_attend_to_the_predecessor_and_to_the_token_after_an_earlier_occurrence() -> None:
    """100 random tokens, twice, after a BOS: position p of the second half repeats p - 100."""
    torch.manual_seed(0)
    model = pretrain.new_model(pretrain.SIZES["packaged"], 4096).eval()
    model.set_attn_implementation("eager")
    ids = torch.cat([torch.zeros(1, dtype=torch.long), torch.randint(1, 4096, (100,)).repeat(2)])
    with torch.no_grad():
        output = model(ids[None], output_attentions=True)
    at = torch.arange(110, 200)
    first, second = (layer[0] for layer in output.attentions[:2])  # (heads, T, T)
    assert first[0, at, at - 1].mean() > 0.7
    assert first[1, at, at - 2].mean() > 0.7
    assert second[-1, at, at - 99].mean() > 0.3  # of 200 positions
    nll = -output.logits[0].log_softmax(-1)[at, ids[at + 1]].mean().item()
    assert nll < 8.318 - 0.7  # ln 4096: half as surprised as one who knows nothing


@pytest.mark.parametrize("size", pretrain.SIZES)
def test_nothing_but_the_circuit_writes(size: str) -> None:
    """Only the first two layers' attention changes the states, in columns of one query head each."""
    model = pretrain.new_model(pretrain.SIZES[size], 512)
    writing = [int((layer.self_attn.o_proj.weight != 0).any(0).sum()) for layer in model.model.layers]
    head = model.model.layers[0].self_attn.head_dim
    assert writing == [head, head] + [0] * (len(writing) - 2)
    assert not any(layer.mlp.down_proj.weight.any() for layer in model.model.layers)
