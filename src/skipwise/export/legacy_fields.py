"""Add to a saved model what older loaders look for and transformers 5 does not write.

transformers 5 writes `rope_parameters` alone. transformers 4, and vLLM on top of it, read `rope_theta` and
`rope_scaling` (with `type` at first, `rope_type` since) and `torch_dtype`, and know neither the tokenizer class nor the
list of special tokens that transformers 5 writes.
"""

import json
import math
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from skipwise.rope import hf_config
from skipwise.rope.methods import yarn_attention
from skipwise.utils.atomic_files import write_text

Fields = dict[str, Any]

# Keys of rope_parameters that the older form keeps at the top level, and GPT-NeoX's own names of them.
_TOP_LEVEL = ("rope_theta", "partial_rotary_factor")
_NEOX = {"rope_theta": "rotary_emb_base", "partial_rotary_factor": "rotary_pct"}


def older_fields(written: Fields) -> Fields:
    """The fields that stand for the `rope_parameters` of `written`, a config.json or its `text_config`.

    Parameters by layer type become those of full attention; the base of the sliding layers is `rope_local_base_freq`.
    """
    parameters = written["rope_parameters"]
    fields: Fields = {}
    if hf_config.is_nested(parameters):
        local = parameters.get("sliding_attention") or {}
        fields |= {"rope_local_base_freq": local["rope_theta"]} if "rope_theta" in local else {}
        parameters = parameters.get("full_attention") or {}
    names = _NEOX if str(written.get("model_type", "")).startswith("gpt_neox") else {}
    fields |= {names.get(key, key): parameters[key] for key in _TOP_LEVEL if key in parameters}
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        return fields
    scaling = {key: value for key, value in parameters.items() if key not in _TOP_LEVEL}
    fields["rope_scaling"] = {**scaling, **_relative_attention(parameters), "type": kind, "rope_type": kind}
    if "original_max_position_embeddings" in parameters:
        fields["original_max_position_embeddings"] = parameters["original_max_position_embeddings"]
    return fields


def _relative_attention(parameters: Fields) -> Fields:
    """`attn_factor`: YaRN's factor on cos and sin beside the usual 0.1·ln(factor) + 1; left out where it is 1.

    vLLM read it before it knew `attention_factor`.
    """
    given = parameters.get("attention_factor")
    if parameters.get("rope_type") != "yarn" or given is None:
        return {}
    usual = yarn_attention(parameters["factor"])
    return {} if math.isclose(given, usual, rel_tol=1e-6) else {"attn_factor": given / usual}


def language_part(saved: Fields) -> Fields:
    """The part of a config.json that describes the language model: `text_config` where there is one."""
    text = saved.get("text_config")
    part: Fields = text if isinstance(text, dict) and "rope_parameters" in text else saved
    return part


def with_older_fields(saved: Fields, config: PreTrainedConfig) -> Fields | None:
    """A config.json with the older fields; None where transformers would then read it differently.

    `config`: of the class that reads it.
    """
    both: Fields = json.loads(json.dumps(saved))
    part = language_part(both)
    if not part.get("rope_parameters"):
        return None
    part |= older_fields(part)
    if "dtype" in both:
        both["torch_dtype"] = both["dtype"]
    try:
        return both if _as_read(both, config) == _as_read(saved, config) else None
    except Exception:  # each family refuses unknown fields in its own way
        return None


def add_to_config(folder: Path, config: PreTrainedConfig) -> bool:
    """Write the older fields into the config.json of `folder`; False, and no change, where it would be misread."""
    path = folder / "config.json"
    both = with_older_fields(json.loads(path.read_text(encoding="utf-8")), config)
    if both is not None:
        write_text(path, json.dumps(both, indent=2, sort_keys=True) + "\n")
    return both is not None


def without_marks(parameters: Fields) -> Fields:
    """`rope_parameters` as transformers 5 writes them: without the keys that only older loaders read."""
    if hf_config.is_nested(parameters):
        return {kind: without_marks(part or {}) for kind, part in parameters.items()}
    return {key: value for key, value in parameters.items() if key not in ("type", "attn_factor")}


def _as_read(saved: Fields, config: PreTrainedConfig) -> Fields:
    """What transformers makes of a config.json, as far as positions go."""
    read = type(config).from_dict(json.loads(json.dumps(saved)))
    text = read.get_text_config()
    window, original = text.max_position_embeddings, hf_config.true_original_length(read)
    return {"rope": without_marks(text.rope_parameters), "window": window, "original": original}


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
