"""Models: a name, folder or GGUF file flows in; a loaded model with scaled RoPE, its losses and its text flow out.

Every forward pass over skipped positions goes through `hidden_states`, which keeps transformers from reading their
jumps as borders between packed sequences.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from skipwise import architectures, gguf_file, head, rope, source
from skipwise.config import ModelConfig, ScalingConfig
from skipwise.errors import SkipwiseError
from skipwise.progress import say

__all__ = ["LoadedModel", "apply", "greedy", "hidden_states", "load", "loss", "token_nll"]


@dataclass
class LoadedModel:
    """A model in evaluation mode with what the rest of a run wants to know about it."""

    model: PreTrainedModel
    tokenizer: Any
    name: str
    """For display."""
    path: str
    """As given: a folder, hub id, .gguf file or packaged name."""
    original_length: int
    """Window before any scaling, tokens."""
    window: int
    """Window as configured now, tokens."""
    fingerprint: str
    """Of configuration and weights; the same on every machine."""
    scaling: dict[str, Any] | None
    """RoPE scaling as written into results; None for plain RoPE."""
    quantised_from: str | None = None
    """Type of a GGUF file's weights, e.g. "Q4_1"; they are dequantised while loading."""


def load(
    config: ModelConfig,
    *,
    target_length: int | None = None,
    scaling: ScalingConfig | None = None,
    dtype: torch.dtype | None = None,
) -> LoadedModel:
    """The model and tokenizer of `config` on its device; RoPE is scaled when `scaling` and `target_length` are given.

    `dtype`: how weights are stored (float32 to train); `config.precision` when absent. Errors: SkipwiseError in one
    line for an unknown model, missing or corrupt weights, no tokenizer, no RoPE, or a scaling that does not apply.
    A model type that is not in `architectures.FAMILIES` is probed, and used with a warning.
    """
    found = source.find(config)
    device = device_of(config.device)
    read = source.configuration(found)
    facts = architectures.inspect(read)
    original = config.original_length or rope.true_original_length(read)
    carried, configured = rope.describe(read), read
    if scaling is not None and target_length is not None:
        configured = rope.scale(read, scaling, target_length=target_length, original_length=config.original_length)
        carried = {
            "method": scaling.method,
            "factor": target_length / original,
            "theta": rope.parameters(configured)["rope_theta"],
            **(rope.describe(configured) or {}),
        }
    tokenizer = source.tokenizer(found)
    stored = dtype or arithmetic(config.precision, device)
    model = source.weights(found, configured, config.attention, stored).to(device)
    if facts.row is None:
        probe(model)
    if scaling is not None and scaling.method != "none" and target_length is not None:
        _check_rope(model, _tables(model.get_decoder()), configured)
    _check_head(model)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        name=found.name,
        path=config.path,
        original_length=original,
        window=rope.window(configured),
        fingerprint=source.fingerprint(found, configured),
        scaling=carried,
        quantised_from=gguf_file.weight_type(found.file) if found.gguf else None,
    )


def arithmetic(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the forward pass: `auto` is bf16 where `device` has instructions for it, else fp32.

    Processors without them do run bf16, many times slower than fp32 (measured: 7 against 44 GFLOP/s).
    """
    if precision != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # newer than torch 2.8
        native = any(known.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    else:
        native = True
    return torch.bfloat16 if native else torch.float32


def device_of(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Errors: SkipwiseError for a device that cannot be used."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SkipwiseError(
            f"device {name!r} cannot be used here ({source.one_line(error)}); try 'auto' or 'cpu'"
        ) from error
    return device


def _check_rope(model: PreTrainedModel, tables: dict[str, Tensor], config: PreTrainedConfig) -> None:
    """SkipwiseError unless these tables of a model hold the frequencies that a scaled configuration asks for."""
    wanted = torch.from_numpy(rope.inv_freq(config, 1)).float()  # a fresh model has met no long input
    if rope.is_nested(config.get_text_config().rope_parameters):
        tables = {name: table for name, table in tables.items() if "full_attention" in name}
    same = [t.shape == wanted.shape and torch.allclose(t.float().cpu(), wanted, rtol=1e-4) for t in tables.values()]
    if not same or not all(same):
        raise SkipwiseError(
            f"the code of model type {model.config.model_type!r} does not follow the rope_parameters of its "
            "configuration, so its RoPE cannot be scaled"
        )


def _tables(module: torch.nn.Module) -> dict[str, Tensor]:
    """Buffers that hold RoPE frequencies, by name."""
    buffers = module.named_buffers()
    return {name: table for name, table in buffers if name.endswith("inv_freq") and "original" not in name}


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

    stored = {module: own for module in model.modules() if (own := _low_precision(module))}
    handles = [module.register_forward_pre_hook(widen) for module in stored]
    handles += [module.register_forward_hook(restore, always_call=True) for module in stored]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _low_precision(module: nn.Module) -> dict[nn.Parameter, Tensor]:
    """The data of a module's own weights that are stored in 16 bits."""
    own = module.parameters(recurse=False)
    return {weight: weight.data for weight in own if weight.dtype in (torch.bfloat16, torch.float16)}


@torch.no_grad()
def probe(model: PreTrainedModel) -> None:
    """Warn that a model's family is not among the tested ones; it has passed these checks of its behaviour.

    A shift of all positions changes nothing and a skip does (so positions are relative, and those given are used), and
    the last token sees the first across the skip. Errors: SkipwiseError for a model that fails one.
    """
    family = model.config.get_text_config().model_type
    ids = torch.arange(16, device=model.device)[None] % (model.config.get_text_config().vocab_size - 1)
    plain = torch.arange(16, device=model.device)[None]
    skipped = plain + (plain >= 8) * min(rope.window(model.config) // 2, 1024)

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
def _check_head(model: PreTrainedModel) -> None:
    """SkipwiseError unless our logits are the model's own, which proves that we know all its head does."""
    tokens = torch.arange(8, device=model.device)[None] % model.config.get_text_config().vocab_size
    own = model(input_ids=tokens, use_cache=False).logits.float()
    ours = head.logits(model, hidden_states(model, tokens)) if model.get_output_embeddings() is not None else own * 0
    if not torch.allclose(own, ours, rtol=0.02, atol=0.02 * own.abs().max().item()):
        raise SkipwiseError(
            f"model type {model.config.model_type!r} changes its logits in a way that is not known here, "
            "so its losses cannot be computed in slices"
        )


def apply(
    model: PreTrainedModel,
    method: str | ScalingConfig = "yarn",
    *,
    target_length: int,
    original_length: int | None = None,
) -> PreTrainedModel:
    """Scale the RoPE of a live model, which is changed and returned: it gets a new configuration and rotary tables.

    The same as loading it with the scaled configuration. Errors: SkipwiseError as `rope.scale`, before any change.
    """
    facts = architectures.inspect(model.config)
    scaled = rope.scale(model.config, method, target_length=target_length, original_length=original_length)
    if facts.row is None:
        probe(model)
    text, new = model.config.get_text_config(), scaled.get_text_config()
    decoder = model.get_decoder()
    rotary = {name.rpartition(".")[0] for name in _tables(decoder)}
    built = {name: type(decoder.get_submodule(name))(config=new).to(model.device) for name in rotary}
    _check_rope(model, {f"{name}.{k}": t for name, module in built.items() for k, t in _tables(module).items()}, scaled)
    for name, module in built.items():
        decoder.set_submodule(name, module.train(model.training))
    if any(rope.parameters(each).get("mscale_all_dim") for each in (model.config, scaled)):
        for module in decoder.modules():  # DeepSeek's layers computed the scale of their scores when they were made
            if hasattr(module, "scaling") and hasattr(module, "layer_idx"):
                with torch.device("meta"):
                    module.scaling = type(module)(new, module.layer_idx).scaling
    # The old objects may belong to other models too, so they are replaced wherever this one holds them.
    renewed = {id(model.config): scaled, id(text): new}
    for module in model.modules():
        if id(getattr(module, "config", None)) in renewed:
            module.config = renewed[id(module.config)]
    return model


def _forget_length(model: PreTrainedModel) -> None:
    """Put `dynamic` RoPE back to plain: transformers keeps the frequencies of the longest input for the next one."""
    if not rope.changes_with_length(model.config):
        return
    for module in model.get_decoder().modules():
        for name in [name for name in module._buffers if name.endswith("original_inv_freq")]:
            prefix = name.removesuffix("original_inv_freq")  # of the layer type, where there are several
            setattr(module, f"{prefix}inv_freq", getattr(module, name).clone())
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def hidden_states(model: PreTrainedModel, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
    """Hidden states that the head reads: input_ids (B, T) → (B, T, H).

    The mask of ones says that a row is one sequence; without it (and without a cache) transformers takes every jump of
    `position_ids` for the border of a packed one, and a chunk would not see those before it.
    """
    _forget_length(model)
    output = model.get_decoder()(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        position_ids=position_ids,
        use_cache=False,
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
    """-log p(token t+1 | tokens up to t) in fp32: input_ids (B, T) → (B, T-1); without gradients.

    `labels` (B, T) stand for input_ids as what is predicted; 0 where they are -100. Logits exist for `slice_tokens`
    tokens at a time, as many as 64 MiB hold when absent.
    """
    hidden = hidden_states(model, input_ids, position_ids)  # (B, T, H)
    wanted = (input_ids if labels is None else labels)[:, 1:]
    losses = head.nll(model, hidden[:, :-1].flatten(0, 1), wanted.flatten(), slice_tokens)
    return losses.view(wanted.shape)


def loss(
    model: PreTrainedModel,
    input_ids: Tensor,
    position_ids: Tensor | None,
    labels: Tensor,
    *,
    slice_tokens: int | None = None,
) -> Tensor:
    """Training loss: mean -log p over the labels that are not -100, fp32 scalar; all arguments (B, T).

    Labels stand at their token, as transformers has them; position t-1 predicts label t. Errors: SkipwiseError when
    there is no label.
    """
    hidden = hidden_states(model, input_ids, position_ids)  # (B, T, H)
    following = F.pad(labels[:, 1:], (0, 1), value=head.IGNORED)
    return head.mean_nll(model, hidden.flatten(0, 1), following.flatten(), slice_tokens)


@torch.no_grad()
def greedy(
    model: PreTrainedModel, input_ids: Tensor, max_new_tokens: int, stop: Callable[[list[int]], bool]
) -> list[int]:
    """The most probable continuation of input_ids (1, T), token by token with a cache, until `stop` of them is true."""
    _forget_length(model)
    decoder = model.get_decoder()
    tokens: list[int] = []
    step, cache = input_ids, None
    while len(tokens) < max_new_tokens:
        output = decoder(input_ids=step, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        tokens.append(int(head.logits(model, output.last_hidden_state[:, -1]).argmax()))
        if stop(tokens):
            break
        step = torch.tensor([tokens[-1:]], device=input_ids.device)
    return tokens
