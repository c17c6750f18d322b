"""How fast a device is and what it holds: from the data sheet of a named GPU, or measured on this machine."""

import contextlib
import difflib
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from skipwise.config import TrainingConfig
from skipwise.errors import SkipwiseError
from skipwise.models import sliced_loss
from skipwise.models.memory import free_bytes
from skipwise.models.shape import ModelShape
from skipwise.planning import operations_and_bytes
from skipwise.training.trainer import light_layers
from skipwise.utils.allocator import kept_memory
from skipwise.utils.text import count_text

UTILISATION = 0.4
"""Share of a data sheet's operations a second that training reaches in practice, unless another one is stated."""

BANDWIDTH_SHARE = 0.8
"""Share of a data sheet's memory bandwidth that element by element work reaches."""

RUNTIME = 10**9
"""Bytes that the driver, the libraries and their buffers take on a named GPU."""

LIBRARY_BYTES = 64 * 2**20
"""Working buffers of the math libraries on a CPU, beside what a process holds once all is imported; an allowance."""

SLACK = 1.05
"""Allocators keep more bytes than tensors have. `python benchmarks/plan.py` compares the sum with a measurement."""

STEP_SECONDS = 0.004
"""What a step takes beside all sums: drawing examples, the training loop, starting kernels. An allowance."""

ADAM_TRAFFIC = 40
"""Bytes read and written for each trained parameter: gradients clipped (12), weights and moments updated (28)."""


class Sheet(NamedTuple):
    """Data sheet of a GPU."""

    title: str
    flops: float
    """Dense bf16 operations a second, with fp32 sums."""
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes a second of the memory."""
    link: float
    """Bytes a second between two GPUs in one direction: NVLink or Infinity Fabric if it has one, else PCIe."""


# Vendors' data sheets; where one gives figures with sparsity, half of them.
SHEETS = {
    "a100-40gb": Sheet("NVIDIA A100 40 GB", 312e12, 40e9, 1.555e12, 300e9),
    "a100": Sheet("NVIDIA A100 80 GB", 312e12, 80e9, 2.039e12, 300e9),
    "h100": Sheet("NVIDIA H100 SXM", 989e12, 80e9, 3.35e12, 450e9),
    "h200": Sheet("NVIDIA H200", 989e12, 141e9, 4.8e12, 450e9),
    "b200": Sheet("NVIDIA B200", 2250e12, 180e9, 8.0e12, 900e9),
    "l4": Sheet("NVIDIA L4", 121e12, 24e9, 0.3e12, 32e9),
    "l40s": Sheet("NVIDIA L40S", 362e12, 48e9, 0.864e12, 32e9),
    "rtx3090": Sheet("NVIDIA RTX 3090", 71e12, 24e9, 0.936e12, 32e9),
    "rtx4090": Sheet("NVIDIA RTX 4090", 165e12, 24e9, 1.008e12, 32e9),
    "mi300x": Sheet("AMD MI300X", 1307e12, 192e9, 5.3e12, 64e9),
}


@dataclass(frozen=True)
class Device:
    """Rates that are reached, in operations or bytes a second. Training rates are for forward and backward together."""

    name: str
    source: str
    """Where the rates come from, for the reader."""
    layers: float
    layers_training: float
    head: float
    head_training: float
    attention: float
    attention_training: float
    bandwidth: float
    link: float
    memory: int | None
    """Bytes that a run can have; None where unknown."""
    runtime: int
    """Bytes that a process holds before it has a model."""
    bf16: bool
    kind: str
    """As torch names it: cuda or cpu."""


def named(name: str, utilisation: float = UTILISATION) -> Device:
    """A GPU's data sheet at a stated utilisation.

    Args:
        name: As in SHEETS, in any case, with or without the vendor.
        utilisation: Share of the operations a second that is reached.

    Raises:
        SkipwiseError: No such GPU is known, or the utilisation is not between 0 and 1.
    """
    key = "".join(name.lower().split()).removeprefix("nvidia").removeprefix("amd").strip("-_")
    sheet = SHEETS.get(key)
    if sheet is None:
        near = difflib.get_close_matches(key, SHEETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: here, {', '.join(SHEETS)}"
        raise SkipwiseError(f"no figures for device {name!r}; {hint}")
    if not 0 < utilisation <= 1:
        raise SkipwiseError(f"utilisation {utilisation}: expected a share above 0, up to 1")
    rate = sheet.flops * utilisation
    return Device(
        name=sheet.title,
        source=f"data sheet: {sheet.flops / 1e12:,.0f} TFLOP/s bf16, at {utilisation:.0%} utilisation",
        layers=rate,
        layers_training=rate,
        head=rate,
        head_training=rate,
        attention=rate,
        attention_training=rate,
        bandwidth=sheet.bandwidth * BANDWIDTH_SHARE,
        link=sheet.link,
        memory=int(sheet.memory),
        runtime=RUNTIME,
        bf16=True,
        kind="cuda",
    )


def here(config: PreTrainedConfig, batch: int, tokens: int, *, device: torch.device, dtype: torch.dtype) -> Device:
    """Measure this machine with the shapes of a model: some layers, the head, attention, the optimiser.

    It takes some seconds.

    Args:
        config: Of the model; the weights are arbitrary.
        batch: Examples in one forward pass.
        tokens: Tokens of an example.
        device: Which device of this machine.
        dtype: Of the arithmetic; bf16 trains under autocast.

    Raises:
        SkipwiseError: Not even a few layers fit.
    """
    runtime = resident() + LIBRARY_BYTES if device.type == "cpu" else RUNTIME
    probe = _Probe(config, batch, tokens, device, dtype)
    free = free_bytes(device)
    on_cpu = f"CPU, {count_text(torch.get_num_threads(), 'thread')}"
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    arithmetic = str(dtype).removeprefix("torch.")
    attention = probe.attention(training=False)
    layers, head = probe.layers(False, attention), probe.head(False)
    with kept_memory() if device.type == "cpu" else contextlib.nullcontext():  # as training does
        attention_training = probe.attention(training=True)
        layers_training, head_training = probe.layers(True, attention_training), probe.head(True)
    return Device(
        name=f"this machine ({kind})",
        source=f"measured in {arithmetic} with the model's own shapes",
        layers=layers,
        layers_training=layers_training,
        head=head,
        head_training=head_training,
        attention=attention,
        attention_training=attention_training,
        bandwidth=probe.bandwidth(),
        link=SHEETS["a100"].link if device.type == "cuda" else 1e9,
        memory=None if free is None else free + (runtime if device.type == "cpu" else 0),
        runtime=runtime,
        bf16=dtype == torch.bfloat16,
        kind=device.type,
    )


def resident() -> int:
    """Bytes of main memory that this process holds now; 0 if the system does not report it."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096
    except OSError:
        return 0


PROBE_SECONDS = 0.6
"""Each figure is the least of as many runs as fit into this time, two at least."""

_MOST_TOKENS = 2048
_CPU_FLOPS = 2e10  # of one layer's forward and backward pass: a second or less
_VOCABULARY = 512


class _Probe:
    """Times parts of a model of few layers. Rates come back in operations or bytes a second."""

    def __init__(
        self, config: PreTrainedConfig, batch: int, tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.text, self.work = operations_and_bytes.text_only(config), operations_and_bytes.work(config)
        self.device, self.dtype = device, dtype
        most = _MOST_TOKENS
        if device.type == "cpu":
            fits = int(_CPU_FLOPS * self.work.layers / (3 * self.work.layer_flops))
            most = max(128, min(most, fits))
        self.tokens = min(tokens, most)
        self.batch = max(1, min(batch, most // self.tokens))

    def _seconds(self, run: Callable[[], None]) -> float:
        """Least seconds of a run after a first one that warms up."""
        best, started, runs = float("inf"), 0.0, -1
        while runs < 2 or time.perf_counter() - started < PROBE_SECONDS:
            before = time.perf_counter()
            run()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            after = time.perf_counter()
            runs += 1
            if runs:
                best = min(best, after - before)
            else:
                started = after
        return best

    def _model(self, layers: int, training: bool) -> PreTrainedModel:
        short = operations_and_bytes.shortened(self.text, layers)
        short.vocab_size = min(_VOCABULARY, short.vocab_size)
        for key in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(short, key, None)
        stored = torch.float32 if training else self.dtype
        return operations_and_bytes.build(short, stored).to(self.device).train(training)

    def layers(self, training: bool, attention: float) -> float:
        """Some layers beside two more: what is done once, such as the embedding, drops out; attention is taken off."""
        kinds = len(set(getattr(self.text, "layer_types", None) or ["any"]))
        ids = torch.randint(2, _VOCABULARY - 1, (self.batch, self.tokens), device=self.device) % self.text.vocab_size
        seconds = []
        for depth in (kinds, kinds + 2):
            model = self._model(depth, training)
            with light_layers(model, TrainingConfig()) if training else contextlib.nullcontext():
                seconds.append(self._seconds(partial(self._pass, model.get_decoder(), ids, training)))
        per_layer = (seconds[1] - seconds[0]) / 2
        times, share = (3, 3.5) if training else (1, 1)
        pairs = self.batch * self.work.pairs(self.tokens)
        within = share * self.work.pair_flops * pairs / attention
        # Noise must not turn what is left into nothing.
        rest = max(per_layer - within, 0.2 * per_layer, 1e-7)
        return times * self.batch * self.tokens * self.work.layer_flops / self.work.layers / rest

    def _pass(self, decoder: torch.nn.Module, ids: torch.Tensor, training: bool) -> None:
        cast = self.dtype == torch.bfloat16 and training
        with torch.set_grad_enabled(training), torch.autocast(self.device.type, torch.bfloat16, enabled=cast):
            states = decoder(input_ids=ids, use_cache=False).last_hidden_state
        if training:
            states.sum().backward()
            decoder.zero_grad(set_to_none=True)

    def head(self, training: bool) -> float:
        short = operations_and_bytes.shortened(self.text, 1)
        tokens = min(self.batch * self.tokens, 2 * sliced_loss.slice_tokens(short.vocab_size, self.device.type))
        weight = torch.randn(short.vocab_size, short.hidden_size, device=self.device)
        weight = weight.requires_grad_() if training else weight.to(self.dtype)
        hidden = torch.randn(tokens, short.hidden_size, device=self.device).to(weight.dtype).requires_grad_(training)
        labels = torch.randint(short.vocab_size, (tokens,), device=self.device)
        size = min(tokens, sliced_loss.slice_tokens(short.vocab_size, self.device.type))

        def evaluate() -> None:
            with torch.no_grad():
                for part, label in zip(torch.split(hidden, size), torch.split(labels, size), strict=True):
                    F.cross_entropy((part @ weight.T).float(), label, reduction="none")

        def train() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16):
                sliced_loss.linear_mean_nll(hidden, weight, labels, size).backward()  # type: ignore[no-untyped-call]
            hidden.grad = weight.grad = None

        return (3 if training else 1) * tokens * self.work.head_flops / self._seconds(train if training else evaluate)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        if not self.work.eager:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.mT + torch.zeros(q.shape[-2], k.shape[-2], device=q.device, dtype=q.dtype)  # the mask
        return scores.softmax(-1, dtype=torch.float32).to(v.dtype) @ v

    def attention(self, training: bool) -> float:
        """Attention, in evaluation over a sequence that is long but takes no more than a second or so."""
        heads = ModelShape.of(self.text).heads
        width = max(1, round(self.work.pair_flops / (4 * heads)))
        tokens = self.tokens if training else _MOST_TOKENS
        batch = self.batch if training else 1
        shape = (batch, heads, tokens, width)
        stored = self.dtype
        q, k, v = (torch.randn(shape, device=self.device, dtype=stored, requires_grad=training) for _ in range(3))

        def run() -> None:
            with torch.set_grad_enabled(training):
                out = self._attend(q, k, v)
            if training:
                out.sum().backward()  # type: ignore[no-untyped-call]
                q.grad = k.grad = v.grad = None

        pairs = batch * self.work.pairs(tokens)
        return (3.5 if training else 1) * pairs * self.work.pair_flops / self._seconds(run)

    def bandwidth(self) -> float:
        """Bytes a second of clipping and AdamW over some million parameters."""
        weights = [torch.nn.Parameter(torch.randn(1024, 1024, device=self.device)) for _ in range(16)]
        optimiser = torch.optim.AdamW(weights, lr=1e-5, fused=True)
        for weight in weights:
            weight.grad = torch.randn_like(weight)

        def run() -> None:
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimiser.step()

        return ADAM_TRAFFIC * sum(weight.numel() for weight in weights) / self._seconds(run)
