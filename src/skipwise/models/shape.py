"""The sizes of a model: layers, heads and widths, read from its configuration in one place."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipwise.errors import SkipwiseError
from skipwise.rope import hf_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the language model, whatever its configuration class calls them."""

    layers: int
    hidden: int
    """Width of the hidden states."""
    heads: int
    """Query heads of a layer."""
    key_heads: int
    """Heads of keys and values that a layer computes."""
    key_width: int
    """Width of one query or key; with multi-head latent attention the plain and the rotated part together."""
    value_width: int
    """Width of one value."""
    latent: int | None
    """Numbers that multi-head latent attention stores for a token in place of keys and values (arXiv 2405.04434,
    eq. 9-13); None for other attention."""
    feed_forward: int
    """Width inside the widest feed-forward layer."""
    vocabulary: int

    @classmethod
    def of(cls, config: "PreTrainedConfig") -> "ModelShape":
        """The shape that a configuration describes.

        Args:
            config: Of the language model, or of a wrapper around it.

        Raises:
            SkipwiseError: A size is missing, or does not go with another one.
        """
        text = hf_config.language_model(config)
        for name in ("num_hidden_layers", "num_attention_heads", "hidden_size", "vocab_size"):
            value = getattr(text, name, None)
            if not isinstance(value, int) or value < 1:
                raise SkipwiseError(f"{name} = {value!r}: expected one whole number of at least 1 for all layers")
        heads, width = int(text.num_attention_heads), hf_config.head_width(config)
        key_heads = int(getattr(text, "num_key_value_heads", None) or heads)
        if getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", False):
            key_heads = 1  # Falcon-7B; Falcon-40B repeats its keys for every head before they are cached
        rank = getattr(text, "kv_lora_rank", None) if hasattr(text, "qk_nope_head_dim") else None
        if rank:
            key_heads = heads  # each head makes its own keys from the latent; the field is not read
        if heads % key_heads:
            raise SkipwiseError(
                f"num_key_value_heads = {key_heads}: expected a number that divides num_attention_heads, {heads}"
            )
        value_width = int(getattr(text, "v_head_dim", None) or width)
        if rank:
            width = int(text.qk_nope_head_dim + text.qk_rope_head_dim)
        hidden, widest = int(text.hidden_size), getattr(text, "intermediate_size", None) or 0
        return cls(
            layers=int(text.num_hidden_layers),
            hidden=hidden,
            heads=heads,
            key_heads=key_heads,
            key_width=width,
            value_width=value_width,
            latent=int(rank + text.qk_rope_head_dim) if rank else None,
            feed_forward=int(max(widest) if isinstance(widest, list | tuple) else widest) or 4 * hidden,
            vocabulary=int(text.vocab_size),
        )
