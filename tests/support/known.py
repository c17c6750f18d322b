"""Models whose probabilities are known exactly, made of real transformers classes."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel

from support.tiny import llama_config, tiny_model


def bigram_llama(chances: npt.NDArray[np.float64], folder: Path | None = None, *, window: int = 64) -> PreTrainedModel:
    """A Llama whose next token depends on the last one alone; saved when `folder` is given.

    `chances` (V, V) has one row a token, positive, adding up to one; V is divisible by 8.
    """
    vocabulary = len(chances)
    config = llama_config(
        layers=1, hidden=vocabulary, vocab=vocabulary, window=window, tie_word_embeddings=False, rms_norm_eps=1e-12
    )
    model = tiny_model(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(vocabulary))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        # The norm makes a one-hot vector √V times as long.
        model.lm_head.weight.copy_(torch.tensor(np.log(chances).T / math.sqrt(vocabulary)))
    if folder is not None:
        model.save_pretrained(folder)
    return model
