"""The model card: a README.md that says what a model is, how it was made, its figures, how to run it, its limits."""

import json
from pathlib import Path
from typing import Any

import yaml

from skipwise import __version__
from skipwise.config import RunConfig, TrainingConfig
from skipwise.evals.rows import Row
from skipwise.evals.tables import markdown_tables
from skipwise.export import source_card
from skipwise.utils.atomic_files import write_text
from skipwise.utils.text import code, duration_words, escape, length_text

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


TAGS = ["long-context", "rope", "pose", "skipwise"]


def _front_matter(facts: dict[str, Any]) -> str:
    """The YAML at the top of a card; `facts` are those of `source_card`."""
    fields = {"library_name": "transformers", "pipeline_tag": "text-generation", **facts, "tags": TAGS}
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def _figures(rows: list[Row]) -> str:
    """Every task's figures over all depths; of a model that was measured before a change of weights the last ones."""
    latest = {row.model: row.fingerprint for row in rows}
    current = [row for row in rows if row.fingerprint == latest[row.model]]
    return markdown_tables(current) or "None were measured."


def _dequantised(kind: str | None) -> str:
    return f" (dequantised from {kind} GGUF weights)" if kind else ""


def _shares(config: RunConfig) -> str:
    """Retrieval that was trained for must not pass for a gift of the scaling, nor what was kept on purpose."""
    recall, plain, distill = config.data.recall, config.data.plain, config.training.distill
    what = "facts in filler, lists of pairs, repeated passages"
    text = f"; {recall:.0%} of the examples are synthetic recall documents ({what})" if recall else ""
    text += f"; {plain:.0%} of the examples are ordinary text without skips" if plain else ""
    return text + (f"; the original model teaches ordinary text, weight {distill:g}" if distill else "")


def _sharpened(training: TrainingConfig) -> str:
    sharpened = training.steps and training.sharpen != 1
    return f"; attention factor multiplied by {training.sharpen:g} after the training" if sharpened else ""


def run_card(config: RunConfig, environment: dict[str, Any], rows: list[Row]) -> str:
    """The card of a model that a run made: what it is, how it was made, its figures, how to run it, its limits."""
    original, target = environment["original_length"], config.target_length
    training = config.training
    adapter = config.adapter.model_dump() if config.adapter.method != "none" else None
    scaling = {key: value for key, value in config.scaling.model_dump().items() if value is not None}
    origin = f"{code(config.model.path)}{_dequantised(environment.get('quantised_from'))}"
    made = [
        _front_matter(environment["source"] if "source" in environment else source_card.facts(config.model)),
        f"# {escape(Path(config.model.path).name)}, window extended to {length_text(target)} tokens",
        "",
        f"Made from {origin}, whose own window is {length_text(original)} tokens, with Skipwise {__version__}: RoPE "
        "scaling and training on short examples with skipped positions (PoSE, [arXiv 2309.10400](https://arxiv.org/abs/2309.10400)).",
        "",
        "## How it was made",
        "",
        f"- RoPE scaling: {code(json.dumps(scaling))}, factor {target / original:g}{_sharpened(training)}",
        f"- Positions: {code(json.dumps(config.positions.model_dump()))}",
        f"- {training.steps} steps of {training.batch_size * training.gradient_accumulation} examples of "
        f"{length_text(training.train_length)} tokens, learning rate {training.learning_rate:g}, seed {training.seed}",
        *([f"- Trained: {code(json.dumps(adapter))}, merged into the weights"] if adapter else []),
        f"- Text: {', '.join(map(code, config.data.described())) or 'none'}{_shares(config)}",
        f"- {duration_words(environment.get('train_seconds', 0))} on {escape(environment['device'])}",
        *(f"- Conversations: {note}" for note in environment.get("conversations", [])),
        *(f"- Layers: {note}" for note in environment.get("layers", [])),
        "",
        "The whole configuration is in `skipwise.yaml`.",
        "",
        "## Figures",
        "",
        _figures(rows),
        _USE.format(window=target) + _LIMITS,
    ]
    return "\n".join(made) + "\n"


def plain_card(
    name: str,
    window: int,
    original: int,
    scaling: dict[str, Any] | None,
    quantised: str | None = None,
    facts: dict[str, Any] | None = None,
) -> str:
    """The card of a model of which no run is known.

    Args:
        name: Name of the model.
        window: Window that it is configured for, tokens.
        original: Window before any scaling, tokens.
        scaling: As `hf_config.describe` gives it.
        quantised: Type of the GGUF weights that it was dequantised from.
        facts: What `source_card.facts` says of the model.
    """
    scaled = f"scaled from {length_text(original)} tokens: {code(json.dumps(scaling))}" if scaling else "not scaled"
    origin = f"{code(name)}{_dequantised(quantised)}"
    lines = [
        _front_matter(facts or {}),
        f"# {escape(name)}, window of {length_text(window)} tokens",
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
