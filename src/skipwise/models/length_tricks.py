"""Find in a configuration what extends or limits a model's window beside the scaling of RoPE, as notes for the user."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from skipwise.rope import hf_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

NOTES = {
    "dual_chunk_attention_config": "dual chunk attention, which vLLM computes and transformers does not: it maps "
    "positions beyond a chunk back into the chunk; remove the field from config.json to serve an extended model",
    "attn_temperature_tuning": "attention whose temperature grows with the position (attn_temperature_tuning); "
    "an extension leaves its floor_scale as it is",
    "use_logn_attn": "queries scaled by the logarithm of their position beyond the window (use_logn_attn), in code of "
    "its own that an extension leaves as it is",
    "use_dynamic_ntk": "a base of RoPE that its own code raises for long inputs (use_dynamic_ntk): set it to false, or "
    "an extended model is scaled twice",
    "rope_ratio": "a factor on the base of RoPE in its own code (rope_ratio), which the figures here do not include",
    "index_topk": "sparse attention: each query reads its index_topk best keys, however long the window",
    "sparse_config": "sparse attention (sparse_config): each query reads chosen blocks, however long the window",
    "sparse_attention_config": "sparse attention (sparse_attention_config): each query reads chosen blocks, however "
    "long the window",
}
"""By field: what a model has that an extension of RoPE does not change."""


def notes(config: "PreTrainedConfig", layer_kinds: Sequence[str]) -> list[str]:
    """Describe each one that a configuration names, in a sentence.

    Args:
        config: The model's configuration.
        layer_kinds: What each layer is, as `layer_types` names it.
    """
    text = hf_config.language_model(config)
    lines = [f"the model has {note}" for name, note in NOTES.items() if getattr(text, name, None)]
    chunk = getattr(text, "attention_chunk_size", None)
    if isinstance(chunk, int) and chunk and "chunked_attention" not in layer_kinds:
        lines.append(f"the configuration has attention_chunk_size {chunk:,}, which transformers does not use here")
    beta = hf_config.parameters(config).get("llama_4_scaling_beta")
    if beta:
        lines.append(
            f"queries are multiplied by 1 + {beta:g}·ln(1 + ⌊position / original window⌋) (llama_4_scaling_beta); "
            "this stays, so tokens of the longer window meet larger factors than before"
        )
    return lines
