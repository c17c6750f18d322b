"""The settings of `transformers.Trainer` for a training with skipped positions."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainingArguments

from skipwise.config import TrainingConfig
from skipwise.training import processes, zero
from skipwise.training.sharding import fsdp_settings
from skipwise.utils.processes import place


def training_arguments(
    config: TrainingConfig, folder: Path, model: PreTrainedModel, precision: str
) -> TrainingArguments:
    """Translate the settings of a training into those of `transformers.Trainer`.

    Args:
        config: Steps, batches, learning rate and checkpoints.
        folder: Where the Trainer may write.
        model: The model to train, on its device.
        precision: "bfloat16" computes under autocast over the fp32 weights.

    Raises:
        SkipwiseError: The processes of the job cannot share the examples of a step.
    """
    device = model.device
    size = place().size
    batch, accumulation = processes.share(config, size)
    sharded: dict[str, Any] = {}
    if config.parallel == "fsdp":
        sharded = {"fsdp": "full_shard", "fsdp_config": fsdp_settings(model)}
    elif config.parallel == "deepspeed":
        sharded = {"deepspeed": zero.settings(config, batch, accumulation, size, precision)}
    arguments = TrainingArguments(
        **sharded,
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=accumulation,
        average_tokens_across_devices=True,  # the loss is scaled so that processes add up, as accumulated batches do
        learning_rate=config.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup", "cosine": "cosine"}[config.schedule],
        warmup_steps=config.warmup_steps,
        weight_decay=config.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.95,
        max_grad_norm=config.max_grad_norm,
        bf16=precision == "bfloat16" and config.parallel != "deepspeed",  # whose engine has an autocast of its own
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
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one process trains on one GPU; the Trainer would take all that it sees
    # A batch may reach some experts of a mixture only; in any other model a search for unreached weights costs time.
    arguments.ddp_find_unused_parameters = any("expert" in name for name, _ in model.named_parameters())
    return arguments
