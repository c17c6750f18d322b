"""Check how a loaded model behaves: whether its code uses RoPE as its configuration says, and what its head does."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.models import sliced_loss
from skipwise.models.forward import hidden_states
from skipwise.rope import hf_config
from skipwise.utils.progress import say


def check_rope(
    model: PreTrainedModel, tables: dict[str, Tensor], config: PreTrainedConfig, rotary: Iterable[nn.Module] = ()
) -> None:
    """Check that a model's code computes the RoPE that a scaled configuration asks for.

    Args:
        model: Gives its name to the message.
        tables: Frequencies by name, as `rope_tables` gives them; each (rotary_dim / 2,).
        config: The scaled configuration.
        rotary: The modules that make cos and sin; their factor on both is checked too.

    Raises:
        SkipwiseError: Other frequencies, or another attention factor.
    """
    kind = model.config.model_type
    wanted = torch.from_numpy(hf_config.inv_freq(config, 1)).float()  # a fresh model has met no long input
    if hf_config.is_nested(config.get_text_config().rope_parameters):
        tables = {name: table for name, table in tables.items() if "full_attention" in name}
    same = [t.shape == wanted.shape and torch.allclose(t.float().cpu(), wanted, rtol=1e-4) for t in tables.values()]
    if not same or not all(same):
        raise SkipwiseError(
            f"the code of model type {kind!r} does not follow the rope_parameters of its "
            "configuration, so its RoPE cannot be scaled"
        )
    factor = hf_config.attention_factor(config)
    for module in rotary:
        actual = _attention_factor(module)
        if not math.isclose(actual, factor, rel_tol=1e-4):
            raise SkipwiseError(
                f"the code of model type {kind!r} does not follow the attention factor of its rope_parameters: cos and "
                f"sin are multiplied by {actual:g} and not by {factor:g}; choose a scaling.method without one, e.g. ntk"
            )


@torch.no_grad()
def _attention_factor(module: nn.Module) -> float:
    """The factor on cos and sin that a rotary module applies: what it gives for position 0, where cos is 1.

    The attribute counts where the module cannot be called like transformers' own; 1 where there is none.
    """
    table = next(module.buffers())
    start = torch.zeros(1, 1, dtype=torch.long, device=table.device)
    nested = {"layer_type": "full_attention"} if "layer_type" in signature(module.forward).parameters else {}
    try:
        made = module(torch.zeros(1, 1, 1, device=table.device), start, **nested)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return float(getattr(module, "attention_scaling", 1.0))
    cos: Tensor = made[0] if isinstance(made, tuple) else made  # or cos + i sin in one
    return float(cos.abs().max())


def rope_tables(module: torch.nn.Module) -> dict[str, Tensor]:
    """Buffers that hold RoPE frequencies, by name."""
    buffers = module.named_buffers()
    return {name: table for name, table in buffers if name.endswith("inv_freq") and "original" not in name}


def rotary_modules(decoder: nn.Module) -> dict[str, nn.Module]:
    """The modules that make cos and sin, by name."""
    names = dict.fromkeys(name.rpartition(".")[0] for name in rope_tables(decoder))
    return {name: decoder.get_submodule(name) for name in names}


@contextmanager
def full_precision(model: PreTrainedModel) -> Iterator[None]:
    """Until the block ends, each module of `model` computes in fp32, with its weights widened while it runs.

    For checks of what a model's code does. bf16 would hide that in rounding: two ways to compute the same token of a
    trained model were seen to differ by more than the token's own norm, where its activations are massive
    (arXiv 2402.17762).
    """

    def widen(module: nn.Module, args: Any) -> None:
        for weight in stored[module]:
            weight.data = weight.data.float()

    def restore(module: nn.Module, args: Any, output: Any) -> None:
        for weight, data in stored[module].items():
            weight.data = data

    stored = {module: weights for module in model.modules() if (weights := _low_precision(module))}
    handles = [module.register_forward_pre_hook(widen) for module in stored]
    handles += [module.register_forward_hook(restore, always_call=True) for module in stored]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _low_precision(module: nn.Module) -> dict[nn.Parameter, Tensor]:
    """The data of a module's own weights that are stored in 16 bits."""
    weights = module.parameters(recurse=False)
    return {weight: weight.data for weight in weights if weight.dtype in (torch.bfloat16, torch.float16)}


@torch.no_grad()
def probe(model: PreTrainedModel) -> None:
    """Check a model whose family is not among the tested ones, and warn that it is not.

    A shift of all positions must change nothing and a skip must (so positions are relative, and those given are used),
    and the last token must see the first across the skip.

    Raises:
        SkipwiseError: The model fails one of these.
    """
    family = model.config.get_text_config().model_type
    ids = torch.arange(16, device=model.device)[None] % (model.config.get_text_config().vocab_size - 1)
    plain = torch.arange(16, device=model.device)[None]
    skipped = plain + (plain >= 8) * min(hf_config.window(model.config) // 2, 1024)

    def last(tokens: Tensor, positions: Tensor) -> Tensor:
        with full_precision(model):
            return hidden_states(model, tokens, positions)[:, -1].float()

    base = last(ids, plain)
    shift, skip = ((last(ids, moved) - base).norm() for moved in (plain + 8, skipped))
    if not skip > 2 * shift:
        raise SkipwiseError(
            f"model type {family!r} is not among the tested ones, and its code does not take position_ids as RoPE does "
            f"(a shift of all positions changes the last state by {shift:.2g}, a skip by {skip:.2g})"
        )
    other = torch.cat([ids[:, :1] + 1, ids[:, 1:]], dim=1)
    if not (last(other, skipped) - last(ids, skipped)).abs().max() > 0:
        raise SkipwiseError(
            f"model type {family!r} is not among the tested ones, and its tokens do not see those before a skip"
        )
    say(f"model type {family!r} is not among the tested ones; its use of positions was probed and looks like RoPE")


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """Check that a model keeps the sequences of a row apart, and that each sees all of itself across a skip.

    Raises:
        SkipwiseError: It does not, or its code cannot take such rows.
    """
    ids = torch.arange(1, 13, device=model.device)[None] % (model.config.get_text_config().vocab_size - 1)
    sequences = torch.tensor([[1] * 4 + [2] * 6 + [0] * 2], device=model.device)
    positions = torch.tensor([[0, 1, 8, 9, 0, 1, 2, 20, 21, 22, 0, 1]], device=model.device)

    def last(changed: int | None) -> Tensor:
        tokens = ids.clone()
        if changed is not None:
            tokens[0, changed] += 1
        with full_precision(model):
            return hidden_states(model, tokens, positions, sequences)[0, 9].float()

    kind = f"model type {model.config.model_type!r}"
    try:
        base = last(None)
        inside, outside = ((last(changed) - base).abs().max() for changed in (4, 3))
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SkipwiseError(f"{kind} takes no rows of several conversations ({reason}); train it on text") from error
    if not inside > 0:
        raise SkipwiseError(f"{kind} hides the start of a conversation behind a skip; train it on text")
    if not outside < 1e-3 * inside:  # rounding may differ where experts get other tokens
        raise SkipwiseError(f"{kind} lets a conversation see the one before it in its row; train it on text")


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Check that our logits are those of the model, so that we know all that its head does.

    Raises:
        SkipwiseError: They differ.
    """
    tokens = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    theirs = model(input_ids=tokens, use_cache=False).logits.float()
    ours = (
        sliced_loss.logits(model, hidden_states(model, tokens))
        if model.get_output_embeddings() is not None
        else theirs * 0
    )
    if not torch.allclose(theirs, ours, rtol=0.02, atol=0.02 * theirs.abs().max().item()):
        raise SkipwiseError(
            f"model type {model.config.model_type!r} changes its logits in a way that is not known here, "
            "so its losses cannot be computed in slices"
        )
