"""What a run will cost on a device, worked out from a configuration before anything is loaded.

A training step of PoSE stands beside full-length training and the evaluation at the target, with the number of examples
that show every distance of the target. The facts are plain values: `dataclasses.asdict` makes them JSON, and
report/plan_view.py shows them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from transformers import PreTrainedConfig

from skipwise.config import DEFAULT_TRAIN_LENGTH, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models import configuration, families, recomputation, sources
from skipwise.models.device import arithmetic, device_of
from skipwise.models.kv_cache_size import kv_cache
from skipwise.models.memory import chunk_on
from skipwise.models.reach import reach
from skipwise.models.shape import ModelShape
from skipwise.planning import devices, operations_and_bytes, suite_times
from skipwise.planning.devices import UTILISATION, Device
from skipwise.planning.operations_and_bytes import Bytes, Work, Workload
from skipwise.planning.suite_times import SuiteTime
from skipwise.positions.coverage_summary import SHARE as SHARE
from skipwise.positions.coverage_summary import examples_needed
from skipwise.positions.sampler import Sampler
from skipwise.rope import hf_config
from skipwise.utils.text import length_text


@dataclass(frozen=True)
class Options:
    """What the user gives beside the model and the target."""

    device: str = "here"
    """`here`, or the name of a GPU in `devices.SHEETS`."""
    devices: int = 1
    train_length: int | None = None
    batch: int = 2
    """Examples in one forward pass on one device, as training.batch_size; full-length training takes one."""
    examples: int = 800
    """Of the whole training."""
    chunks: int = 2
    sampler: str = "pose"
    """Whose distances are counted beside those of `pose`."""
    rank: int = 16
    """Of LoRA adapters."""
    checkpointing: bool = False
    """Gradient checkpointing."""
    distill: bool = False
    """The original model teaches (`training.distill`): it reads every example of PoSE once more."""
    probability: float = 0.95
    """That every distance is seen."""
    utilisation: float = UTILISATION
    """Of a named GPU."""


@dataclass(frozen=True)
class Cost:
    """One kind of work. Lengths in tokens, memory in bytes on one device."""

    name: str
    tokens: int
    """In one sequence."""
    sequences: int
    """In one step, over all devices."""
    trained_parameters: int
    memory: int
    fits: bool | None
    """None where the device's memory is unknown."""
    step_seconds: float
    total_seconds: float
    """Of all examples; of one step in evaluation."""
    bound: str
    """What a step waits for: compute, or the link between devices."""


@dataclass(frozen=True)
class Coverage:
    """How many examples show the distances of the target, under one sampler. None: never, or too many to simulate."""

    sampler: str
    """With its chunks, where it has any."""
    chunks: int
    all_seen: int | None
    """Examples until every distance has been seen with the chosen probability; never too few."""
    most_seen: int | None
    """Examples until SHARE of the distances have been seen on average."""


@dataclass(frozen=True)
class Plan:
    """All that `skipwise plan` shows."""

    model: str
    family: str
    parameters: int
    original_length: int
    target_length: int
    train_length: int
    options: Options
    device: Device
    costs: list[Cost]
    coverage: list[Coverage]
    suites: list[SuiteTime]
    """Evaluation of one model by each suite, at the default lengths up to the target."""
    curves: dict[str, list[tuple[int, int, float]]]
    """By kind of work: (tokens of the window, bytes, seconds for one sequence)."""
    notes: list[str]


def plan(model: ModelConfig, target_length: int, options: Options) -> Plan:
    """The cost of extending a model, from its configuration alone.

    Args:
        model: Where the model is.
        target_length: Window that it shall have, tokens.
        options: Device, batch and the rest.

    Raises:
        SkipwiseError: The path is not a model, lengths clash, the device is unknown, or the memory of this model cannot
            be worked out.
    """
    source = sources.find(model, weights=False)
    config = configuration.read(source)
    architecture = families.architecture(config)
    original = model.original_length or hf_config.true_original_length(config)
    length = options.train_length or min(original, DEFAULT_TRAIN_LENGTH)
    if target_length <= original:
        target, window = length_text(target_length), length_text(original)
        raise SkipwiseError(f"target {target} is not beyond the original window of {window} tokens")
    if options.distill and length > original:
        raise SkipwiseError(
            f"--distill: the original model teaches within its window of {length_text(original)} tokens; lower "
            f"--train-length from {length_text(length)} to that, or leave --distill out"
        )
    samplers = [Sampler("pose", length, target_length, chunks=n) for n in sorted({2, 3, options.chunks}) if n > 1]
    if options.sampler != "pose":
        chosen = Sampler(options.sampler, length, target_length, chunks=options.chunks, growth=options.examples // 2)
        samplers.append(chosen)
    seen = [_coverage(sampler, options.probability) for sampler in samplers]
    device = device_for(config, model, options, length)
    estimate = Estimate(config, operations_and_bytes.work(config), device, options)
    kinds = [
        estimate.training("PoSE, all weights", options.batch, length, rank=0, taught=options.distill),
        estimate.training("PoSE, LoRA", options.batch, length, rank=options.rank, taught=options.distill),
        estimate.training("full length, all weights", 1, target_length, rank=0),
        estimate.training("full length, LoRA", 1, target_length, rank=options.rank),
        *estimate.evaluation(target_length),
    ]
    return Plan(
        model=source.name,
        family=architecture.family,
        parameters=estimate.work.parameters,
        original_length=original,
        target_length=target_length,
        train_length=length,
        options=options,
        device=device,
        costs=kinds,
        coverage=seen,
        suites=suite_times.suite_times(original, target_length, estimate.reading_seconds),
        curves=estimate.curves(length, target_length),
        notes=[*_reach_notes(config, original, target_length), *_notes(architecture, options, device)],
    )


def _coverage(sampler: Sampler, probability: float) -> Coverage:
    most, every = examples_needed(sampler, probability)
    counts = [None if number.at_least or math.isinf(number.value) else int(number.value) for number in (every, most)]
    return Coverage(sampler.describe_positions(), sampler.chunks, *counts)


def device_for(config: PreTrainedConfig, model: ModelConfig, options: Options, length: int) -> Device:
    """The device that the options name, or this machine, measured.

    Args:
        config: Of the model.
        model: Device and precision that this machine is measured with.
        options: The device, or `here`.
        length: Tokens of a training example.

    Raises:
        SkipwiseError: The device is unknown, or not even a few layers fit on this machine.
    """
    if options.device != "here":
        return devices.named(options.device, options.utilisation)
    import skipwise.training.trainer  # noqa: F401  what a training process holds counts as its runtime

    used = device_of(model.device)
    return devices.here(config, options.batch, length, device=used, dtype=arithmetic(model.precision, used))


def _reach_notes(config: PreTrainedConfig, original: int, target: int) -> list[str]:
    refusal = reach(config, original, target).refusal
    return [f"extend refuses this: {refusal}"] if refusal else []


def _notes(architecture: families.Architecture, options: Options, device: Device) -> list[str]:
    notes = []
    if architecture.linear_layers:
        notes.append("layers without softmax attention are counted by their matrices alone: their state costs more")
    if architecture.sliding_layers:
        notes.append("sliding layers are counted as transformers computes them, without skipping what is masked")
    if architecture.row and not architecture.row.sdpa:
        notes.append("attention cannot run in torch's fused kernel: all its scores are computed and held")
    if options.devices > 1:
        notes.append("several devices: examples are split, and weights, gradients and moments sharded over them (FSDP)")
    if device.source.startswith("data sheet"):
        notes.append("figures of a data sheet at a stated utilisation: small models and short sequences reach less")
    if options.distill:
        notes.append(
            "training.distill: the original model reads every example of PoSE once; of all weights it is a copy"
        )
    return notes


@dataclass(frozen=True)
class Estimate:
    """Times and bytes of one model on one kind of device."""

    config: PreTrainedConfig
    work: Work
    device: Device
    options: Options

    def training(self, name: str, batch: int, tokens: int, *, rank: int, taught: bool = False) -> Cost:
        """Cost of one optimiser step on every device; without LoRA if `rank` is 0.

        Args:
            name: What the cost is called.
            batch: Sequences on each device.
            tokens: Tokens of a sequence.
            rank: Rank of the LoRA adapters.
            taught: Whether the original model reads every sequence too: the base of the adapters, or a second copy of
                the weights on every device.
        """
        options, count = self.options, self.options.devices
        again = recomputation.elementwise(None, self.device.kind)
        run = Workload(batch, tokens, True, self.device.bf16, rank, options.checkpointing, again)
        memory = self._bytes(run).peak(count) * devices.SLACK + self.device.runtime
        stored = self.work.parameters * (2 if self.device.bf16 else 4)
        memory += stored if taught and not rank else 0
        trained = self.work.adapter * rank or self.work.parameters
        compute = batch * self._training_seconds(tokens, rank) + self._update_seconds(trained / count)
        compute += batch * self.reading_seconds(tokens) if taught else 0
        # Weights are gathered for the forward and the backward pass, gradients sent back.
        link = (2 * stored + stored * trained / self.work.parameters) * (count - 1) / count / self.device.link
        step = max(compute, link)
        return Cost(
            name=name,
            tokens=tokens,
            sequences=batch * count,
            trained_parameters=trained,
            memory=int(memory),
            fits=self._fits(memory),
            step_seconds=step,
            total_seconds=step * math.ceil(options.examples / (batch * count)),
            bound="link" if link > compute else "compute",
        )

    def _training_seconds(self, tokens: int, rank: int) -> float:
        """Forward and backward of one sequence.

        A backward pass is two forward passes, one where the weights are frozen (the other half makes their gradients),
        and 2.5 for attention, whose scores are computed again; checkpointing adds a forward pass of the layers.
        """
        work, device, again = self.work, self.device, int(self.options.checkpointing)
        frozen = rank > 0
        layers = tokens * work.layer_flops * ((2 if frozen else 3) + again) / device.layers_training
        adapters = tokens * 2 * 3 * work.adapter * rank / device.layers_training
        output = tokens * work.head_flops * (2 if frozen else 3) / device.head_training
        return layers + adapters + output + work.attention_flops(tokens) * (3.5 + again) / device.attention_training

    def _update_seconds(self, trained: float) -> float:
        """Clipping and AdamW, and the gradient of the input embedding, which is written whole."""
        embedding = 12 * self.work.embedding if trained > self.work.embedding else 0
        return (devices.ADAM_TRAFFIC * trained + embedding) / self.device.bandwidth + devices.STEP_SECONDS

    def evaluation(self, tokens: int) -> list[Cost]:
        """Cost of reading one sequence on one device: in one pass, and in chunks with a cache of those before."""
        work, device = self.work, self.device
        seconds = self.reading_seconds(tokens)
        chunk, itemsize = min(chunk_on(device.kind), tokens), 2 if device.bf16 else 4
        cache = kv_cache(self.config, families.architecture(self.config), itemsize)
        stored = cache.values * itemsize * (cache.full_layers + cache.sliding_layers)
        repeated = work.pair_flops / 2 * itemsize  # one layer's keys and values, for every head
        # Eager attention holds the scores of a chunk and the keys before it: twice in its arithmetic, and in fp32.
        heads = ModelShape.of(self.config).heads
        scores = heads * chunk * (tokens - chunk) * (2 * itemsize + 4) if work.eager else 0
        later = (stored + repeated) * tokens + scores
        held = {
            "evaluation, one pass": self._forward_bytes(tokens),
            "evaluation, in chunks": self._forward_bytes(chunk) + later * devices.SLACK,
        }
        return [
            Cost(
                name=name,
                tokens=tokens,
                sequences=1,
                trained_parameters=0,
                memory=int(memory),
                fits=self._fits(memory),
                step_seconds=seconds,
                total_seconds=seconds,
                bound="compute",
            )
            for name, memory in held.items()
        ]

    def reading_seconds(self, tokens: int) -> float:
        """Seconds to read one sequence of so many tokens without training."""
        work, device = self.work, self.device
        per_token = work.layer_flops / device.layers + work.head_flops / device.head
        return tokens * per_token + work.attention_flops(tokens) / device.attention

    def _forward_bytes(self, tokens: int) -> float:
        run = Workload(1, tokens, False, self.device.bf16)
        return self._bytes(run).peak() * devices.SLACK + self.device.runtime

    def _bytes(self, run: Workload) -> Bytes:
        return operations_and_bytes.bytes_of(self.config, run, alike=self.work.alike)

    def _fits(self, memory: float) -> bool | None:
        return None if self.device.memory is None else memory <= self.device.memory

    def curves(self, length: int, target: int) -> dict[str, list[tuple[int, int, float]]]:
        """Bytes and seconds of one sequence as the window grows, doubling from the train length to twice the target.

        Three lengths are worked out; bytes are a polynomial of degree 2 at most, and seconds are known at every length.
        """
        single = replace(self, options=replace(self.options, devices=1))
        windows = [length * 2**i for i in range(1 + math.ceil(math.log2(2 * target / length)))]
        known = (length, target, 2 * target)
        full = [single.training("", 1, tokens, rank=0) for tokens in known]
        read = [single.evaluation(tokens)[1] for tokens in known]
        pose, update = full[0], self._update_seconds(self.work.parameters)
        memory = {name: _through(known, [c.memory for c in part]) for name, part in (("full", full), ("read", read))}
        return {
            "PoSE": [(tokens, pose.memory, pose.step_seconds) for tokens in windows],
            "full length": [
                (tokens, memory["full"](tokens), self._training_seconds(tokens, 0) + update) for tokens in windows
            ],
            "evaluation": [(tokens, memory["read"](tokens), self.reading_seconds(tokens)) for tokens in windows],
        }


def _through(places: tuple[int, ...], values: list[int]) -> Callable[[int], int]:
    """The polynomial through three points (Lagrange)."""

    def at(x: int) -> int:
        total = 0.0
        for i, (a, value) in enumerate(zip(places, values, strict=True)):
            others = [b for j, b in enumerate(places) if j != i]
            total += value * math.prod((x - b) / (a - b) for b in others)
        return round(total)

    return at
