"""Training on skipped positions: a loaded fp32 model and datasets flow in; a trained model and checkpoints flow out.

`transformers.Trainer` does the loop; ours are the loss (in slices), the order of examples (a function of
the step alone) and the checkpoints, which appear whole or not at all. A killed run that is resumed therefore ends with
the same weights as one that was never interrupted.
"""

import re
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

from skipwise.config import TrainingConfig
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.errors import SkipwiseError
from skipwise.models.forward import loss
from skipwise.rope import hf_config
from skipwise.training.checkpoints import STATE, WEIGHTS, checkpoints_in, last_checkpoint, step_of
from skipwise.utils import progress
from skipwise.utils.atomic_files import append_jsonl, atomic_folder, read_jsonl, write_jsonl


class SkippedLoss(nn.Module):
    """A causal language model whose forward pass is its training loss, so that any parallel wrapper sees one call."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, position_ids: Tensor, labels: Tensor, attention_mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """All (B, T) → {"loss": scalar}. The mask is all ones by construction and not needed here."""
        return {"loss": loss(self.model, input_ids, position_ids, labels)}


class SkippedTrainer(Trainer):  # type: ignore[misc]
    """`Trainer` with examples in the order of their index, atomic checkpoints and a stop at a non-finite loss."""

    checkpoints: Path
    keep_checkpoints: int

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return torch.utils.data.SequentialSampler(train_dataset or self.train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        value: Tensor = super().training_step(*args, **kwargs)
        if not torch.isfinite(value):
            raise self._diverged(f"the loss at step {self.state.global_step + 1} is {value.item()}")
        return value

    def _diverged(self, what: str) -> SkipwiseError:
        good = last_checkpoint(self.checkpoints)
        found = f"the last good checkpoint is {good}" if good else "there is no checkpoint before it"
        return SkipwiseError(f"{what}; {found}. Lower training.learning_rate, or look for broken text, and run again")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if not self.args.should_save:
            return
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise self._diverged(f"the weights after step {self.state.global_step} are not finite")
        with atomic_folder(self.checkpoints / f"step-{self.state.global_step:06d}") as folder:
            save_model(self.model.model, str(folder / WEIGHTS))
            self.model.model.config.save_pretrained(folder)
            self._save_optimizer_and_scheduler(str(folder))
            self._save_rng_state(str(folder))
            self.state.save_to_json(str(folder / STATE))
        for old in checkpoints_in(self.checkpoints)[: -self.keep_checkpoints]:
            old.rename(old.with_name(f".{old.name}.old"))  # a half-deleted folder must not look like a checkpoint
            shutil.rmtree(old.with_name(f".{old.name}.old"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_model(self.model.model, str(Path(resume_from_checkpoint) / WEIGHTS))


class _Log(TrainerCallback):  # type: ignore[misc]
    """Writes log.jsonl and moves the progress bar."""

    def __init__(self, path: Path, bar: progress.Bar, tokens_per_step: int, seconds: float) -> None:
        self.path, self.bar, self.tokens_per_step = path, bar, tokens_per_step
        self.before, self.started = seconds, time.monotonic()
        self.validation: dict[str, float] = {}

    def seconds(self) -> float:
        return round(self.before + time.monotonic() - self.started, 2)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.bar.advance(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        logs = logs or {}
        row: dict[str, Any] = {"step": state.global_step}
        if "loss" in logs:
            row |= {
                "kind": "train",
                **{key: logs[key] for key in ("loss", "learning_rate", "grad_norm") if key in logs},
            }
            row["tokens"] = state.global_step * self.tokens_per_step
            self.bar.note(f"loss {logs['loss']:.3f}")
        self.validation |= {key: value for key, value in logs.items() if re.fullmatch(r"eval_\w+_loss", key)}
        if len(self.validation) == 2:
            row |= {"kind": "validation"}
            row |= {f"loss_{name}": self.validation[f"eval_{name}_loss"] for name in ("skipped", "plain")}
            self.validation = {}
        if "kind" in row:
            append_jsonl(self.path, {**row, "seconds": self.seconds()})


def _arguments(config: TrainingConfig, folder: Path, device: torch.device, precision: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup", "cosine": "cosine"}[config.schedule],
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bfloat16",
        use_cpu=device.type == "cpu",
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=config.validate_every,
        eval_on_start=True,
        save_steps=config.save_every,
        seed=config.seed,
        report_to=config.report_to or "none",
        remove_unused_columns=False,
        prediction_loss_only=True,
        disable_tqdm=True,
        dataloader_pin_memory=device.type != "cpu",
    )


def train(
    model: PreTrainedModel,
    config: TrainingConfig,
    examples: SkippedPositions,
    validation: dict[str, SkippedPositions],
    *,
    folder: Path,
    precision: str,
    resume: bool = False,
) -> dict[str, Any]:
    """Train `model` (fp32 weights, changed in place) for `config.steps` steps and return figures of the training.

    validation: datasets for the losses at `skipped` and at `plain` positions. folder: the run folder; checkpoints go
    to `checkpoints/`, figures to `log.jsonl`. precision: "bfloat16" computes under autocast over fp32 master weights.
    resume: go on from the last whole checkpoint, if there is one. Errors: SkipwiseError for a non-finite loss, and for
    RoPE that nothing can be trained under.
    """
    if config.steps:
        hf_config.refuse_training(model.config)
    checkpoints = folder / "checkpoints"
    start = last_checkpoint(checkpoints) if resume else None
    for partial in checkpoints.glob(".step-*") if checkpoints.is_dir() else []:
        shutil.rmtree(partial)  # what a killed process was writing
    done = step_of(start) if start else 0
    log = folder / "log.jsonl"
    kept = [row for row in read_jsonl(log) if row["step"] <= done] if start else []
    write_jsonl(log, kept)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    per_step = config.batch_size * config.gradient_accumulation
    tokens_per_step = per_step * examples.sampler.example_length
    with progress.bar("training", total=config.steps, unit="step", initial=done) as bar:
        trainer = SkippedTrainer(
            model=SkippedLoss(model),
            args=_arguments(config, folder, model.device, precision),
            train_dataset=examples,
            eval_dataset=validation,
        )
        trainer.checkpoints, trainer.keep_checkpoints = checkpoints, config.keep_checkpoints
        from transformers import PrinterCallback

        trainer.remove_callback(PrinterCallback)
        written = _Log(log, bar, tokens_per_step, max((row["seconds"] for row in kept), default=0.0))
        trainer.add_callback(written)
        if done < config.steps:
            trainer.train(resume_from_checkpoint=str(start) if start else None)
        elif start:
            load_model(model, str(start / WEIGHTS))
    model.eval()
    seconds = written.seconds()
    return {"train_seconds": seconds, "train_tokens": config.steps * tokens_per_step, "resumed_from": done or None}
