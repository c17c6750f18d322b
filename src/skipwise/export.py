"""A trained model flows in; a plain Hugging Face checkpoint with a model card flows out, for any loader."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from skipwise import __version__
from skipwise.config import RunConfig
from skipwise.files import atomic_folder, write_text


def save(model: PreTrainedModel, tokenizer: Any, folder: Path, *, window: int, dtype: torch.dtype) -> None:
    """Write weights (safetensors, as `dtype`), configuration and tokenizer to `folder`, which appears whole.

    The model is cast in place. `window` becomes the tokenizer's `model_max_length`, tokens.
    """
    model.to(dtype)
    tokenizer.model_max_length = window
    with atomic_folder(folder) as partial:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)


def _cell(row: dict[str, Any], shown: str) -> str:
    value, low, high = (shown.format(row[key]) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}], n = {row['n']}"


def _lengths_table(rows: list[dict[str, Any]]) -> list[str]:
    """Perplexity and passkey accuracy by length, a column a model, with n and the 95 % interval."""
    lines = []
    for task, metric, shown in (("perplexity", "perplexity", "{:.2f}"), ("passkey", "accuracy", "{:.0%}")):
        part = [row for row in rows if row["task"] == task and row["depth"] is None]
        if not part:
            continue
        models = list(dict.fromkeys(row["model"] for row in part))
        lines += ["", f"| {task}, {metric} at | {' | '.join(models)} |", "|---|" + "---|" * len(models)]
        for length in sorted({row["length"] for row in part}):
            found = {row["model"]: row for row in part if row["length"] == length}
            cells = [_cell(found[name], shown) if name in found else "–" for name in models]
            lines.append(f"| {length:,} tokens | {' | '.join(cells)} |")
    return lines


def model_card(config: RunConfig, environment: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The README.md of an extended model: what it is, how it was made, its figures, how to run it, its limits."""
    original, target = environment["original_length"], config.target_length
    training = config.training
    scaling = {key: value for key, value in config.scaling.model_dump().items() if value is not None}
    quantised = environment.get("quantised_from")
    origin = f"`{config.model.path}`" + (f" (dequantised from {quantised} GGUF weights)" if quantised else "")
    made = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [long-context, rope, pose, skipwise]",
        "---",
        f"# {Path(config.model.path).name}, window extended to {target:,} tokens",
        "",
        f"Made from {origin}, whose own window is {original:,} tokens, with Skipwise {__version__}: RoPE scaling and "
        "training on short examples with skipped positions (PoSE, [arXiv 2309.10400](https://arxiv.org/abs/2309.10400)).",
        "",
        "## How it was made",
        "",
        f"- RoPE scaling: `{json.dumps(scaling)}`, factor {target / original:g}",
        f"- Positions: `{json.dumps(config.positions.model_dump())}`",
        f"- {training.steps} steps of {training.batch_size * training.gradient_accumulation} examples of "
        f"{training.train_length:,} tokens, learning rate {training.learning_rate:g}, seed {training.seed}",
        f"- Text: {', '.join(config.data.paths)}",
        f"- {environment.get('train_seconds', 0) / 60:.1f} minutes on {environment['device']}",
        "",
        "The whole configuration is in `skipwise.yaml`.",
        "",
        "## Figures",
        *_lengths_table(rows),
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        'model = AutoModelForCausalLM.from_pretrained("PATH", dtype="auto")',
        'tokenizer = AutoTokenizer.from_pretrained("PATH")',
        "```",
        "",
        f"vLLM: `vllm serve PATH --max-model-len {target}`",
        "",
        "## Limits",
        "",
        "A longer window is not a better model: what it could not do within its own window it cannot do beyond. "
        "Perplexity and passkey retrieval are necessary signs of a working window, not sufficient ones; try it on your "
        "own task.",
    ]
    return "\n".join(made) + "\n"


def write_card(folder: Path, config: RunConfig, environment: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Write the card and the configuration beside the weights."""
    import yaml

    write_text(folder / "README.md", model_card(config, environment, rows))
    write_text(folder / "skipwise.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
