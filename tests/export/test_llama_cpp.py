"""Exported GGUF files in llama.cpp itself: the same tokens, logits and perplexity at the new length as ours."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, MistralConfig, PreTrainedConfig, Qwen2Config, Qwen3Config

from export.test_gguf_writer import LLAMA3, QWEN2, SMALL, TABLES, byte_level, sentencepiece, split, with_rope
from skipwise.config import ModelConfig
from skipwise.export import gguf_writer, hugging_face
from skipwise.models import checkpoint, configuration, sources
from skipwise.models.forward import token_nll
from skipwise.models.load import load
from skipwise.rope.scale import scale
from support.tiny import tiny_model, tiny_tokenizer

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed (extra `llama-cpp`)")
pytestmark = pytest.mark.slow

TEXT = Path(argparse.__file__).read_text(encoding="utf-8")
SAMPLE = "The grass isn't green, she'd said:\n\n\tx = [1234, 56.78]  # naïve Größe, 東京 🙂 THE End...\r\n   and then"


def llama(path: Path, window: int) -> Any:
    return llama_cpp.Llama(str(path), n_ctx=window, n_batch=512, logits_all=True, n_threads=2, verbose=False)


def scores(path: Path, ids: list[int]) -> np.ndarray:
    """llama.cpp's logits (T, V) of one text."""
    model = llama(path, len(ids))
    model.eval(ids)
    found = np.array(model.scores[: len(ids)], dtype=np.float64)
    model.close()
    return found


def nll(logits: np.ndarray, ids: list[int]) -> np.ndarray:
    top = logits.max(axis=1)
    logsum = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return logsum[:-1] - logits[np.arange(len(ids) - 1), ids[1:]]


@pytest.mark.parametrize(
    ("method", "dtype"), [*(("yarn", dtype) for dtype in gguf_writer.TYPES), ("linear", "f32"), ("ntk", "f32")]
)
def test_perplexity_of_the_packaged_model_at_four_times_its_window(
    method: str, dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packaged = sources.find(ModelConfig(path="bundled"))
    config = scale(configuration.read(packaged), method, target_length=1024)
    tokenizer = checkpoint.tokenizer(packaged)
    weights = checkpoint.weights(packaged, config, "sdpa", torch.float32)
    hugging_face.save(weights, tokenizer, tmp_path / "model", window=1024, dtype=torch.float32)
    path = hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", dtype=dtype)

    ids = tokenizer(TEXT)["input_ids"][:1024]
    theirs = llama(path, 1024)
    assert theirs.n_ctx() == 1024
    assert theirs.tokenize(TEXT.encode(), add_bos=True)[:1024] == ids
    theirs.close()
    loaded = load(ModelConfig(path=str(tmp_path / "model"), precision="float32"))
    ours = token_nll(loaded.model, torch.tensor([ids]))[0].double().numpy()
    other = nll(scores(path, ids), ids)
    mine, their = np.exp(ours.mean()), np.exp(other.mean())
    with capsys.disabled():
        print(f"\n{method} {dtype}, perplexity at 1024: {mine:.4f} here, {their:.4f} in llama.cpp")
    assert their == pytest.approx(mine, rel=0.02)
    assert np.exp(other[-256:].mean()) == pytest.approx(np.exp(ours[-256:].mean()), rel=0.02)


def extended(config: PreTrainedConfig) -> PreTrainedConfig:
    return scale(config, "yarn", target_length=256)


@pytest.mark.parametrize(
    "config",
    [
        extended(LlamaConfig(**SMALL)),
        extended(LlamaConfig(**SMALL, attention_bias=True, tie_word_embeddings=True)),
        extended(MistralConfig(**SMALL, sliding_window=None)),
        extended(Qwen2Config(**SMALL)),
        extended(Qwen3Config(**SMALL, head_dim=32)),
        *(with_rope(kind, **parameters) for kind, parameters in TABLES.items()),
        with_rope("yarn", factor=4.0, attention_factor=1.0),
        with_rope("yarn", factor=4.0, truncate=False),
    ],
    ids=["llama", "biases", "mistral", "qwen2", "qwen3", *TABLES, "attention_factor", "truncate"],
)
def test_logits_of_random_models(config: PreTrainedConfig, tmp_path: Path) -> None:
    model = tiny_model(config, tmp_path / "model")
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    path = hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", dtype="f32")
    ids = [number * 7 % 512 for number in range(256)]
    with torch.no_grad():
        ours = model(torch.tensor([ids])).logits[0].double().numpy()
    theirs = scores(path, ids)
    assert theirs.shape == ours.shape
    # llama.cpp keeps its cache in half precision.
    assert np.linalg.norm(theirs - ours) < 3e-3 * np.linalg.norm(ours)


@pytest.mark.parametrize("kind", ["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "sentencepiece"])
def test_tokens(kind: str, tmp_path: Path) -> None:
    cuts: dict[str, list[pre_tokenizers.PreTokenizer]] = {
        **{"gpt-2": [], "smollm": [pre_tokenizers.Digits(individual_digits=True)]},
        **{"llama-bpe": [split(LLAMA3)], "smaug-bpe": [split(LLAMA3)], "qwen2": [split(QWEN2)]},
    }
    tokenizer = (
        sentencepiece() if kind == "sentencepiece" else byte_level(*cuts[kind], ignore_merges=kind == "llama-bpe")
    )
    tiny_model(LlamaConfig(**SMALL), tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    path = hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", dtype="f32")
    model = llama(path, 64)
    ours = AutoTokenizer.from_pretrained(tmp_path / "model")
    for text in (SAMPLE, TEXT[:5000], "and the  her in"):
        wanted = ours(text, add_special_tokens=False)["input_ids"]
        assert model.tokenize(text.encode(), add_bos=False, special=False) == wanted
    model.close()
