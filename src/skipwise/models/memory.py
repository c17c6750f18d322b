"""Estimate whether a forward pass fits into memory, and refuse one that does not with the length that does."""

from bisect import bisect_right
from pathlib import Path

import torch
from transformers import PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.models.kv_cache_size import values_per_token
from skipwise.models.shape import ModelShape
from skipwise.models.sliced_loss import slice_tokens
from skipwise.utils.text import length_text

_CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)


def free_bytes(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`, the smaller of machine and container; None where unknown."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    available = next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    known = [value for value in (available, _container_bytes()) if value is not None]
    return min(known) if known else None


def _container_bytes() -> int | None:
    """What this container's memory limit leaves, counting file cache that can be dropped as free."""
    for limit, used, stat in _CGROUPS:
        try:
            most = int(Path(limit).read_text(encoding="ascii"))
            now = int(Path(used).read_text(encoding="ascii"))
            fields = dict(line.split() for line in Path(stat).read_text(encoding="ascii").splitlines())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        return most - now + int(fields.get("inactive_file", 0))
    return None


def chunk_tokens(model: PreTrainedModel) -> int:
    """Tokens of one forward pass when a long text is read in chunks: enough for full speed, few enough for little
    memory. On two CPU cores chunks of 1,024 to 4,096 tokens differ by 2 %."""
    return chunk_on(model.device.type)


def chunk_on(kind: str) -> int:
    """`chunk_tokens` of any model on a type of device, `cuda` or `cpu`."""
    return 16_384 if kind == "cuda" else 2048


def key_value_bytes(model: PreTrainedModel) -> int:
    """Bytes of the keys and values of one token, all layers: reading keeps every token even where layers slide."""
    return values_per_token(model.config) * int(model.dtype.itemsize) * ModelShape.of(model.config).layers


def forward_bytes(model: PreTrainedModel, tokens: int, *, chunk: int | None = None) -> int:
    """Estimate of what reading one row of `tokens` without gradients allocates, beside the weights.

    The widest moment of one layer (hidden states in and out, norms in fp32, and attention or feed-forward, whichever is
    larger) for one chunk, or for all tokens in one pass; one layer's keys and values repeated for every head; every
    layer's keys and values; and three slices of logits; a fifth more for what allocators keep.
    """
    shape, size = ModelShape.of(model.config), int(model.dtype.itemsize)
    hidden, heads, width = shape.hidden, shape.heads, shape.key_width
    once = min(chunk or tokens, tokens)  # tokens that are in one forward pass
    residual = 3 * hidden * size + 2 * hidden * 4
    # Queries twice (before and after RoPE), the output, and new keys and values.
    attention = (3 * heads + 2 * shape.key_heads) * width * size
    total = (residual + max(attention, 3 * shape.feed_forward * size)) * once
    total += (2 * heads * width * size + key_value_bytes(model)) * tokens
    total += 3 * 4 * shape.vocabulary * min(slice_tokens(shape.vocabulary, model.device.type), once)
    if model.config._attn_implementation == "eager":
        total += heads * once * tokens * (2 * size + 4)
    return total * 6 // 5


def check_memory(model: PreTrainedModel, tokens: int, *, chunk: int | None = None) -> None:
    """Nothing when reading one row of `tokens` should fit; where free memory is unknown, nothing either.

    Errors: SkipwiseError with the GiB needed and free and the longest length that fits.
    """
    free = free_bytes(model.device)
    needed = forward_bytes(model, tokens, chunk=chunk)
    if free is None or needed <= free:
        return
    fits = 64 * (bisect_right(range(0, tokens, 64), free, key=lambda n: forward_bytes(model, n, chunk=chunk)) - 1)
    longest = f"the longest length that fits is about {length_text(fits)} tokens" if fits else "not even 64 tokens fit"
    raise SkipwiseError(
        f"{length_text(tokens)} tokens need about {needed / 2**30:.1f} GiB on {model.device} and "
        f"{free / 2**30:.1f} GiB are free; {longest}"
    )
