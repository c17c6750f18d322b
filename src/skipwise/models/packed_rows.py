"""Keep the sequences that share a row apart, while the chunks of each see one another although their positions skip.

A row's `attention_mask` numbers its sequences: 1, 2, …, and 0 for what is left over at its end. transformers itself
tells sequences apart by jumps of `position_ids`, which skipped positions are full of. So the borders go to it by
themselves: to sdpa, eager and flex attention as a mask, made once for a batch by transformers' own functions from
positions that count from 0 in each sequence; to flash attention as the `cu_seq_lens` of the flattened batch.
"""

from typing import Any

import torch
from torch import Tensor, nn

from skipwise.errors import SkipwiseError


def decoder_arguments(decoder: nn.Module, sequences: Tensor) -> dict[str, Any]:
    """Make what a decoder takes beside the ids and their positions.

    Args:
        decoder: A decoder of transformers.
        sequences: Numbers of the sequences in each row, [B, T].

    Returns:
        `attention_mask`, and the arguments of flash attention where that is in use. A mask of ones where every row is
        one sequence.

    Raises:
        SkipwiseError: The decoder has layers that cannot keep sequences apart.
    """
    if bool((sequences == 1).all()):
        return {"attention_mask": torch.ones_like(sequences)}
    starts = _places_in_sequence(sequences) == 0
    if _takes_lengths(decoder):
        return {"attention_mask": None, **_lengths(starts.flatten())}
    return {"attention_mask": _masks(decoder, sequences)}


def _places_in_sequence(sequences: Tensor) -> Tensor:
    """Count the tokens of each sequence from 0, [B, T]."""
    places = torch.arange(sequences.shape[1], device=sequences.device).expand_as(sequences)
    new = torch.ones_like(sequences, dtype=torch.bool)
    new[:, 1:] = sequences[:, 1:] != sequences[:, :-1]
    first = torch.where(new, places, 0).cummax(dim=1).values
    return places - first


def _takes_lengths(decoder: nn.Module) -> bool:
    """Whether the attention in use gets no mask from transformers, but the lengths of the sequences."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

    config: Any = decoder.config
    name = config._attn_implementation
    return ALL_MASK_ATTENTION_FUNCTIONS.get(name, flash_attention_mask) is flash_attention_mask


def _lengths(starts: Tensor) -> dict[str, Any]:
    """Flash attention's arguments for a flattened batch [B * T], given where sequences start."""
    places = torch.nonzero(starts).flatten()
    ends = torch.cat([places, places.new_tensor([len(starts)])]).to(torch.int32)
    longest = int(ends.diff().max())
    return {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}


def _masks(decoder: nn.Module, sequences: Tensor) -> Any:
    """The mask of a batch; one for each type of layer where there are several."""
    from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

    config: Any = decoder.config
    makers = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
    window = "sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"
    types = sorted(set(getattr(config, "layer_types", None) or [window]))
    if unknown := [name for name in types if name not in makers]:
        raise SkipwiseError(
            f"model type {config.model_type!r} has layers of type {unknown[0]!r}, which cannot keep the conversations "
            "of one row apart; train it on text"
        )
    weight = next(decoder.parameters())
    arguments = {
        "config": config,
        "inputs_embeds": torch.empty(*sequences.shape, 1, dtype=weight.dtype, device=sequences.device),
        "attention_mask": None,
        "past_key_values": None,
        "position_ids": _places_in_sequence(sequences),
    }
    masks = {name: makers[name](**arguments) for name in types}
    return masks if len(types) > 1 else masks[types[0]]
