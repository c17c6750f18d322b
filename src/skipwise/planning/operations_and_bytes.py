"""Floating-point operations and bytes of training and evaluation, worked out from a configuration.

Operations are counted from the shapes of the parameters. Bytes are those of a run of the real model class with tensors
that have shapes and no content, whose allocations are added up. No weights are read and nothing large is allocated.
"""

import copy
import math
import weakref
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.models import families, recomputation, sliced_loss
from skipwise.models.library_messages import one_line
from skipwise.models.shape import ModelShape

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")


@dataclass(frozen=True)
class Work:
    """Floating-point operations of a forward pass over one sequence (a multiply-add is two), and parameter counts."""

    parameters: int
    embedding: int
    """Of these, in the input embedding."""
    layers: int
    layer_flops: float
    """Matrix products of all layers for one token."""
    head_flops: float
    """Output head for one token."""
    pair_flops: float
    """Attention of one layer for one query and one key."""
    full_layers: int
    sliding_layers: int
    window: int
    adapter: int
    """Parameters of rank-1 adapters (LoRA) on every linear layer."""
    alike: bool
    """Whether all layers have parameters of the same shapes."""
    eager: bool
    """Whether attention computes and holds all its scores, as torch's fused kernel cannot compute it."""

    def pairs(self, tokens: int) -> float:
        """Queries times keys that one layer of full attention computes over `tokens` tokens.

        That is half the square, because kernels skip what is masked, but the whole square in eager attention.
        """
        return float(tokens) ** 2 if self.eager else tokens * (tokens + 1) / 2

    def attention_flops(self, tokens: int) -> float:
        """Operations of the attention of all layers over `tokens` tokens.

        A sliding layer computes the whole square if its window is shorter, because transformers then gives sdpa a mask.
        """
        causal = self.pairs(tokens)
        sliding = causal if tokens <= self.window else float(tokens) ** 2
        return self.pair_flops * (self.full_layers * causal + self.sliding_layers * sliding)


def text_only(config: PreTrainedConfig) -> PreTrainedConfig:
    """Copy the configuration of the language model, with the attention that Skipwise uses."""
    text = copy.deepcopy(config.get_text_config())
    text._attn_implementation = families.attention(config)
    return text


def build(config: PreTrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a configuration with arbitrary weights, on the default device.

    Args:
        config: Of a language model.
        dtype: Type of the weights.

    Raises:
        SkipwiseError: transformers cannot build it.
    """
    try:
        chosen = families.attention(config)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=chosen)
    except Exception as error:  # each family raises what it likes
        raise SkipwiseError(f"cannot build a model of type {config.model_type!r}: {one_line(error)}") from error
    return model


def work(config: PreTrainedConfig) -> Work:
    """Count the operations of a model.

    Args:
        config: Of the model.

    Raises:
        SkipwiseError: transformers cannot build it.
    """
    text = text_only(config)
    with torch.device("meta"):
        model = build(text, torch.float32)
    architecture = families.architecture(config)
    embedding = model.get_input_embeddings().weight
    matrices, adapter = 0.0, 0
    active = _active_share(text)
    for module in model.get_decoder().modules():
        for weight in () if isinstance(module, nn.Embedding) else module.parameters(recurse=False):
            if weight.ndim == 2:
                matrices += weight.numel()
            elif weight.ndim == 3 and weight.shape[0] == active[0]:  # the experts of one layer
                matrices += weight.numel() * active[1]
        if isinstance(module, nn.Linear):
            adapter += module.in_features + module.out_features
    shape = ModelShape.of(config)
    sliding = len(architecture.sliding_layers) if architecture.sliding_window else 0
    return Work(
        parameters=sum(weight.numel() for weight in model.parameters()),
        embedding=embedding.numel(),
        layers=architecture.layers,
        layer_flops=2 * matrices,
        head_flops=2.0 * shape.vocabulary * shape.hidden,
        pair_flops=2.0 * shape.heads * (shape.key_width + shape.value_width),
        full_layers=architecture.layers - sliding - len(architecture.linear_layers),
        sliding_layers=sliding,
        window=architecture.sliding_window or 0,
        adapter=adapter,
        alike=_alike(model),
        eager=families.attention(config) == "eager",
    )


def _active_share(text: PreTrainedConfig) -> tuple[int, float]:
    """(experts of a layer, share of them that one token uses)."""
    experts = next((int(getattr(text, key)) for key in _EXPERTS if getattr(text, key, None)), 0)
    return experts, float(getattr(text, "num_experts_per_tok", None) or experts) / experts if experts else 1.0


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive; `peak` is the most at one time, bytes."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self.known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._add, result)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.known:
            size = self.known[storage] = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self.now -= size


class _Adapted(nn.Module):
    """A frozen linear layer with a low-rank adapter beside it (LoRA, arXiv 2106.09685)."""

    def __init__(self, base: nn.Linear, rank: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=dtype)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.base(x) + self.up(self.down(x))
        return result


@dataclass(frozen=True)
class Workload:
    """What is run: `batch` sequences of `tokens`, trained or evaluated."""

    batch: int
    tokens: int
    training: bool
    bf16: bool = False
    """Arithmetic: bf16 (in training under autocast over fp32 weights), else fp32."""
    rank: int = 0
    """Of LoRA adapters on every linear layer; 0 trains all weights. The frozen weights are in the arithmetic's type."""
    checkpointing: bool = False
    """Whole layers are computed again in the backward pass."""
    elementwise: bool = False
    """All but matrix products and attention is computed again in the backward pass."""


@dataclass(frozen=True)
class Bytes:
    """Memory of a run, without the process around it."""

    weights: int
    trained: int
    """Bytes that the trained weights would take in fp32; as many their gradients, twice as many their moments."""
    forward: int
    """Most that the forward pass and the losses hold beside the weights."""
    backward: int
    """Most that the backward pass holds beside the weights, gradients included; 0 in evaluation."""

    @property
    def states(self) -> int:
        """Weights, gradients and optimiser moments: what several devices can share out."""
        return self.weights + 3 * self.trained

    def peak(self, devices: int = 1) -> int:
        """On one of `devices` that share out the states. Moments are there from the second step on."""
        working = max(self.forward, self.backward)
        if devices > 1:
            return math.ceil(self.states / devices) + working
        return max(self.weights + 2 * self.trained + working, self.states)


def bytes_of(config: PreTrainedConfig, run: Workload, *, alike: bool) -> Bytes:
    """Bytes of one training step, or of one forward pass and its losses.

    Args:
        config: Of the model.
        run: What is run.
        alike: Whether all layers have the same shapes. Then two depths are run and the rest follows on a line.

    Raises:
        SkipwiseError: The model cannot be run without content.
    """
    text = text_only(config)
    layers = ModelShape.of(text).layers
    # One layer is not enough to start from: its input, the embedding, is held differently from that of later ones.
    least = 1 + len(set(getattr(text, "layer_types", None) or ["any"]))
    if layers <= least + 1 or not alike:
        return _measured_bytes(text, run)
    first, second = (_measured_bytes(shortened(text, depth), run) for depth in (least, least + 1))
    more = layers - least
    pairs = zip(astuple(first), astuple(second), strict=True)
    return Bytes(*(a + more * (b - a) for a, b in pairs))


def shortened(text: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """Copy a configuration with `layers` layers: one of every kind, then more of the most common one."""
    short = copy.deepcopy(text)
    for key, value in text.to_dict().items():
        if isinstance(value, list) and len(value) == text.num_hidden_layers and key != "layer_types":
            setattr(short, key, value[:layers])
    kinds = getattr(text, "layer_types", None)
    if kinds:
        wanted = list(dict.fromkeys(kinds))[:layers]
        short.layer_types = wanted + [max(set(kinds), key=list(kinds).count)] * (layers - len(wanted))
    short.num_hidden_layers = layers
    return short


def _alike(model: PreTrainedModel) -> bool:
    stack = next(m for m in model.get_decoder().modules() if isinstance(m, nn.ModuleList))
    shapes = {tuple((name, tuple(weight.shape)) for name, weight in layer.named_parameters()) for layer in stack}
    return len(shapes) == 1


def _measured_bytes(text: PreTrainedConfig, run: Workload) -> Bytes:
    stored = torch.bfloat16 if run.bf16 and (run.rank or not run.training) else torch.float32
    # Kernels for experts tell shapes for bf16 alone: such a model is run in it, and fp32 counts double.
    experts = bool(_active_share(text)[0])
    computed = torch.bfloat16 if experts else stored
    try:
        with FakeTensorMode(), _Live() as live:
            model = build(text, computed)
            if run.rank:
                _adapt(model, run.rank, computed if experts else torch.float32)
            weights = live.now * stored.itemsize // computed.itemsize
            trained = sum(4 * w.numel() for w in model.parameters() if w.requires_grad) if run.training else 0
            cast = run.bf16 and run.training and not experts
            forward, backward = _peaks(model, run, live, autocast=cast)
    except SkipwiseError:
        raise
    except Exception as error:  # operations whose result's shape depends on content, and what families raise
        raise SkipwiseError(
            f"the memory of model type {text.model_type!r} cannot be worked out from its shapes: {one_line(error)}"
        ) from error
    if experts and not run.bf16:
        return Bytes(weights, trained, 2 * forward, 2 * backward)
    # Gradients are in fp32 all the same.
    return Bytes(weights, trained, forward, backward + (trained // 2 if experts else 0))


def _peaks(model: PreTrainedModel, run: Workload, live: _Live, *, autocast: bool) -> tuple[int, int]:
    """Bytes beside the weights at the worst moments of the forward and the backward pass."""
    weights = live.now
    model.train(run.training)
    if run.checkpointing and run.training:
        recomputation.recompute_layers(model)
    elif run.elementwise and run.training:
        recomputation.recompute_elementwise(model)
    ids = torch.zeros(run.batch, run.tokens, dtype=torch.long)
    live.peak = live.now
    with torch.set_grad_enabled(run.training), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
        # The head goes slice by slice, so a few slices are enough; gradients of the other tokens come on top.
        scored = min(len(hidden), 4 * sliced_loss.slice_tokens(model.config.vocab_size))
        labels, rest = ids.flatten()[:scored], hidden[scored:].nbytes
        if not run.training:
            sliced_loss.nll(model, hidden[:scored], labels)
            return live.peak - weights, 0
        loss = sliced_loss.mean_nll(model, hidden[:scored], labels, count=scored)
        del hidden
    forward, live.peak = live.peak + rest - weights, live.now
    loss.backward()  # type: ignore[no-untyped-call]
    return forward, live.peak - weights


def _adapt(model: PreTrainedModel, rank: int, dtype: torch.dtype) -> None:
    """Freeze the model and put adapters beside the linear layers of its decoder."""
    model.requires_grad_(False)
    for module in list(model.get_decoder().modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, _Adapted(child, rank, dtype))
