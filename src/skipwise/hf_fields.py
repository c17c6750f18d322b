"""What older loaders look for in a saved model: a folder as transformers 5 writes it flows in, and gains those fields.

transformers 5 writes `rope_parameters` alone. transformers 4, and vLLM on top of it, read `rope_theta` and
`rope_scaling` (with `type` at first, `rope_type` since) and `torch_dtype`, and know neither the tokenizer class nor the
list of special tokens that transformers 5 writes.
"""

import json
import math
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from skipwise import rope
from skipwise.files import write_text

Fields = dict[str, Any]

# Keys of rope_parameters that the older form keeps at the top level, and GPT-NeoX's own names of them.
_TOP_LEVEL = ("rope_theta", "partial_rotary_factor")
_NEOX = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}


def older_fields(written: Fields) -> Fields:
    """The fields that stand for the `rope_parameters` of `written`, a config.json or its `text_config`.

    Parameters by layer type become those of full attention; the base of the sliding layers is `rope_local_base_freq`.
    """
    found = written["rope_parameters"]
    fields: Fields = {}
    if rope.is_nested(found):
        local = found.get("sliding_attention") or {}
        fields |= {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
        found = found.get("full_attention") or {}
    names = _NEOX if str(written.get("model_type", "")).startswith("gpt_neox") else {}
    fields |= {names.get(key, key): found[key] for key in _TOP_LEVEL if key in found}
    kind = found.get("rope_type", "default")
    if kind == "default":
        return fields
    scaling = {key: value for key, value in found.items() if key not in _TOP_LEVEL}
    fields["rope_scaling"] = {**scaling, **_relative_attention(found), "type": kind, "rope_type": kind}
    if "original_max_position_embeddings" in found:
        fields["original_max_position_embeddings"] = found["original_max_position_embeddings"]
    return fields


def _relative_attention(found: Fields) -> Fields:
    """`attn_factor`: YaRN's factor on cos and sin beside the usual 0.1·ln(factor) + 1, as vLLM read it before it knew
    `attention_factor`; left out where it is 1."""
    given = found.get("attention_factor")
    if found.get("rope_type") != "yarn" or given is None:
        return {}
    usual = 0.1 * math.log(found["factor"]) + 1
    return {} if math.isclose(given, usual, rel_tol=1e-6) else {"attn_factor": given / usual}


def add_to_config(folder: Path, config: PreTrainedConfig) -> bool:
    """Write the older fields into the config.json of `folder`; False where transformers would then read it differently.

    `config`: the configuration that was saved there; its class reads both forms back. In that case nothing is changed.
    """
    path = folder / "config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    part = saved["text_config"] if "rope_parameters" in saved.get("text_config", {}) else saved
    if not part.get("rope_parameters"):
        return False
    before = _as_read(saved, config)
    part |= older_fields(part)
    if "dtype" in saved:
        saved["torch_dtype"] = saved["dtype"]
    try:
        same = _as_read(saved, config) == before
    except Exception:  # each family refuses unknown fields in its own way
        same = False
    if same:
        write_text(path, json.dumps(saved, indent=2, sort_keys=True) + "\n")
    return same


def _as_read(saved: Fields, config: PreTrainedConfig) -> Fields:
    """What transformers makes of a config.json, without the keys that only older loaders read."""
    read = type(config).from_dict(json.loads(json.dumps(saved)))
    text = read.get_text_config()
    found = text.rope_parameters
    parts = found if rope.is_nested(found) else {"": found}
    plain = {
        kind: {key: value for key, value in (part or {}).items() if key not in ("type", "attn_factor")}
        for kind, part in parts.items()
    }
    return {"rope": plain, "window": text.max_position_embeddings, "original": rope.true_original_length(read)}


def mend_tokenizer(folder: Path) -> None:
    """Name tokenizer class and special tokens in tokenizer_config.json so that transformers 4 reads them too."""
    path = folder / "tokenizer_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    if saved.get("tokenizer_class") == "TokenizersBackend":
        saved["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(saved.get("extra_special_tokens"), list):
        saved["additional_special_tokens"] = saved.pop("extra_special_tokens")
    for internal in ("backend", "is_local", "local_files_only"):
        saved.pop(internal, None)
    write_text(path, json.dumps(saved, indent=2, ensure_ascii=False) + "\n")
