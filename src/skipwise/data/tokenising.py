"""Text to token ids: what a store holds, what comes before a text, and what identifies a tokenizer."""

import hashlib
import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from transformers import PreTrainedTokenizerFast

from skipwise.data.documents import split_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def tokenise(tokenizer: "PreTrainedTokenizerBase", text: str) -> NDArray[np.int64]:
    """Tokenise one text as a token store does.

    Args:
        tokenizer: Makes the token ids.
        text: The text, of any length.

    Returns:
        Token ids, (n,), without BOS or EOS.
    """
    parts = split_text(io.StringIO(text, newline="\n").read)
    return np.concatenate([np.empty(0, np.int64), *(encode(tokenizer, [part], np.int64)[0] for part in parts)])


def encode(tokenizer: "PreTrainedTokenizerBase", texts: list[str], dtype: DTypeLike) -> list[NDArray[Any]]:
    """Tokenise texts in one call of the tokenizer, each whole and without special tokens.

    Args:
        tokenizer: Makes the token ids.
        texts: The texts.
        dtype: Type of the ids.

    Returns:
        Token ids of each text, (n,).
    """
    if getattr(type(tokenizer), "_encode_plus", None) is PreTrainedTokenizerFast._encode_plus:
        # What the call below does, without offsets and lists that nobody reads: 1.7 times as fast.
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        backend.encode_special_tokens = tokenizer.split_special_tokens
        return [np.array(one.ids, dtype) for one in backend.encode_batch_fast(texts, add_special_tokens=False)]
    options = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False}
    ids = tokenizer(texts, **options, verbose=False)["input_ids"]
    return [np.asarray(row, dtype=dtype) for row in ids]


def leading_bos(tokenizer: Any) -> int | None:
    """The id that `tokenizer` puts before a text by itself, or None."""
    ids = tokenizer("a", verbose=False)["input_ids"]
    return int(ids[0]) if len(ids) and ids[0] == tokenizer.bos_token_id else None


def token_dtype(tokenizer: "PreTrainedTokenizerBase") -> np.dtype[Any]:
    """The smallest type that holds every id of the vocabulary."""
    largest = max(tokenizer.get_vocab().values())
    return np.dtype(np.uint16 if largest < 2**16 else np.uint32)


def tokenizer_fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Sha256 of what decides the token ids of a text: the serialised backend, or the vocabulary of a slow tokenizer."""
    if tokenizer.is_fast:
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        content = {key: value for key, value in backend.items() if key not in ("truncation", "padding")}
    else:
        content = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab()}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
