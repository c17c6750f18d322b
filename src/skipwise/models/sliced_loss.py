"""Compute losses from hidden states a slice of tokens at a time, so that [tokens x vocabulary] never exists whole.

Evaluation takes a loss for each token, training their mean. All losses are fp32.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from skipwise.data.labels import IGNORED as IGNORED
from skipwise.errors import SkipwiseError
from skipwise.models.device import product_dtype
from skipwise.models.teaching import Teaching

SLICE_BYTES = 64 * 2**20
"""Size of the fp32 logits of one slice on a CPU."""
GPU_SLICE_BYTES = 512 * 2**20
"""The same on a GPU, which needs a thousand rows of a large vocabulary to be busy."""

BLOCK = 4096
"""Rows of the head whose gradient is added at a time on a CPU: the sum of bf16 to fp32 makes a copy, which then stays
in cache (57 ms instead of 115 for 49,152 rows on two cores)."""


def slice_tokens(vocabulary: int, kind: str = "cpu") -> int:
    """Tokens in a slice whose fp32 logits take about SLICE_BYTES; at least 16. `kind` is the type of the device."""
    return max(16, (SLICE_BYTES if kind == "cpu" else GPU_SLICE_BYTES) // (4 * vocabulary))


def transform(model: PreTrainedModel) -> Callable[[Tensor], Tensor] | None:
    """What the model does to its head's output (a scale, a soft cap); None for nothing."""
    text = model.config.get_text_config()
    scale = float(getattr(text, "logit_scale", None) or 1.0)  # Cohere
    scale /= float(getattr(text, "logits_scaling", None) or 1.0)  # Granite
    scale *= float(getattr(text, "lm_head_multiplier", None) or 1.0)  # Falcon-H1
    cap = getattr(text, "final_logit_softcapping", None)  # Gemma-2
    if scale == 1.0 and not cap:
        return None
    return lambda logits: cap * torch.tanh(logits * scale / cap) if cap else logits * scale


def logits(model: PreTrainedModel, hidden: Tensor, head: nn.Module | None = None) -> Tensor:
    """fp32 logits (…, V) of hidden states (…, H), as the model itself makes them, or with another head."""
    change = transform(model)
    raw: Tensor = (head or model.get_output_embeddings())(hidden)
    return (change(raw) if change else raw).float()


def nll(model: PreTrainedModel, hidden: Tensor, labels: Tensor, tokens: int | None = None) -> Tensor:
    """-log p(label) of each hidden state, fp32; 0 where the label is -100. hidden (N, H), labels (N,) → (N,)."""
    size = tokens or slice_tokens(model.config.get_text_config().vocab_size, hidden.device.type)
    parts = zip(torch.split(hidden, size), torch.split(labels, size), strict=True)
    losses = [F.cross_entropy(logits(model, h), y, reduction="none", ignore_index=IGNORED) for h, y in parts]
    return torch.cat(losses)


def mean_nll(
    model: PreTrainedModel,
    hidden: Tensor,
    labels: Tensor,
    tokens: int | None = None,
    count: int | None = None,
    teaching: Teaching | None = None,
) -> Tensor:
    """Mean of `nll` over the labels that are not -100, differentiable. hidden (N, H), labels (N,) → scalar.

    `count`: what the sum is divided by, when it is not the number of these labels or that number is known. `teaching`:
    of tokens that have labels; their losses are those of `models.teaching`.

    The gradients of hidden states and head are made in the forward pass, slice by slice (the idea of Liger's fused
    linear cross-entropy, arXiv 2410.10989), so the backward pass only scales them and nothing is
    computed twice. A head that is more than a linear layer is recomputed instead.
    """
    head = _active(model.get_output_embeddings())
    size = tokens or slice_tokens(model.config.get_text_config().vocab_size, hidden.device.type)
    count = int((labels != IGNORED).sum()) if count is None else count
    if not count:
        raise SkipwiseError("a batch has no label to learn from: every one is masked")
    if not torch.is_grad_enabled():
        return nll(model, hidden, labels, size).sum() / count
    if type(head) is nn.Linear and transform(model) is None:
        return linear_mean_nll(hidden, head.weight, labels, size, bias=head.bias, count=count, teaching=teaching)

    def part(h: Tensor, y: Tensor, start: int) -> Tensor:
        scores = logits(model, h)
        lesson = teaching.of(start, start + len(y)) if teaching else None
        if lesson is None:
            return F.cross_entropy(scores, y, reduction="sum", ignore_index=IGNORED)
        others = y.index_fill(0, lesson.rows, IGNORED)
        ordinary = F.cross_entropy(scores, others, reduction="sum", ignore_index=IGNORED)
        return ordinary + lesson.loss(scores[lesson.rows], y[lesson.rows])

    parts = zip(torch.split(hidden, size), torch.split(labels, size), strict=True)
    losses = [checkpoint(part, h, y, i * size, use_reentrant=False) for i, (h, y) in enumerate(parts)]
    return torch.stack(losses).sum() / count


def _active(head: nn.Module) -> nn.Module:
    """The head itself, or the trained copy of it where PEFT has wrapped it (`modules_to_save`)."""
    copies, active = getattr(head, "modules_to_save", None), getattr(head, "active_adapters", None)
    return copies[active[0]] if isinstance(copies, nn.ModuleDict) and active else head


def linear_mean_nll(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    size: int,
    bias: Tensor | None = None,
    count: int | None = None,
    teaching: Teaching | None = None,
) -> Tensor:
    """`mean_nll` of a linear head (V, H) over slices of at most `size` tokens, in bf16 of twice as many.

    Each slice adds a gradient to that of the whole head, so few slices are better. In bf16 there is room for more
    tokens, because only a quarter of a slice is in fp32 at a time.
    """
    if product_dtype(hidden) != torch.float32:
        size *= 2
    even = math.ceil(len(labels) / math.ceil(len(labels) / size))  # no short slice at the end
    known = int((labels != IGNORED).sum()) if count is None else count
    loss: Tensor = _LinearCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, labels, known, even, teaching
    )
    return loss


def _to_gradient(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """The summed losses of fp32 logits (S, V), which become in place the gradient of that sum divided by `count`."""
    scored = labels != IGNORED
    target = labels.clamp(min=0)[:, None]
    scores -= scores.amax(dim=-1, keepdim=True)
    chosen = scores.gather(1, target)
    sums = scores.exp_().sum(dim=-1, keepdim=True)
    share = (scored / count)[:, None]
    scores *= share / sums  # softmax …
    scores.scatter_add_(1, target, -share)  # … minus one-hot
    return torch.where(scored, (sums.log() - chosen)[:, 0], 0.0).sum()


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of a linear head over slices; hidden (N, H), weight (V, H), bias (V,) or None, labels (N,)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        count: int,
        size: int,
        teaching: Teaching | None,
    ) -> Tensor:
        device = hidden.device.type
        dtype = product_dtype(hidden)
        need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if need_weight else None
        grad_bias = torch.zeros_like(weight[:, 0], dtype=torch.float32) if need_bias else None
        # Two buffers serve every slice: fresh ones of this size cost the system more than the sums in them.
        raw = torch.empty(size, len(weight), dtype=dtype, device=hidden.device)  # (S, V)
        step = size if dtype == torch.float32 else math.ceil(size / 4)
        exact = None if dtype == torch.float32 else torch.empty_like(raw[:step], dtype=torch.float32)
        with torch.autocast(device, enabled=False):
            w = weight.to(dtype)
            for start in range(0, len(labels), size):
                h = hidden[start : start + size].to(dtype)
                r = raw[: len(h)]
                torch.mm(h, w.T, out=r)
                if bias is not None:
                    r += bias.to(dtype)
                for first in range(start, start + len(h), step):  # to the gradient in fp32, in place
                    part = r[first - start : first - start + step]
                    y = labels[first : first + len(part)]
                    x = part if exact is None else exact[: len(part)].copy_(part)
                    lesson = teaching.of(first, first + len(y)) if teaching else None
                    if lesson is None:
                        total += _to_gradient(x, y, count)
                    else:
                        taught = x[lesson.rows]
                        total += lesson.to_gradient(taught, y[lesson.rows], count)
                        total += _to_gradient(x, y.index_fill(0, lesson.rows, IGNORED), count)
                        x[lesson.rows] = taught
                    if grad_bias is not None:
                        grad_bias += x.sum(dim=0)
                    if x is not part:
                        part.copy_(x)
                if grad_hidden is not None:
                    grad_hidden[start : start + size] = r @ w
                if grad_weight is not None and dtype == torch.float32:
                    grad_weight.addmm_(r.T, h)
                elif grad_weight is not None:
                    for block, columns in zip(
                        torch.split(grad_weight, BLOCK), torch.split(r, BLOCK, dim=1), strict=True
                    ):
                        block += columns.T @ h
        ctx.gradients = (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the loss was already differentiated; its gradients are scaled in place, once")
        gradients, ctx.gradients = ctx.gradients, None
        return (*(None if g is None else g.mul_(grad) for g in gradients), None, None, None, None)
