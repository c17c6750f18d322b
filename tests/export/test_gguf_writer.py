"""GGUF files: the same logits when read back, scaling by llama.cpp's keys and tensors, tokenizers that it knows."""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from skipwise.cli import main
from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.export import gguf_tokenizer, gguf_writer, hugging_face
from skipwise.models import checkpoint, configuration, sources
from skipwise.rope.scale import scale
from support.tiny import llama_config, tiny_model, tiny_tokenizer

SMALL: dict[str, Any] = {
    **{"vocab_size": 520, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2},
    **{"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None},
}
MODELS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL),
    "llama, wide heads, tied": LlamaConfig(**SMALL, head_dim=32, tie_word_embeddings=True),
    "mistral": MistralConfig(**SMALL, sliding_window=None),
    "qwen2": Qwen2Config(**SMALL),
    "qwen3": Qwen3Config(**SMALL, head_dim=32),
}
IDS = torch.arange(200)[None] * 7 % 512


def make(folder: Path, config: PreTrainedConfig, method: str = "yarn") -> PreTrainedConfig:
    """A random model (biases too) and a tokenizer in `folder`, scaled to a window of 256."""
    scaled = scale(config, method, target_length=256)
    model = tiny_model(scaled)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(value, std=0.5)
    model.save_pretrained(folder)
    tiny_tokenizer(folder)
    return scaled


def logits(path: Path) -> torch.Tensor:
    found = sources.find(ModelConfig(path=str(path)))
    model = checkpoint.weights(found, configuration.read(found), "sdpa", torch.float32)
    with torch.no_grad():
        return model(IDS).logits


def keys(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


@pytest.mark.parametrize("name", MODELS)
def test_same_logits_when_read_back(name: str, tmp_path: Path) -> None:
    config = make(tmp_path / "model", MODELS[name])
    hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "model.gguf", dtype="f32")
    assert torch.allclose(logits(tmp_path / "model"), logits(tmp_path / "model.gguf"), atol=1e-5)
    found = keys(tmp_path / "model.gguf")
    arch = found["general.architecture"]
    assert arch == {"mistral": "llama"}.get(config.model_type, config.model_type)
    assert found[f"{arch}.context_length"] == 256
    assert found[f"{arch}.rope.scaling.type"] == "yarn"
    assert found[f"{arch}.rope.scaling.factor"] == 4.0
    assert found[f"{arch}.rope.scaling.original_context_length"] == 64
    assert len(found["tokenizer.ggml.tokens"]) == 520, "rows without a token are named"


@pytest.mark.parametrize(("dtype", "worst"), [("f16", 2e-3), ("bf16", 2e-2), ("q8_0", 5e-2)])
def test_types(dtype: str, worst: float, tmp_path: Path) -> None:
    make(tmp_path / "model", MODELS["llama"])
    path = hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "files", dtype=dtype)
    assert path == tmp_path / f"files/model-{dtype}.gguf"
    one, other = logits(tmp_path / "model"), logits(path)
    difference = (one - other).norm() / one.norm()
    assert 0 < difference < worst
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert types["blk.0.attn_q.weight"] == types["output.weight"] == dtype.upper()
    assert types["blk.0.attn_norm.weight"] == "F32"


def test_rows_that_a_block_does_not_divide_are_f16(tmp_path: Path) -> None:
    config = LlamaConfig(**{**SMALL, "intermediate_size": 40})
    make(tmp_path / "model", config)
    path = hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "a.gguf", dtype="q8_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"


TABLES: dict[str, dict[str, Any]] = {
    "llama3": {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0, "beta_slow": 2.75, "attention_factor": 1.3},
    "longrope": {
        **{"short_factor": list(np.linspace(1, 1.5, 8)), "long_factor": list(np.linspace(1, 5, 8))},
        **{"factor": 4.0, "attention_factor": 1.2},
    },
}


def with_rope(kind: str, **parameters: Any) -> LlamaConfig:
    original = {"original_max_position_embeddings": 64} if kind not in ("default", "linear", "dynamic") else {}
    return llama_config(window=256, rope_parameters={"rope_type": kind, "rope_theta": 1e4, **original, **parameters})


@pytest.mark.parametrize("kind", TABLES)
def test_frequencies_without_a_name_become_tables(kind: str, tmp_path: Path) -> None:
    config = with_rope(kind, **TABLES[kind])
    tiny_model(config, tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    path = hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "a.gguf")
    tensors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(path).tensors if "rope" in tensor.name}
    found = keys(path)
    plain = 10000.0 ** (-np.arange(8) / 8)
    lengths = {"rope_freqs.weight": None}
    if kind == "longrope":
        lengths = {"rope_factors_short.weight": None, "rope_factors_long.weight": 256}
        assert found["llama.rope.scaling.type"] == "longrope"
        assert found["llama.rope.scaling.original_context_length"] == 64
    else:
        assert "llama.rope.scaling.type" not in found, "llama.cpp would scale once more"
    assert "llama.rope.scaling.factor" not in found, "llama.cpp would scale once more"
    assert set(tensors) == set(lengths)
    for name, length in lengths.items():
        wanted, attention = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
        np.testing.assert_allclose(plain / tensors[name], wanted.numpy(), rtol=1e-5)
        assert found.get("llama.rope.scaling.attn_factor", 1.0) == pytest.approx(attention)
    assert torch.allclose(logits(tmp_path / "model"), logits(path), atol=1e-3)


def test_scalings_that_llama_cpp_names() -> None:
    assert gguf_writer.scaling(with_rope("default")) == gguf_writer.Scaling()
    linear = with_rope("linear", factor=4.0)
    linear.original_max_position_embeddings = 64
    assert gguf_writer.scaling(linear) == (gguf.RopeScalingType.LINEAR, 4.0, 64, 1.0, None)
    yarn = gguf_writer.scaling(with_rope("yarn", factor=4.0))
    assert yarn[:3] == (gguf.RopeScalingType.YARN, 4.0, 64)
    assert yarn.attention == pytest.approx(1)
    # llama.cpp multiplies its own 0.1 · ln 4 + 1 = 1.13863 by this.
    assert gguf_writer.scaling(with_rope("yarn", factor=4.0, attention_factor=1.0)).attention == pytest.approx(0.878248)
    base = scale(llama_config(), "ntk", target_length=256)
    assert gguf_writer.scaling(base) == gguf_writer.Scaling()


def test_new_base_is_written(tmp_path: Path) -> None:
    make(tmp_path / "model", MODELS["qwen2"], "ntk")
    found = keys(hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "a.gguf"))
    assert found["qwen2.rope.freq_base"] == pytest.approx(10000 * 4 ** (16 / 14), rel=1e-6)
    assert not [name for name in found if "rope.scaling" in name]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PhiConfig(**SMALL), "'phi' is not written as GGUF"),
        (MistralConfig(**SMALL, sliding_window=32), "sliding_window to null"),
        (LlamaConfig(**SMALL, hidden_act="gelu"), "'gelu'"),
        (with_rope("dynamic", factor=4.0), "no 'dynamic' RoPE"),
        (
            Qwen2Config(
                **SMALL,
                rope_parameters={
                    **{"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "beta_slow": 2.0},
                    "original_max_position_embeddings": 16,
                },
            ),
            "beta_fast 32 and beta_slow 1 for model type 'qwen2'",
        ),
    ],
    ids=["family", "sliding", "activation", "dynamic", "table for qwen2"],
)
def test_refusals(config: PreTrainedConfig, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_model(config, tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    assert main.main(["export", str(tmp_path / "model"), "--format", "gguf", "--out", str(tmp_path / "a.gguf")]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def byte_level(*cuts: pre_tokenizers.PreTokenizer, **model: Any) -> PreTrainedTokenizerFast:
    vocabulary = {piece: number for number, piece in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocabulary["ab"] = len(vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, [("a", "b")], **model))
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not any("Split" in repr(cut) for cut in cuts))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*cuts, last])
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


# As the families' tokenizer.json write them.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (byte_level(), "gpt-2"),
        (byte_level(pre_tokenizers.Digits(individual_digits=True)), "smollm"),
        (byte_level(split(LLAMA3), ignore_merges=True), "llama-bpe"),
        (byte_level(split(LLAMA3)), "smaug-bpe"),
        (byte_level(split(QWEN2)), "qwen2"),
    ],
    ids=["gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2"],
)
def test_names_of_pre_tokenizers(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    found = gguf_tokenizer.vocabulary(tokenizer, 300)
    assert (found.model, found.pre, found.merges) == ("gpt2", name, ["a b"])
    assert found.tokens[256] == "ab"
    assert found.types == [1] * 257 + [5] * 43


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (byte_level(split(r"\d+|\D+")), r"\d+|\D+"),
        (byte_level(pre_tokenizers.Punctuation()), "Punctuation"),
        (byte_level(ignore_merges=True), "no pre-tokenizer"),
        (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))), "WordLevel"),
        (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, []))), "neither a byte-level"),
    ],
)
def test_unknown_tokenizers_are_refused(tokenizer: PreTrainedTokenizerFast, message: str) -> None:
    with pytest.raises(SkipwiseError) as error:
        gguf_tokenizer.vocabulary(tokenizer, 300)
    assert message in str(error.value)


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer as transformers makes one of a sentencepiece model: all splits of a piece are merges, by its rank."""
    ranked = ["▁t", "he", "▁the", "in", "er", "▁a", "an", "and", "▁and", "on", "is", "re", "it", "▁in", "the", "her"]
    singles = sorted({letter for piece in ranked for letter in piece} | set("abcdefghijklmnopqrstuvwxyz.,"))
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *ranked, *singles]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    merges = []
    for piece in ranked:
        cuts = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        merges += [pair for pair in cuts if pair[0] in numbers and pair[1] in numbers]
    tokenizer = Tokenizer(models.BPE(numbers, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_sentencepiece_scores_follow_the_merges() -> None:
    tokenizer = sentencepiece()
    found = gguf_tokenizer.vocabulary(tokenizer, 320)
    assert (found.model, found.merges, found.space_prefix) == ("llama", None, True)
    assert found.scores is not None
    numbers = tokenizer.get_vocab()
    assert found.scores[numbers["▁t"]] == 0
    assert found.scores[numbers["her"]] == -15
    assert max(found.scores[numbers[letter]] for letter in "abc") < -15
    kinds = {name: found.types[numbers[name]] for name in ("<unk>", "<s>", "<0x0A>", "the")}
    assert kinds == {"<unk>": 2, "<s>": 3, "<0x0A>": 6, "the": 1}


def test_merges_that_sentencepiece_would_not_make_are_refused() -> None:
    tokenizer = sentencepiece()
    written = json.loads(tokenizer.backend_tokenizer.to_str())
    written["model"]["merges"] = [pair for pair in written["model"]["merges"] if pair != ["▁", "the"]]
    changed = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(written)))
    with pytest.raises(SkipwiseError, match="would merge more"):
        gguf_tokenizer.vocabulary(changed, 320)


def test_special_tokens_and_template(tmp_path: Path) -> None:
    tiny_model(llama_config(vocab=520), tmp_path / "model")
    tokenizer = tiny_tokenizer(tmp_path / "model", adds_bos=True)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    tokenizer.add_tokens(["skipwise"])
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(tmp_path / "model")
    found = keys(hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "a.gguf"))
    assert found["tokenizer.ggml.pre"] == "smollm"
    assert (found["tokenizer.ggml.add_bos_token"], found["tokenizer.ggml.add_eos_token"]) == (True, False)
    assert (found["tokenizer.ggml.bos_token_id"], found["tokenizer.ggml.eos_token_id"]) == (0, 1)
    assert found["tokenizer.chat_template"] == tokenizer.chat_template
    assert found["tokenizer.ggml.tokens"][512:514] == ["<|tool|>", "skipwise"]
    assert found["tokenizer.ggml.token_type"][512:515] == [3, 4, 5]
    assert found["llama.rope.freq_base"] == 10000.0
    assert math.isclose(found["llama.attention.layer_norm_rms_epsilon"], 1e-6, rel_tol=1e-6)


def test_a_token_without_a_row_is_refused(tmp_path: Path) -> None:
    tiny_model(llama_config(vocab=500), tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    with pytest.raises(SkipwiseError, match="512 tokens"):
        hugging_face.to_gguf(str(tmp_path / "model"), tmp_path / "a.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
