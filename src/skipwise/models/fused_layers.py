"""Decoder layers that train on a CPU with fewer passes over memory and less stored for the backward pass.

Matrix products in bf16 are fast on a CPU, so that the small operations between them take half of a training step:
transformers normalises in fp32 and casts the result for each projection, rotates with mixed types (which torch does
through copies), and stores every result in between. With fp32 weights the functions here give the same losses to the
last bit; gradients differ in rounding only, because those that several projections give their common input are added in
bf16. With bf16 weights, as under adapters, RoPE is computed in fp32 here, and in bf16 by transformers.

`python benchmarks/training.py` measures what this brings.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import PreTrainedModel

from skipwise.models.device import product_dtype

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "granite")
"""Model types whose decoder layers are a norm, attention, a norm and a gated SiLU network, as those of Llama."""


class Normed(NamedTuple):
    """How a norm's output is made again, so that it need not be stored: y = x · r · weight, in a type."""

    x: Tensor  # (…, H)
    r: Tensor  # (…, 1) fp32, 1 / root mean square
    weight: Tensor  # (H,)
    dtype: torch.dtype

    def output(self) -> Tensor:
        """Compute y (…, H)."""
        unit = (self.x.float() * self.r).to(self.x.dtype)
        return (unit * self.weight).to(self.dtype)


class _Norm(torch.autograd.Function):
    """RMSNorm of x (…, H) with a weight (H,), rounded to a type (arXiv 1910.07467, equation 4)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, r: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(x, weight, r)
        return Normed(x, r, weight, dtype).output()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, r = ctx.saved_tensors
        grad, unit = grad.float(), x.float() * r
        grad_weight = (grad * unit).flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        grad = grad * weight
        share = torch.linalg.vecdot(grad, unit).div_(x.shape[-1])[..., None]
        return grad.sub_(unit.mul_(share)).mul_(r).to(x.dtype), grad_weight, None, None


class _Linear(torch.autograd.Function):
    """x (…, I) @ weight (O, I) in the type of x. Neither the cast weight nor the output of a norm is stored."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, normed: Normed | None) -> Tensor:
        ctx.normed = None
        if normed is None:
            ctx.save_for_backward(weight, x)
        else:
            ctx.normed = normed.dtype
            ctx.save_for_backward(weight, normed.x, normed.r, normed.weight)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        weight, *stored = ctx.saved_tensors
        x = stored[0]
        if ctx.normed is not None:
            _, r, scale = stored
            x = Normed(x, r, scale, ctx.normed).output().to(grad.dtype)  # the cast of `_linear`, after an fp32 norm
        return (*_linear_gradients(ctx.needs_input_grad, grad, x, weight), None)


def _linear_gradients(needed: Any, grad: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias of a linear layer, from that of its output."""
    rows = grad.flatten(0, -2)
    return (
        grad @ weight.to(grad.dtype) if needed[0] else None,
        (rows.T @ x.flatten(0, -2)).to(weight.dtype) if needed[1] else None,
        rows.sum(0, dtype=torch.float32) if needed[2] else None,
    )


class _GatedDown(torch.autograd.Function):
    """(silu(gate) · up) @ weight.T for gate and up (…, I), weight (O, I). Only gate and up are stored."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(gate, up, weight)
        return F.linear(F.silu(gate).mul_(up), weight.to(gate.dtype), None if bias is None else bias.to(gate.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, weight = ctx.saved_tensors
        active = F.silu(gate)
        inner, grad_weight, grad_bias = _linear_gradients((True, *ctx.needs_input_grad[2:]), grad, active * up, weight)
        assert inner is not None
        grad_up = active.mul_(inner)
        return torch.ops.aten.silu_backward(inner.mul_(up), gate), grad_up, grad_weight, grad_bias


class _Rotation(torch.autograd.Function):
    """Rotary position embedding of x (B, N, T, D) with cos and sin (B, 1, T, D), whose halves are equal.

    Computed in fp32 and rounded to a type (arXiv 2104.09864, equation 34, with the dimensions i and i + D/2 as a pair).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return _rotated(grad, cos, -sin, grad.dtype), None, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, dtype: torch.dtype) -> Tensor:
    half = x.shape[-1] // 2
    first, second = torch.split(x.float(), half, dim=-1)
    c, s = cos[..., :half].float(), sin[..., :half].float()
    turned = torch.empty_like(x, dtype=dtype)  # with the strides of x
    turned[..., :half] = (first * c).sub_(second * s)
    turned[..., half:] = (second * c).add_(first * s)
    return turned


def _norm(module: Any, x: Tensor) -> Tensor:
    r = x.detach().float().pow(2).mean(-1, keepdim=True).add_(module.variance_epsilon).rsqrt_()
    # What is fp32 is the residual stream: matrix products read its norm. The norm of a head's queries is not cast.
    dtype = product_dtype(x) if x.dtype == torch.float32 else torch.promote_types(x.dtype, module.weight.dtype)
    y: Tensor = _Norm.apply(x, module.weight, r, dtype)  # type: ignore[no-untyped-call]
    y.normed = Normed(x.detach(), r, module.weight.detach(), dtype)  # type: ignore[attr-defined]
    return y


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    normed = getattr(x, "normed", None)
    y: Tensor = _Linear.apply(x.to(product_dtype(x)), module.weight, module.bias, normed)  # type: ignore[no-untyped-call]
    return y


def _network(module: Any, x: Tensor) -> Tensor:
    gate, up, down = module.gate_proj(x), module.up_proj(x), module.down_proj
    if type(down) is not nn.Linear:  # an adapter
        return down(F.silu(gate) * up)  # type: ignore[no-any-return]
    y: Tensor = _GatedDown.apply(gate, up, down.weight, down.bias)  # type: ignore[no-untyped-call]
    return y


def _rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    dtype = product_dtype(q)
    return _Rotation.apply(q, cos, sin, dtype), _Rotation.apply(k, cos, sin, dtype)  # type: ignore[no-untyped-call]


def fits(model: PreTrainedModel) -> bool:
    """Whether `fused_layers` knows the model's decoder layers."""
    config, known = model.config, type(model.get_decoder()).__module__.startswith("transformers.models.")
    return known and model.device.type == "cpu" and config.model_type in FAMILIES and config.hidden_act == "silu"


@contextlib.contextmanager
def fused_layers(model: PreTrainedModel) -> Iterator[None]:
    """Train with the functions of this module inside the block. The weights of `model` are those of before.

    Args:
        model: A model that `fits`, with or without adapters of PEFT.
    """
    replaced: list[tuple[Any, str, Any]] = []

    def replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
        replaced.append((owner, name, owner.__dict__.get(name)))
        setattr(owner, name, function)

    try:
        for module in model.get_decoder().layers.modules():
            kind = type(module).__name__
            if kind.endswith("RMSNorm"):
                replace(module, "forward", _norm.__get__(module))
            elif type(module) is nn.Linear:
                replace(module, "forward", _linear.__get__(module))
            elif kind.endswith("MLP"):
                replace(module, "forward", _network.__get__(module))
            elif kind.endswith("Attention"):
                code = sys.modules[type(module).__module__]
                if code.apply_rotary_pos_emb is not _rotate:
                    replace(code, "apply_rotary_pos_emb", _rotate)
        yield
    finally:
        for owner, name, before in reversed(replaced):
            delattr(owner, name) if before is None else setattr(owner, name, before)
