"""What stands beside the adapter of a run, so that it is not put on a base with another RoPE."""

from pathlib import Path
from typing import Any

import yaml
from transformers import PreTrainedConfig

from skipwise.config import RunConfig
from skipwise.export import legacy_fields, source_card
from skipwise.models import sources
from skipwise.models.library_messages import quiet
from skipwise.utils.atomic_files import write_text
from skipwise.utils.text import code, length_text

_CARD = """
# LoRA adapter for a window of {window} tokens

This adapter was trained on {base} with RoPE scaled by {method} to {window} tokens. `config.json` beside it holds that
scaling. **PEFT and transformers read the base's own configuration instead**, under which the adapter gives wrong
answers without any error. So give the configuration to the base:

```python
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM

config = AutoConfig.from_pretrained("PATH")
base = AutoModelForCausalLM.from_pretrained({place}, config=config, dtype="auto")
model = PeftModel.from_pretrained(base, "PATH")
```

PATH is this folder. Skipwise reads the folder as a model and merges the two: `skipwise eval PATH`, and `skipwise export
PATH --out FOLDER` for a model that every loader takes.
"""


def complete(folder: Path, config: PreTrainedConfig, tokenizer: Any, run: RunConfig) -> None:
    """Add the tokenizer, the older spelling of the scaling and a card to the folder of an adapter.

    Args:
        folder: Holds the adapter and its config.json.
        config: Of the scaled base.
        tokenizer: Gets the run's window as its `model_max_length`.
        run: The resolved configuration.
    """
    tokenizer.model_max_length = run.target_length
    with quiet():
        tokenizer.save_pretrained(folder)
    legacy_fields.mend_tokenizer(folder)
    legacy_fields.add_to_config(folder, config)
    source = sources.find(run.model, weights=False)
    arguments = f'"{source.place}"' + (f', gguf_file="{source.gguf}"' if source.gguf else "")
    known = source_card.facts(run.model) | {"library_name": "peft", "tags": ["lora", "skipwise"]}
    text = _CARD.format(
        window=length_text(run.target_length),
        base=code(run.model.path),
        method=run.scaling.method,
        place=arguments,
    )
    write_text(folder / "README.md", f"---\n{yaml.safe_dump(known, sort_keys=True)}---\n{text}")
