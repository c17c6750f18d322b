"""What the trainer relies on inside transformers. A release that changes one of these fails here, by name.

Everything that `training/trainer.py` overrides, calls or sets and that transformers does not promise is listed.
"""

import inspect
from pathlib import Path

import pytest
from transformers import Trainer, TrainerState, TrainingArguments

from skipwise.training import checkpoints
from skipwise.training.trainer import SkippedTrainer

OVERRIDDEN = {
    "_get_train_sampler": ["self", "train_dataset"],
    "_get_num_items_in_batch": ["self", "batch_samples", "device"],
    "_save_checkpoint": ["self", "model", "trial"],
    "_load_from_checkpoint": ["self", "resume_from_checkpoint", "model"],
    "training_step": ["self", "model", "inputs", "num_items_in_batch"],
    "prediction_step": ["self", "model", "inputs", "prediction_loss_only", "ignore_keys"],
    "_save_optimizer_and_scheduler": ["self", "output_dir"],
}
CALLED = {"_save_rng_state": ["self", "output_dir"]}


@pytest.mark.parametrize(("name", "parameters"), [*OVERRIDDEN.items(), *CALLED.items()])
def test_method_of_the_trainer(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(Trainer, name)).parameters) == parameters


def test_every_override_is_named() -> None:
    inherited = {name for name in vars(SkippedTrainer) if callable(getattr(Trainer, name, None))}
    assert {name for name in inherited if not name.startswith("__")} == set(OVERRIDDEN)


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("train", "_load_from_checkpoint"),
        ("get_batch_samples", "_get_num_items_in_batch"),
        ("get_train_dataloader", "_get_train_sampler"),
        ("_maybe_log_save_evaluate", "_save_checkpoint"),
        ("compute_loss", "num_items_in_batch"),
        ("compute_loss", "average_tokens_across_devices"),
        ("__init__", "accepts_loss_kwargs"),
        ("evaluate", "eval_dataset"),
    ],
)
def test_the_trainer_uses_what_is_overridden(method: str, call: str) -> None:
    assert call in inspect.getsource(getattr(Trainer, method))


def test_names_of_files() -> None:
    from transformers import trainer

    assert trainer.TRAINER_STATE_NAME == checkpoints.STATE
    assert trainer.OPTIMIZER_NAME == checkpoints.OPTIMIZER
    assert trainer.SCHEDULER_NAME == checkpoints.SCHEDULER


def test_state_and_arguments(tmp_path: Path) -> None:
    TrainerState(global_step=3).save_to_json(str(tmp_path / "state.json"))
    assert TrainerState.load_from_json(str(tmp_path / "state.json")).global_step == 3
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    assert arguments.n_gpu == 0
    arguments._n_gpu = 1
    assert arguments.n_gpu == 1
    assert {"average_tokens_across_devices", "eval_on_start", "logging_nan_inf_filter"} <= vars(arguments).keys()


def test_accelerate() -> None:
    """What several processes need: states that can be forgotten, and FSDP's plugin and functions."""
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from accelerate.utils import (
        DistributedType,
        FullyShardedDataParallelPlugin,
        load_fsdp_model,
        save_fsdp_optimizer,
    )
    from torch.distributed.fsdp import FSDPModule

    assert all(callable(state._reset_state) for state in (AcceleratorState, GradientState, PartialState))
    assert DistributedType.FSDP
    assert "mixed_precision_policy" in inspect.signature(FullyShardedDataParallelPlugin).parameters
    assert list(inspect.signature(load_fsdp_model).parameters)[:4] == [
        "fsdp_plugin",
        "accelerator",
        "model",
        "input_dir",
    ]
    assert list(inspect.signature(save_fsdp_optimizer).parameters)[:5] == [
        "fsdp_plugin",
        "accelerator",
        "optimizer",
        "model",
        "output_dir",
    ]
    assert callable(FSDPModule.reshard)
    assert "fsdp_plugin_args" in inspect.getsource(TrainingArguments)
    assert "save_fsdp_model" in inspect.getsource(Trainer._save_optimizer_and_scheduler)
    assert "save_fsdp_optimizer" in inspect.getsource(Trainer._save_optimizer_and_scheduler)
