"""The model card: what is known of a model flows in, the README.md that is saved beside it flows out."""

import json
from pathlib import Path
from typing import Any

import yaml

from skipwise import __version__
from skipwise.config import RunConfig
from skipwise.evals.rows import Row
from skipwise.utils.atomic_files import write_text
from skipwise.utils.text import value_text

_HEADER = """---
library_name: transformers
pipeline_tag: text-generation
tags: [long-context, rope, pose, skipwise]
---"""

_USE = """
## Use

The window is in the configuration, so no loader needs to be told how the positions are scaled.

transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH", dtype="auto")
tokenizer = AutoTokenizer.from_pretrained("PATH")
```

vLLM:

```sh
vllm serve PATH --max-model-len {window}
```

llama.cpp (for the llama, mistral, qwen2 and qwen3 families), from a GGUF file that Skipwise writes:

```sh
skipwise export PATH --format gguf --out model.gguf
llama-server -m model.gguf -c {window}
```
"""

_LIMITS = """
## Limits

A longer window is not a better model: what it could not do within its own window it cannot do beyond. Perplexity and
passkey retrieval are necessary signs of a working window, not sufficient ones; try it on your own task."""


def _cell(row: Row) -> str:
    value, low, high = (value_text(row.metric, end) for end in (row.value, row.low, row.high))
    ends = "" if row.low is None else f" [{low}, {high}]"
    return f"{value}{ends}, n = {row.n}"


def _lengths_table(rows: list[Row]) -> list[str]:
    """Every task's figures by length, a column a model, with n and the 95 % interval."""
    lines = []
    whole = [row for row in rows if row.depth is None]
    kinds = dict.fromkeys((row.task, row.variant, row.metric) for row in whole)
    for kind in kinds:
        part = [row for row in whole if (row.task, row.variant, row.metric) == kind]
        title = f"{kind[0]} {kind[1]}" if kind[1] else f"{kind[0]}, {kind[2]}"
        models = list(dict.fromkeys(row.model for row in part))
        lines += ["", f"| {title.replace('_', ' ')} at | {' | '.join(models)} |", "|---|" + "---|" * len(models)]
        for length in sorted({row.length or 0 for row in part}):
            found = {row.model: row for row in part if (row.length or 0) == length}
            cells = [_cell(found[name]) if name in found else "–" for name in models]
            lines.append(f"| {length:,} tokens | {' | '.join(cells)} |")
    return lines


def _dequantised(kind: str | None) -> str:
    return f" (dequantised from {kind} GGUF weights)" if kind else ""


def _recall(share: float) -> str:
    """Retrieval that was trained for must not pass for a gift of the scaling."""
    return f"; {share:.0%} of the examples are synthetic recall documents (facts in filler, asked for)" if share else ""


def run_card(config: RunConfig, environment: dict[str, Any], rows: list[Row]) -> str:
    """The card of a model that a run made: what it is, how it was made, its figures, how to run it, its limits."""
    original, target = environment["original_length"], config.target_length
    training = config.training
    scaling = {key: value for key, value in config.scaling.model_dump().items() if value is not None}
    origin = f"`{config.model.path}`{_dequantised(environment.get('quantised_from'))}"
    made = [
        _HEADER,
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
        f"- Text: {', '.join(config.data.paths) or 'none'}{_recall(config.data.recall)}",
        f"- {environment.get('train_seconds', 0) / 60:.1f} minutes on {environment['device']}",
        *(f"- Layers: {note}" for note in environment.get("layers", [])),
        "",
        "The whole configuration is in `skipwise.yaml`.",
        "",
        "## Figures",
        *(_lengths_table(rows) or ["", "None were measured."]),
        _USE.format(window=target) + _LIMITS,
    ]
    return "\n".join(made) + "\n"


def plain_card(
    name: str, window: int, original: int, scaling: dict[str, Any] | None, quantised: str | None = None
) -> str:
    """The card of a model of which no run is known; `scaling` as `hf_config.describe` gives it.

    `quantised`: type of the GGUF weights that it was dequantised from.
    """
    scaled = f"scaled from {original:,} tokens: `{json.dumps(scaling)}`" if scaling else "not scaled"
    origin = f"`{name}`{_dequantised(quantised)}"
    lines = [
        _HEADER,
        f"# {name}, window of {window:,} tokens",
        "",
        f"Written by Skipwise {__version__} from {origin}. Its RoPE is {scaled}. How it was trained, on what, and what "
        "it reaches is not known here.",
        _USE.format(window=window) + _LIMITS,
    ]
    return "\n".join(lines) + "\n"


def write_card(folder: Path, config: RunConfig, environment: dict[str, Any], rows: list[Row]) -> None:
    """Write the card of a run and its configuration beside the weights."""
    write_text(folder / "README.md", run_card(config, environment, rows))
    write_text(folder / "skipwise.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
