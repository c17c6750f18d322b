"""Recipes: each is a valid configuration of what its head says, and the head's figures are those of `skipwise plan`."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig, PreTrainedConfig

from skipwise.cli import main
from skipwise.config import ModelConfig, RunConfig, read_length, read_yaml, validate
from skipwise.jobs.run_inputs import resolved_config
from skipwise.planning.plan import Options, Plan, plan
from skipwise.training import processes, zero
from skipwise.utils.processes import Place
from skipwise.utils.text import duration

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path for path in (ROOT / "recipes").glob("*.yaml") if path.stem not in ("bundled", "smollm2"))


def _large(kind: Any, theta: float, **values: Any) -> PreTrainedConfig:
    shared = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "tie_word_embeddings": False}
    rope = {"rope_type": "default", "rope_theta": theta}
    config: PreTrainedConfig = kind(**shared, rope_parameters=rope, **values)
    return config


CONFIGS = {
    "meta-llama/Meta-Llama-3-8B": _large(
        LlamaConfig,
        5e5,
        **{"vocab_size": 128256, "intermediate_size": 14336, "num_key_value_heads": 8, "max_position_embeddings": 8192},
    ),
    "models/mistral-7b": _large(
        MistralConfig,
        1e4,
        **{"vocab_size": 32000, "intermediate_size": 14336, "num_key_value_heads": 8},
        **{"max_position_embeddings": 32768, "sliding_window": None},
    ),
    "huggyllama/llama-7b": _large(
        LlamaConfig,
        1e4,
        **{"vocab_size": 32000, "intermediate_size": 11008, "num_key_value_heads": 32, "max_position_embeddings": 2048},
    ),
}
"""The published configurations of the models, as far as they matter here."""


def head(recipe: Path) -> list[str]:
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("#").strip() for line in lines if line.startswith("#")]


def planned(recipe: Path, folder: Path) -> tuple[Any, Plan]:
    """The words of the plan command in the head, and its plan."""
    (command,) = [line for line in head(recipe) if line.startswith("skipwise plan")]
    args = main.build_parser().parse_args(shlex.split(command)[1:])
    CONFIGS[args.model].save_pretrained(folder)
    original = re.search(r"original_length=(\w+)", command)
    model = ModelConfig(path=str(folder), original_length=read_length(original[1], "") if original else None)
    options = Options(
        device=args.device,
        devices=args.devices,
        train_length=read_length(args.train_length, ""),
        batch=args.batch,
        examples=args.examples,
        checkpointing=args.checkpointing,
    )
    return args, plan(model, read_length(args.target, ""), options)


def figures(costs: Plan, row: str) -> str:
    """The line of figures in a head."""
    (cost,) = [cost for cost in costs.costs if cost.name == row]
    each = " on each card" if costs.options.devices > 1 else ""
    return (
        f"Computed, not measured ({row}): {cost.memory / 1e9:.0f} GB{each}, {cost.step_seconds:.1f} s a step of "
        f"{cost.sequences} {'example' if cost.sequences == 1 else 'examples'}, {duration(cost.total_seconds)} in all."
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_what_its_head_says(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = validate(RunConfig, read_yaml(recipe), recipe.name)
    assert config.out == f"runs/{recipe.stem}"
    commands = [line for line in head(recipe) if " extend " in line]
    assert len(commands) == 1
    assert f"extend --config recipes/{recipe.name}" in commands[0]
    count = re.search(r"--processes (\d+)", commands[0])
    size = 16 if "--nnodes 2" in commands[0] else int(count[1]) if count else 1
    processes.share(config.training, size)
    if config.training.parallel == "deepspeed":
        zero.file_settings(config.training)
    else:
        processes.check(config, Place(0, size, launched=size > 1))
    if config.model.path == "smollm2":
        return
    resolved_config(config.model_copy(update={"model": config.model}), CONFIGS[config.model.path])
    (command,) = [line for line in head(recipe) if line.startswith("skipwise plan")]
    args = main.build_parser().parse_args(shlex.split(command)[1:])
    assert (args.model, read_length(args.target, "")) == (config.model.path, config.target_length)
    assert args.devices == size
    step = config.training.batch_size * config.training.gradient_accumulation
    assert args.examples == step * config.training.steps
    assert args.checkpointing == config.training.gradient_checkpointing
    assert read_length(args.train_length, "") == config.training.train_length
    assert args.batch == processes.share(config.training, size)[0]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [path for path in RECIPES if path.stem != "laptop"], ids=lambda path: path.stem)
def test_the_figures_of_a_head_are_those_of_plan(recipe: Path, tmp_path: Path) -> None:
    config = validate(RunConfig, read_yaml(recipe), recipe.name)
    _, costs = planned(recipe, tmp_path)
    row = "PoSE, all weights" if config.adapter.method == "none" else "PoSE, LoRA"
    assert figures(costs, row) in " ".join(head(recipe))
