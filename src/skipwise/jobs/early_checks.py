"""What a run is refused for before anything slow: before a model is loaded, and before the first measurement."""

import contextlib
import io
import math
import os
import shutil
from pathlib import Path

import torch

from skipwise.assets import catalogue
from skipwise.config import AdapterConfig, DataConfig, RunConfig
from skipwise.config.presets import SUITES
from skipwise.data import near_duplicates, text_sources
from skipwise.errors import SkipwiseError
from skipwise.evals import runner
from skipwise.jobs import conversation_inputs
from skipwise.models import recomputation, sources
from skipwise.models.device import arithmetic, device_of
from skipwise.models.load import LoadedModel
from skipwise.models.memory import free_bytes
from skipwise.planning import operations_and_bytes
from skipwise.planning.operations_and_bytes import Workload
from skipwise.training import adapters, zero
from skipwise.training.processes import share
from skipwise.training.trackers import check_trackers
from skipwise.utils.progress import say
from skipwise.utils.text import gigabytes_text

EXAMPLE_BYTES = 4 * 8
"""Of one token of an example: ids, positions, labels and mask as int64."""
NF4_BYTES = 0.52
"""Of one parameter in NF4, with its share of the scales."""
STATE_BYTES = 3 * 4
"""Of one parameter in a checkpoint: the weight and AdamW's two moments in fp32."""


def check_inputs(config: RunConfig) -> None:
    """Refuse a model, texts, trackers or packages of tasks that are not there. Reads names and beginnings of files.

    Raises:
        SkipwiseError: For the first that cannot be used.
    """
    check_trackers(config.training.report_to)
    adapters.require_packages(config.adapter, device_of(config.model.device))
    if config.adapter.method == "none" and config.adapter != AdapterConfig():
        say("adapter.method=none trains all weights: the other settings of the adapter have no effect; lora uses them")
    if config.training.steps and not config.data.paths:
        raise SkipwiseError("no text to train on: give files or folders with --data, or training.steps=0")
    if config.training.sharpen != 1 and not config.training.steps:
        say("training.sharpen has no effect without a training; scaling.attention_factor sets the factor")
    evaluation = config.evaluation
    # Without documents of its own, perplexity is measured on text that is held out of the training.
    # Those of a suite are looked at when the model's tokenizer is there, and left out where they cannot be asked.
    of_suite = SUITES[evaluation.suite]["tasks"] if evaluation.suite else ["perplexity"]
    tasks = [task for task in evaluation.tasks if task not in of_suite or (task == "perplexity" and evaluation.data)]
    check_data(config.data)
    texts, _ = conversation_inputs.divided(config.data, config.data.paths)
    check_texts(texts, config.data.field, config.data.split)
    with _quiet():
        runner.check(evaluation.model_copy(update={"tasks": tasks}))
    sources.find(config.model)


def check_data(data: DataConfig) -> None:
    """Refuse settings of the corpus that cannot be combined, or that need a package that is missing.

    Raises:
        SkipwiseError: For the first.
    """
    if data.duplicates == "near":
        if data.streaming:
            raise SkipwiseError(
                "data.duplicates=near compares every document with all others, which data.streaming=true has not read "
                "yet; use data.duplicates=exact, or data.streaming=false"
            )
        near_duplicates.require_package()


def check_texts(paths: list[str], field: str = "text", split: str = "train") -> None:
    """Refuse texts that cannot be read. Packaged ones are not fetched.

    Raises:
        SkipwiseError: For the first.
    """
    packaged = catalogue.names("text")
    with _quiet():
        for path in paths:
            if path not in packaged:
                text_sources.sources([path], field=field, split=split)


def _quiet() -> contextlib.AbstractContextManager[object]:
    """Hide notes about texts. They are printed when the texts are read."""
    return contextlib.redirect_stderr(io.StringIO())


def check_room(loaded: LoadedModel, config: RunConfig, tokens: int, *, resume: bool, processes: int = 1) -> None:
    """Refuse a training that cannot fit into memory or whose checkpoints cannot fit on the disk.

    Args:
        loaded: The model, which is freed before the training loads it anew in fp32.
        config: The resolved configuration.
        tokens: Length of one training example.
        resume: Whether checkpoints of the run may be on the disk already.
        processes: How many train. Those of one machine share its memory on a CPU; on GPUs each has its own.

    Raises:
        SkipwiseError: With what is needed and what is free.
    """
    if not config.training.steps:
        return
    device = loaded.model.device
    free = free_bytes(device)
    if free is not None:
        together = min(processes, int(os.environ.get("LOCAL_WORLD_SIZE") or 1)) if device.type == "cpu" else 1
        free = (free + sum(weight.nbytes for weight in loaded.model.parameters())) // together
        needed = _training_bytes(loaded, config, tokens, free, processes)
        if needed > free:
            training = config.training
            each = f" in each of {processes} processes" if processes > 1 else ""
            raise SkipwiseError(
                f"training.batch_size {training.batch_size:,} with examples of {tokens:,} tokens needs about "
                f"{gigabytes_text(needed)} on {device}{each} and {gigabytes_text(free)} are free; use a smaller "
                "training.batch_size or training.train_length, or training.gradient_checkpointing=true"
            )
    if not resume:
        _check_disk(loaded, config)


def _training_bytes(loaded: LoadedModel, config: RunConfig, tokens: int, free: int, processes: int) -> int:
    """Bytes of a training step in one process; where the model's own are unknown, those of its examples and weights.

    The estimate is rather too low than too high: a share for allocators and the process itself come on top.
    """
    training, model = config.training, loaded.model
    parameters, batch = int(model.num_parameters()), share(training, processes)[0]
    examples = training.batch_size * training.gradient_accumulation * tokens * EXAMPLE_BYTES // processes
    hidden = batch * tokens * int(model.config.get_text_config().hidden_size) * 2
    precision = arithmetic(config.model.precision, model.device)
    whole = config.adapter.method == "none"
    parts = processes if training.parallel in ("fsdp", "deepspeed") else 1
    states = parameters * ((4 + STATE_BYTES) if whole else precision.itemsize) // parts
    if zero.offloads(training):
        states = 0
    packed = _packed_bytes(loaded, precision) if config.adapter.method == "qlora" else 0
    # A sharded training begins with all weights in every process.
    stored = 4 if whole else precision.itemsize
    least = max(examples + hidden + states - packed, stored * parameters if parts > 1 else 0)
    if least > free:
        return least
    run = Workload(
        batch=batch,
        tokens=tokens,
        training=True,
        bf16=precision == torch.bfloat16,
        rank=0 if whole else config.adapter.rank,
        checkpointing=training.gradient_checkpointing,
        elementwise=recomputation.elementwise(training.recompute_elementwise, loaded.model.device.type),
    )
    try:
        alike = operations_and_bytes.work(model.config).alike
        step = operations_and_bytes.bytes_of(model.config, run, alike=alike)
    except SkipwiseError:  # some architectures cannot be run without content
        return least
    teacher = parameters * precision.itemsize if whole and training.distill else 0
    peak = max(step.forward, step.backward) if zero.offloads(training) else step.peak(parts)
    return max(least, examples + teacher + peak - packed)


def _packed_bytes(loaded: LoadedModel, precision: torch.dtype) -> int:
    """What storing the linear layers in 4 bits saves."""
    linear = (module for module in loaded.model.get_decoder().modules() if isinstance(module, torch.nn.Linear))
    return int(sum(module.weight.numel() for module in linear) * (precision.itemsize - NF4_BYTES))


def _check_disk(loaded: LoadedModel, config: RunConfig) -> None:
    training, parameters = config.training, int(loaded.model.num_parameters())
    checkpoints = min(training.keep_checkpoints + 1, math.ceil(training.steps / training.save_every))
    saved = STATE_BYTES * checkpoints if config.adapter.method == "none" else 0  # adapters are small beside the model
    needed = parameters * (saved + 2)  # the extended model is written in bf16
    free = shutil.disk_usage(Path(config.out)).free
    if needed > free:
        raise SkipwiseError(
            f"{checkpoints} checkpoints and the model take {gigabytes_text(needed)} in {config.out} and "
            f"{gigabytes_text(free)} are free; make room, lower training.keep_checkpoints, or give another --out"
        )
