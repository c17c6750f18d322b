"""Training on skipped positions with `transformers.Trainer`.

The Trainer does the loop. Ours are the loss (slice by slice, `models.sliced_loss`), the order of the examples (a
function of the step alone) and the checkpoints, which appear whole or not at all. A killed run that is resumed
therefore ends with the same weights as one that was never interrupted.

`tests/training/test_transformers_contract.py` names the private parts of transformers that this module relies on.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import load_fsdp_model, save_fsdp_optimizer
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, PrinterCallback, Trainer

from skipwise.config import TrainingConfig
from skipwise.data.labels import IGNORED
from skipwise.data.mix import Examples
from skipwise.errors import SkipwiseError
from skipwise.models import fused_layers, recomputation
from skipwise.models.forward import loss
from skipwise.rope import hf_config
from skipwise.training import adapters, nonfinite, processes, zero
from skipwise.training.arguments import training_arguments
from skipwise.training.checkpoints import (
    ADAPTER,
    SCHEDULER,
    SHARDS,
    STATE,
    WEIGHTS,
    ZERO,
    checkpoints_in,
    clear_partial_checkpoints,
    damage,
    step_of,
    usable_checkpoint,
    write_checksums,
)
from skipwise.training.log import TrainingLog
from skipwise.training.sharding import load_shards, local, reshard, shared_folder, use_fsdp
from skipwise.training.teacher import Teacher
from skipwise.utils import progress
from skipwise.utils.allocator import kept_memory
from skipwise.utils.atomic_files import atomic_folder, read_jsonl, write_jsonl
from skipwise.utils.processes import place
from skipwise.utils.termination import Terminated, deferred

ABSURD_LOSS = 100.0
"""Mean -log p of a token that only a ruined model has: guessing costs ln(vocabulary), about 12. NaN is not below it."""


CHECKPOINTS, LOG = "checkpoints", "log.jsonl"


class SkippedLoss(nn.Module):
    """A causal language model whose forward pass is its training loss, so that any parallel wrapper sees one call."""

    accepts_loss_kwargs = True
    """Makes the Trainer pass `num_items_in_batch` and sum the losses of accumulated batches instead of averaging."""

    def __init__(self, model: PreTrainedModel, teacher: Teacher | None = None) -> None:
        super().__init__()
        self.model = model
        self.teacher = teacher
        """No module, so that its weights are neither trained nor divided nor saved."""

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        attention_mask: Tensor | None = None,
        num_items_in_batch: int | None = None,
        taught: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the training loss of a batch.

        Args:
            input_ids: Token ids [B, T].
            position_ids: Their positions [B, T], which may skip.
            labels: What is predicted, each at its token [B, T]; -100 where nothing is learned.
            attention_mask: The numbers of the sequences in each row; one sequence each when absent.
            num_items_in_batch: What the sum of the losses is divided by: the labels of the whole batch, over all
                accumulated parts and all processes. The labels given here when absent.
            taught: 1 for tokens that the teacher teaches; in training only. None where there is no teacher.

        Returns:
            `loss`, a scalar, nats.
        """
        teaching = None
        if self.training and self.teacher is not None and taught is not None:
            teaching = self.teacher.teach(input_ids, taught * (labels != IGNORED))
        value = loss(
            self.model,
            input_ids,
            position_ids,
            labels,
            sequences=attention_mask,
            count=num_items_in_batch,
            teaching=teaching,
        )
        return {"loss": value}


class SkippedTrainer(Trainer):  # type: ignore[misc]
    """`Trainer` with examples in the order of their index, atomic checkpoints and a stop at an absurd loss.

    Accumulated batches, and the batches of several processes, have the loss and the gradient of one large batch: the
    mean over all their labels. A mean of means would weigh a label by how few its batch has.
    """

    checkpoints: Path
    keep_checkpoints: int = 1
    terminated: Callable[[], bool] | None = None
    """Says whether the training has to end early."""
    _part = 0
    """Batches of the present step that are done."""
    _seeded = -1
    """Step whose random numbers were seeded last."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Tensor]], device: torch.device) -> int | None:
        """Labels of one optimiser step, over accumulated batches and processes. No token predicts the first label."""
        if not batch_samples:
            return None
        count = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batch_samples)
        if self.args.world_size > 1:
            count = int(self.accelerator.gather(torch.tensor([count], device=device)).sum())
        return count

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Compute one batch's gradients. Raises `SkipwiseError` for an absurd loss, `Terminated` after SIGTERM."""
        self._end_if_terminated()
        if self.args.world_size > 1:
            self._seed()
        value: Tensor = super().training_step(*args, **kwargs)
        agreed = processes.mean(value)
        if not agreed < ABSURD_LOSS:
            where = "" if torch.isfinite(agreed) else self._located(args[1])
            raise self._diverged(f"the loss at step {self.state.global_step + 1} is {agreed.item():g}{where}")
        self._part = (self._part + 1) % self.args.gradient_accumulation_steps
        return value

    def _located(self, inputs: dict[str, Tensor]) -> str:
        """Say where the numbers of a batch stop being finite, and leave the places in a file."""
        batch = self.state.global_step * self.args.gradient_accumulation_steps + self._part
        batch = batch * self.args.world_size + self.args.process_index
        first = batch * self.args.per_device_train_batch_size
        places = nonfinite.of_all_processes(nonfinite.locate(self.model, self._prepare_inputs(inputs), first))
        return f"; {nonfinite.write(self.checkpoints.parent, self.state.global_step + 1, places)}" if places else ""

    def _seed(self) -> None:
        """Make what is random in a step, such as an adapter's dropout, a function of its number and the process."""
        if self._seeded == self.state.global_step:
            return
        self._seeded = self.state.global_step
        key = (self.args.seed, self.state.global_step, self.args.process_index)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Compute one validation batch's loss. Raises as `training_step`."""
        if self.is_in_train:
            self._end_if_terminated()
        if self.is_deepspeed_enabled:  # its engine casts as in training
            args = (self.deepspeed, *args[1:])
        value = super().prediction_step(*args, **kwargs)
        agreed = processes.mean(value[0])
        if not agreed < ABSURD_LOSS:
            raise self._diverged(f"the validation loss after step {self.state.global_step} is {agreed.item():g}")
        return value

    def _end_if_terminated(self) -> None:
        """Save where the training is and end it. Weights and optimiser change between batches of steps only."""
        if not processes.any_of(self.terminated is not None and self.terminated(), self.args.device):
            return
        step = self.state.global_step
        if not step:
            raise Terminated("before the first step")
        if not (self._folder() / STATE).exists():
            self._save_checkpoint(self.model, None)
        processes.wait_for_all()  # a launcher ends all processes when one has ended
        raise Terminated(f"after step {step}, which is saved")

    def _diverged(self, problem: str) -> SkipwiseError:
        if not self.state.global_step:
            return SkipwiseError(
                f"{problem}, before any weight was changed: the model itself or the text is broken; check the model "
                "with `skipwise eval`, or set model.precision=float32"
            )
        good = [path for path in checkpoints_in(self.checkpoints) if step_of(path) <= self.state.global_step]
        good = [path for path in good[-1:] if not damage(path)]
        where = f"the last good checkpoint is {good[0]}" if good else "there is no checkpoint before it"
        rate = f"training.learning_rate (now {self.args.learning_rate:g})"
        return SkipwiseError(
            f"{problem}; {where}. Lower {rate}, or look for broken text, and start again in a new --out"
        )

    def _folder(self) -> Path:
        return self.checkpoints / f"step-{self.state.global_step:06d}"

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        sharded = bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if not (self.args.should_save or sharded):
            return
        reshard(self.model)
        finite = all(torch.isfinite(local(weight)).all() for weight in self.model.parameters())
        if processes.any_of(not finite, self.args.device) if sharded else not finite:
            raise self._diverged(f"the weights after step {self.state.global_step} are not finite")
        with shared_folder(self._folder()) if sharded else atomic_folder(self._folder()) as folder:
            if _adapted(self.model) or not sharded:
                _save_weights(self.model.model, folder, write=self.args.should_save)
            self._save_optimizer_and_scheduler(str(folder))  # and the weights of a model that is sharded
            if not self.args.should_save:
                return
            self.model.model.config.save_pretrained(folder)
            if self.args.world_size == 1:  # several processes draw by `_seed`
                self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / STATE))
            write_checksums(folder)
        for old in checkpoints_in(self.checkpoints)[: -self.keep_checkpoints]:
            old.rename(old.with_name(f".{old.name}.old"))  # a half-deleted folder must not look like a checkpoint
            shutil.rmtree(old.with_name(f".{old.name}.old"))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Write the optimiser's state and the schedule; `Trainer` adds the weights of a sharded model, frozen too."""
        if not (self.is_fsdp_enabled and _adapted(self.model)):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        plugin = self.accelerator.state.fsdp_plugin
        save_fsdp_optimizer(plugin, self.accelerator, self.optimizer, self.model, output_dir)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_deepspeed_enabled:  # loaded with the optimiser, by transformers
            return
        if self.is_fsdp_enabled and not _adapted(self.model):
            load_fsdp_model(self.accelerator.state.fsdp_plugin, self.accelerator, self.model, resume_from_checkpoint)
        else:
            _load_weights(self.model.model, Path(resume_from_checkpoint))


def _adapted(model: nn.Module) -> bool:
    """Tell whether adapters are trained beside frozen weights, so that checkpoints hold the trained weights alone."""
    return not all(weight.requires_grad for weight in model.parameters())


def _save_weights(model: PreTrainedModel, folder: Path, *, write: bool) -> None:
    """Write what is trained: the whole model, or the adapters and modules beside a frozen base.

    All processes call this for a sharded model, and one of them is to `write`.
    """
    if not _adapted(model):
        save_model(model, str(folder / WEIGHTS))
        return
    state = adapters.trainable_state(model)
    if write:
        save_file(state, folder / ADAPTER)


def _load_weights(model: PreTrainedModel, checkpoint: Path) -> None:
    """Put the weights of a checkpoint into `model`."""
    if (checkpoint / ZERO).exists():
        zero.load_whole(SkippedLoss(model), checkpoint)
    elif (checkpoint / SHARDS).exists():
        load_shards(SkippedLoss(model), checkpoint)
    elif (checkpoint / ADAPTER).exists():
        adapters.load_trainable_state(model, load_file(checkpoint / ADAPTER))
    else:
        load_model(model, str(checkpoint / WEIGHTS))


def _starting_point(folder: Path, resume: bool) -> tuple[Path | None, list[dict[str, Any]]]:
    """Return the checkpoint to start from and the log up to it; what a killed process left behind it is removed."""
    start = usable_checkpoint(folder / CHECKPOINTS) if resume else None
    rows = [row for row in read_jsonl(folder / LOG) if row["step"] <= step_of(start)] if start else []
    if place().rank == 0:
        clear_partial_checkpoints(folder / CHECKPOINTS)
        write_jsonl(folder / LOG, rows)
    return start, rows


@contextlib.contextmanager
def light_layers(model: PreTrainedModel, config: TrainingConfig) -> Iterator[None]:
    """Train with decoder layers that store less for the backward pass, as the settings say or as the device likes it.

    On a CPU that is `models.fused_layers` where it knows the layers, else `models.recomputation`. Fused layers end with
    the block; recomputation stays switched on.
    """
    if config.gradient_checkpointing:
        recomputation.recompute_layers(model)
    whole = config.parallel not in ("fsdp", "deepspeed")
    light = whole and recomputation.elementwise(config.recompute_elementwise, model.device.type)
    if light and fused_layers.fits(model):
        with fused_layers.fused_layers(model):
            yield
        return
    if light and not config.gradient_checkpointing:
        recomputation.recompute_elementwise(model)
    yield


def train(
    model: PreTrainedModel,
    config: TrainingConfig,
    examples: Examples,
    validation: dict[str, Examples],
    *,
    folder: Path,
    precision: str,
    resume: bool = False,
    teacher: Teacher | None = None,
) -> dict[str, Any]:
    """Train a model for `config.steps` steps.

    Args:
        model: A model whose trained weights are fp32; they are changed in place. Frozen ones may have any dtype and are
            not in the checkpoints.
        config: Steps, batches, learning rate and checkpoints.
        examples: What is learned from; example i belongs to step i // (batch_size * gradient_accumulation), on any
            number of processes.
        validation: Datasets for the losses at `skipped` and at `plain` positions.
        folder: The run folder. Checkpoints go to `checkpoints/`, figures to `log.jsonl`.
        precision: "bfloat16" computes under autocast over the fp32 weights.
        resume: Go on from the last undamaged checkpoint, if there is one.
        teacher: Teaches the tokens that the examples mark as `taught`.

    Returns:
        `train_seconds`, `train_tokens` and `resumed_from` (a step or None).

    Raises:
        SkipwiseError: For a loss that is absurd or not finite, a checkpoint that cannot be written, and RoPE under
            which nothing can be trained.
        Terminated: After SIGTERM, once the last whole step is saved.
    """
    if config.steps:
        hf_config.refuse_training(model.config)
    start, rows = _starting_point(folder, resume)
    done = step_of(start) if start else 0
    if start and done < config.steps:
        zero.check_processes(start, place().size)
    model.train()
    arguments = training_arguments(config, folder, model, precision)
    tokens_per_step = config.batch_size * config.gradient_accumulation * examples.example_length
    validated = ("validation", done) in [(row["kind"], row["step"]) for row in rows]
    arguments.eval_on_start = done % config.validate_every == 0 and not validated
    with progress.bar("training", total=config.steps, unit="step", initial=done) as bar, deferred() as terminated:
        parts = {"train_dataset": examples, "eval_dataset": validation}
        trainer = SkippedTrainer(model=SkippedLoss(model, teacher), args=arguments, **parts)
        trainer.checkpoints, trainer.keep_checkpoints = folder / CHECKPOINTS, config.keep_checkpoints
        trainer.terminated = terminated
        if config.parallel == "fsdp":
            use_fsdp(trainer, precision)
            if teacher is not None:
                teacher.in_step = teacher.model is model
        elif config.parallel == "deepspeed":
            zero.use_deepspeed(trainer)
        trainer.remove_callback(PrinterCallback)
        before = max((row["seconds"] for row in rows), default=0.0)
        written = TrainingLog(folder / LOG, bar, tokens_per_step, before, write=trainer.is_world_process_zero())
        trainer.add_callback(written)
        if done < config.steps:
            memory = kept_memory() if model.device.type == "cpu" else contextlib.nullcontext()
            with memory, light_layers(model, config):
                trainer.train(resume_from_checkpoint=str(start) if start else None)
            reshard(trainer.model)
        elif start:
            _load_weights(model, start)
    model.eval()
    tokens = config.steps * tokens_per_step
    return {"train_seconds": written.seconds(), "train_tokens": tokens, "resumed_from": done or None}
