"""Forward passes: hidden states, losses and greedy decoding.

Every forward pass over skipped positions goes through `hidden_states`, which keeps transformers from reading their
jumps as borders between packed sequences.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.models import packed_rows, sliced_loss
from skipwise.models.teaching import Teaching
from skipwise.rope import hf_config


def forget_length(model: PreTrainedModel) -> None:
    """Put `dynamic` RoPE back to plain: transformers keeps the frequencies of the longest input for the next one."""
    if not hf_config.changes_with_length(model.config):
        return
    for module in model.get_decoder().modules():
        for name in [name for name in module._buffers if name.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")  # of the layer type, where there are several
            setattr(module, f"{prefix}inv_freq", getattr(module, name).clone())
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def hidden_states(
    model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor | None = None, sequences: Tensor | None = None
) -> Tensor:
    """Hidden states that the head reads: input_ids (B, T) → (B, T, H).

    The mask of ones says that a row is one sequence; without it (and without a cache) transformers takes every jump of
    `position_ids` for the border of a packed one, and a chunk would not see those before it. `sequences` (B, T)
    numbers those of rows that hold several (see `packed_rows`).
    """
    forget_length(model)
    decoder = model.get_decoder()
    mask = {"attention_mask": torch.ones_like(input_ids)}
    output = decoder(
        input_ids=input_ids,
        position_ids=position_ids,
        use_cache=False,
        **(mask if sequences is None else packed_rows.decoder_arguments(decoder, sequences)),
    )
    states: Tensor = output.last_hidden_state
    return states


@torch.no_grad()
def token_nll(
    model: PreTrainedModel,
    input_ids: Tensor,
    position_ids: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    slice_tokens: int | None = None,
) -> Tensor:
    """Compute -log p(token t+1 | tokens up to t) in fp32, without gradients.

    Args:
        model: A causal model of transformers.
        input_ids: Token ids [B, T].
        position_ids: Positions [B, T] or [1, T]; 0 to T-1 when absent.
        labels: What is predicted [B, T]; `input_ids` when absent. The loss is 0 where a label is -100.
        slice_tokens: Tokens whose logits exist at a time; as many as 64 MiB hold (512 MiB on a GPU) when absent.

    Returns:
        Losses, nats [B, T-1].

    Raises:
        SkipwiseError: A tensor does not have its shape, or `input_ids` holds what are no tokens of the model.
    """
    _check_ids(model, input_ids)
    for name, tensor in (("position_ids", position_ids), ("labels", labels)):
        if tensor is not None and (tensor.ndim != 2 or tensor.shape[1] != input_ids.shape[1]):
            shape, expected = list(tensor.shape), list(input_ids.shape)
            raise SkipwiseError(f"{name} has the shape {shape}: expected {expected}, as input_ids")
    hidden = hidden_states(model, input_ids, position_ids)  # (B, T, H)
    wanted = (input_ids if labels is None else labels)[:, 1:]
    losses = sliced_loss.nll(model, hidden[:, :-1].flatten(0, 1), wanted.flatten(), slice_tokens)
    return losses.view(wanted.shape)


def _check_ids(model: PreTrainedModel, input_ids: Tensor) -> None:
    """Reject what an embedding cannot look up; on a GPU such an id would end the process."""
    if not isinstance(input_ids, Tensor):
        raise SkipwiseError(
            f"input_ids is of type {type(input_ids).__name__}: expected a tensor, as torch.tensor([ids])"
        )
    if input_ids.ndim != 2 or not input_ids.numel():
        raise SkipwiseError(
            f"input_ids has the shape {list(input_ids.shape)}: expected [batch, tokens], as input_ids[None]"
        )
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise SkipwiseError(f"input_ids holds {input_ids.dtype}: expected torch.int64, as input_ids.long()")
    rows = model.get_input_embeddings().weight.shape[0]
    low, high = (int(bound) for bound in input_ids.aminmax())
    if low < 0 or high >= rows:
        raise SkipwiseError(
            f"input_ids holds {low if low < 0 else high}: expected 0 to {rows - 1}, the rows of the embedding; "
            "use the tokenizer of this model"
        )


def loss(
    model: PreTrainedModel,
    input_ids: Tensor,
    position_ids: Tensor | None,
    labels: Tensor,
    *,
    sequences: Tensor | None = None,
    slice_tokens: int | None = None,
    count: int | None = None,
    teaching: Teaching | None = None,
) -> Tensor:
    """Training loss: mean -log p over the labels that are not -100, fp32 scalar; all arguments (B, T).

    Labels stand at their token, as transformers has them; position t-1 predicts label t. `count` divides the sum in
    place of the number of labels, so that the losses of the parts of a larger batch add up to its mean. `sequences`: as
    in `hidden_states`. `teaching`: what a teacher says about the B·T predictions, in the order of the hidden states.
    Errors: SkipwiseError when there is no label.
    """
    hidden = hidden_states(model, input_ids, position_ids, sequences)  # (B, T, H)
    following = F.pad(labels[:, 1:], (0, 1), value=sliced_loss.IGNORED)
    return sliced_loss.mean_nll(model, hidden.flatten(0, 1), following.flatten(), slice_tokens, count, teaching)


@torch.no_grad()
def greedy(
    model: PreTrainedModel, input_ids: Tensor, max_new_tokens: int, stop: Callable[[list[int]], bool]
) -> list[int]:
    """The most probable continuation of input_ids (1, T), token by token with a cache, until `stop` of them is true."""
    forget_length(model)
    decoder = model.get_decoder()
    tokens: list[int] = []
    step, cache = input_ids, None
    while len(tokens) < max_new_tokens:
        output = decoder(input_ids=step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        tokens.append(int(sliced_loss.logits(model, output.last_hidden_state[:, -1]).argmax()))
        if stop(tokens):
            break
        step = torch.tensor([tokens[-1:]], device=input_ids.device)
    return tokens
