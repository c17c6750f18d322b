"""Tiny random models and tokenizers of real transformers classes, saved in a folder, for tests of every module.

`tiny_llama(tmp_path / "model")` gives a folder that `models.load` and plain transformers load in milliseconds.
"""

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.configuration_utils import PreTrainedConfig

VOCABULARY = 512


@functools.cache
def _bpe(vocabulary: int, bos: bool) -> str:
    """A byte-level BPE with single digits, trained on a file of the standard library, as JSON."""
    tokenizer = Tokenizer(models.BPE())
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([Path(argparse.__file__).read_text(encoding="utf-8")], trainer)
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer.to_str()


def tiny_tokenizer(folder: Path, *, vocab: int = VOCABULARY, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    """A BPE of `vocab` tokens with single digits, `<s>` (0) and `</s>` (1), saved in `folder`.

    `adds_bos`: it puts `<s>` before a text by itself, as Llama's does.
    """
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_bpe(vocab, adds_bos)), bos_token="<s>", eos_token="</s>"
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_model(config: PreTrainedConfig, folder: Path | None = None, *, seed: int = 0) -> PreTrainedModel:
    """The model of a causal config with seeded random fp32 weights, in evaluation mode; saved if `folder` is given."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    if folder is not None:
        model.save_pretrained(folder)
    return model


def llama_config(
    *, layers: int = 2, hidden: int = 64, window: int = 64, vocab: int = VOCABULARY, theta: float = 10000.0, **more: Any
) -> LlamaConfig:
    """A Llama config with 4 heads of which 2 carry keys; `more` overrides anything."""
    values: dict[str, Any] = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": vocab,
        "max_position_embeddings": window,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        # Ten times the usual: random attention then really looks at other tokens.
        "initializer_range": 0.2,
    }
    return LlamaConfig(**{**values, **more})


def tiny_llama(
    folder: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    window: int = 64,
    vocab: int = VOCABULARY,
    theta: float = 10000.0,
    seed: int = 0,
    adds_bos: bool = False,
    **more: Any,
) -> Path:
    """A Llama with random weights and a real tokenizer in `folder`, which is returned."""
    config = llama_config(layers=layers, hidden=hidden, window=window, vocab=vocab, theta=theta, **more)
    tiny_model(config, folder, seed=seed)
    tiny_tokenizer(folder, vocab=vocab, adds_bos=adds_bos)
    return folder


def tiny_gguf(
    path: Path,
    *,
    quantisation: str = "Q4_1",
    window: int = 64,
    theta: float = 10000.0,
    seed: int = 0,
    scaling: dict[str, Any] | None = None,
) -> Path:
    """`tiny_llama` as a GGUF file of llama.cpp's conventions, matrices quantised; norms in F32.

    `scaling` holds keys of `llama.rope.scaling`.
    """
    config = llama_config(window=window, theta=theta)
    weights = {name: value.numpy() for name, value in tiny_model(config, seed=seed).state_dict().items()}
    tokens = json.loads(_bpe(config.vocab_size, False))["model"]
    kind = gguf.GGMLQuantizationType[quantisation]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(window)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(theta)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{quantisation}"])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(tokens["vocab"], key=tokens["vocab"].__getitem__))
    writer.add_token_merges([" ".join(merge) for merge in tokens["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for key, value in (scaling or {}).items():
        add = {str: writer.add_string, int: writer.add_uint32, float: writer.add_float32}[type(value)]
        add(f"llama.rope.scaling.{key}", value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in weights.items():
        if name == "lm_head.weight":  # tied: llama.cpp uses the embedding
            continue
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:  # llama.cpp rotates neighbours, transformers halves
                value = value.reshape(heads, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        target = names.get_name(name, try_suffixes=(".weight",))
        if value.ndim == 1:
            writer.add_tensor(target, value)
        else:
            writer.add_tensor(target, gguf.quants.quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
