"""Devices and the arithmetic that they are fast at."""

from typing import Any

import torch

from skipwise.errors import SkipwiseError
from skipwise.models.library_messages import one_line


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


def product_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype of matrix products with `x` here: autocast's inside its block, else that of `x`."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def device_of(name: str) -> torch.device:
    """`auto` is CUDA where there is one. Errors: SkipwiseError for a device that cannot be used."""
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SkipwiseError(f"device {name!r} cannot be used here ({one_line(error)}); try 'auto' or 'cpu'") from error
    return device
