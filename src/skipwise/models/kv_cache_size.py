"""Bytes of keys and values that a model keeps while it generates, worked out from its configuration.

The sizes are those of transformers' DynamicCache. Full-attention layers keep every token, sliding ones the last
window - 1. The state of layers without softmax attention does not grow and is not counted.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skipwise.models.families import Architecture
from skipwise.models.shape import ModelShape

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class KvCache:
    """Sizes for one sequence."""

    values: int
    """Numbers that one layer keeps for one token, keys and values together."""
    itemsize: int
    """Bytes of one number."""
    full_layers: int
    """Layers that keep every token."""
    sliding_layers: int
    window_tokens: int
    """Tokens that a sliding layer keeps."""

    @property
    def bytes_per_token(self) -> int:
        """Growth with every token beyond all sliding windows."""
        return self.values * self.itemsize * self.full_layers

    def bytes_at(self, tokens: int) -> int:
        """Bytes after `tokens` tokens."""
        stored = self.full_layers * tokens + self.sliding_layers * min(tokens, self.window_tokens)
        return self.values * self.itemsize * stored


def values_per_token(config: "PreTrainedConfig") -> int:
    """Numbers that one attention layer keeps for one token.

    A key and a value for each key head; with multi-head latent attention the one latent and the rotated part of the key
    instead (arXiv 2405.04434, eq. 9-13, as transformers 5.2x and vLLM keep them).

    Args:
        config: Of the model.
    """
    shape = ModelShape.of(config)
    return shape.latent or shape.key_heads * (shape.key_width + shape.value_width)


def kv_cache(config: "PreTrainedConfig", architecture: Architecture, itemsize: int) -> KvCache:
    """Work out the cache of a model.

    Args:
        config: Of the model.
        architecture: As `families.architecture` reads the configuration.
        itemsize: Bytes of one number.
    """
    # The last layers of Gemma-3n read the cache of earlier ones.
    shared = int(getattr(config.get_text_config(), "num_kv_shared_layers", None) or 0)
    layers = [i for i in range(architecture.layers - shared) if i not in architecture.linear_layers]
    bounded = architecture.sliding_window is not None
    sliding = sum(i in architecture.sliding_layers for i in layers) if bounded else 0
    return KvCache(
        values=values_per_token(config),
        itemsize=itemsize,
        full_layers=len(layers) - sliding,
        sliding_layers=sliding,
        window_tokens=(architecture.sliding_window or 1) - 1,
    )
