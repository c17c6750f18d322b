"""Read long texts with a model, a chunk at a time, and go back to an earlier place in them.

The keys and values of a text stay while several continuations of it are read, so a prefix that prompts share is
computed once. Memory is that of the keys and values and of one chunk, whatever the length. The chunks give what one
pass gives, to rounding; where a model's code does not allow that (`Reader.whole`), a text is read in one pass.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from skipwise.errors import SkipwiseError, is_out_of_memory
from skipwise.models import causal_attention, families, sliced_loss
from skipwise.models.checks import full_precision
from skipwise.models.memory import chunk_tokens
from skipwise.models.shape import ModelShape
from skipwise.rope import hf_config
from skipwise.utils import progress

LEAST_CHUNK = 128
"""A chunk this small is not halved any more, tokens."""


class _Layer(DynamicLayer):  # type: ignore[misc]
    """Keys and values of one layer in one buffer, so that a new chunk is written and not everything copied."""

    def __init__(self, rows: int, capacity: int) -> None:
        super().__init__()
        self.rows, self.capacity, self.length = rows, capacity, 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self._buffers = [
            torch.empty(self.rows, t.shape[1], self.capacity, t.shape[3], dtype=t.dtype, device=t.device)
            for t in (key_states, value_states)
        ]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, self.length = self.length, self.length + key_states.shape[2]
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[:, :, start : self.length] = new
        self.keys, self.values = (buffer[:, :, : self.length] for buffer in self._buffers)
        return self.keys, self.values

    def get_seq_length(self) -> int:
        return self.length


class KeyValues(Cache):  # type: ignore[misc]
    """transformers' cache for `rows` texts of at most `capacity` tokens each, which can be cut back."""

    def __init__(self, layers: int, rows: int, capacity: int) -> None:
        super().__init__(layers=[_Layer(rows, capacity) for _ in range(layers)])
        self.rows, self.capacity = rows, capacity

    @property
    def length(self) -> int:
        """Tokens held in each row."""
        return max(int(layer.length) for layer in self.layers)

    def cut(self, length: int) -> None:
        """Forget what stands beyond `length` tokens."""
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def repeated(self, rows: int, capacity: int) -> "KeyValues":
        """Make a new cache that holds the first row of this one `rows` times."""
        new = KeyValues(len(self.layers), rows, capacity)
        for mine, other in zip(self.layers, new.layers, strict=True):
            if mine.length:
                other.update(*(t[:1, :, : mine.length].expand(rows, -1, -1, -1) for t in mine._buffers))
        return new

    def selected(self, rows: list[int], capacity: int) -> "KeyValues":
        """Make a new cache with some rows of this one."""
        new = KeyValues(len(self.layers), len(rows), capacity)
        for mine, other in zip(self.layers, new.layers, strict=True):
            if mine.length:
                other.update(*(t[rows, :, : mine.length] for t in mine._buffers))
        return new


class Reader:
    """One model as a reader of long texts. Only the caches hold anything from one call to the next.

    Args:
        model: The model.
        chunk: Tokens in one forward pass, all rows together; as many as are fast and fit when absent.
    """

    def __init__(self, model: PreTrainedModel, *, chunk: int | None = None) -> None:
        self.model = model
        self.layers = ModelShape.of(model.config).layers
        self.chunk = chunk or chunk_tokens(model)
        self.implementation: str = model.config._attn_implementation
        """Name of the attention that the model was loaded with."""
        self.whole: bool = hf_config.changes_with_length(model.config) or not self._agrees(self.implementation)
        seen = families.architecture(model.config)
        self.batches = not (self.whole or seen.sliding_layers or seen.linear_layers)
        """Whether rows of different lengths can be decoded together: sliding windows count places, padding included."""
        self.maskless = self.batches and self.implementation == "sdpa" and self._agrees(causal_attention.register())

    def cache(self, rows: int, capacity: int) -> KeyValues:
        """Make an empty cache for `rows` texts of at most `capacity` tokens each."""
        return KeyValues(self.layers, rows, capacity)

    @torch.no_grad()
    def read(self, tokens: Tensor, cache: KeyValues | None = None) -> Iterator[tuple[int, Tensor]]:
        """Compute the hidden states that the head reads, a chunk at a time.

        Args:
            tokens: Token ids, (B, T). All rows have the same length; padding at the end of a row changes nothing before
                it.
            cache: The tokens follow what it holds and are added to it. None reads them as the start of a text.

        Yields:
            (place of the chunk's first token, states (B, t, H)).
        """
        rows, count = tokens.shape
        if self.whole:
            assert cache is None, "this model cannot go back in a text"
            self.reset()
            yield 0, self._states(tokens, None)
            return
        size = max(self.chunk // rows, 16)
        if cache is None and count <= size:
            yield 0, self._states(tokens, None)
            return
        key_values = cache if cache is not None else self.cache(rows, count)
        with self.reading():
            for start in range(0, count, size):
                yield start, self._states(tokens[:, start : start + size], key_values)

    def shrink(self, error: BaseException) -> None:
        """Halve the chunk, with a message, because memory ran out.

        Args:
            error: What was raised. Anything but a lack of memory is raised again.

        Raises:
            SkipwiseError: The chunk is small already.
        """
        if not is_out_of_memory(error):
            raise error
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.chunk <= LEAST_CHUNK:
            raise SkipwiseError("out of memory while reading a text; give shorter evaluation.lengths") from error
        self.chunk //= 2
        progress.say(f"out of memory; going on with chunks of {self.chunk} tokens")

    @torch.no_grad()
    def reset(self) -> None:
        """Make the model forget the lengths it has seen.

        Dynamic RoPE holds the frequencies of its longest input until it reads a short one.
        """
        self._states(torch.zeros(1, 1, dtype=torch.long, device=self.model.device), None)

    @torch.no_grad()
    def step(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: KeyValues) -> Tensor:
        """Read one more token for each row of a cache whose rows have gaps. Call it inside `stepping`.

        Args:
            tokens: Token ids, (B,).
            positions: Their positions, (B,).
            mask: 1 for each token of a row's text, 0 for gaps, the new token included; (B, S + 1).
            cache: Holds S tokens a row; the new ones are added.

        Returns:
            Hidden states of the new tokens, (B, H).
        """
        decoder = self.model.get_decoder()
        at = {"input_ids": tokens[:, None], "attention_mask": mask, "position_ids": positions[:, None]}
        output = decoder(**at, past_key_values=cache, use_cache=True)
        states: Tensor = output.last_hidden_state
        return states[:, -1]

    @torch.no_grad()
    def token_nll(self, tokens: Tensor, scored: Sequence[int] | None = None) -> Iterator[Tensor]:
        """Compute -log p of each token given those before it, a chunk at a time, in bounded memory.

        Args:
            tokens: Token ids, (B, T).
            scored: For each row, how many of its last tokens are wanted; all when absent. The others come as 0 and
                their logits are not computed.

        Yields:
            Losses in nats, fp32, (B, t); T - 1 tokens in all.
        """
        rows, count = tokens.shape
        first = torch.tensor([count - 1 - n for n in scored]) if scored is not None else torch.zeros(rows)
        labels = tokens.new_full((rows, count), sliced_loss.IGNORED)
        labels[:, :-1] = tokens[:, 1:]
        labels[(torch.arange(count)[None] < first[:, None]).to(tokens.device)] = sliced_loss.IGNORED
        for start, hidden in self.read(tokens):
            stop = min(start + hidden.shape[1], count - 1)
            wanted = labels[:, start:stop]
            hidden = hidden[:, : stop - start]
            counted = wanted != sliced_loss.IGNORED
            losses = torch.zeros(wanted.shape, device=tokens.device)
            if counted.any():
                losses[counted] = sliced_loss.nll(self.model, hidden[counted], wanted[counted])
            yield losses

    def _states(self, tokens: Tensor, cache: KeyValues | None) -> Tensor:
        decoder = self.model.get_decoder()
        output = decoder(input_ids=tokens, past_key_values=cache, use_cache=cache is not None)
        states: Tensor = output.last_hidden_state
        return states

    def reading(self) -> AbstractContextManager[None]:
        """Give the model the attention of `read` until the block ends.

        `read` does so by itself. Around many short calls it is faster to do it once.
        """
        return _Implementation(self.model, causal_attention.NAME if self.maskless else self.implementation)

    def stepping(self) -> AbstractContextManager[None]:
        """Give the model the attention of `step` until the block ends: the loaded one, which takes a mask."""
        return _Implementation(self.model, self.implementation)

    @torch.no_grad()
    def _agrees(self, implementation: str) -> bool:
        """Whether this model gives the same in two chunks as in one pass, under an attention implementation.

        Judged in fp32: rounded to bf16, a trained model's states differ by more than many a mistake would change them.
        FlashAttention's kernels know 16 bits only, so under them that coarse check has to do.
        """
        exact = not implementation.startswith("flash_attention")
        vocabulary = self.model.config.get_text_config().vocab_size
        tokens = torch.arange(3, 27, device=self.model.device)[None].repeat(2, 1) % vocabulary
        tokens[1] = tokens[1].flip(0)
        try:
            with full_precision(self.model) if exact else nullcontext():
                plain = self._states(tokens, None)
                with _Implementation(self.model, implementation):
                    cache = self.cache(2, 24)
                    parts = [self._states(part, cache) for part in (tokens[:, :15], tokens[:, 15:])]
        except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError):
            return False  # the model's code wants a cache or an attention of its own kind
        gap = (plain - torch.cat(parts, dim=1)).abs().max()
        return bool(gap <= (1e-3 if exact else 0.1) * plain.abs().max())


class _Implementation(AbstractContextManager[None]):
    """A model under another attention implementation, until the block ends."""

    def __init__(self, model: PreTrainedModel, name: str) -> None:
        self.model, self.name = model, name

    def __enter__(self) -> None:
        self.before = self.model.config._attn_implementation
        if self.name != self.before:
            self.model.set_attn_implementation(self.name)

    def __exit__(self, *exception: object) -> None:
        if self.name != self.before:
            self.model.set_attn_implementation(self.before)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Count the tokens that two texts share at their start."""
    low, high = 0, min(len(first), len(second))
    while low < high:  # comparing slices is much faster than tokens
        middle = math.ceil((low + high) / 2)
        low, high = (middle, high) if first[low:middle] == second[low:middle] else (low, middle - 1)
    return low
