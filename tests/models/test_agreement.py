"""The files of a model that must agree with each other: what does not is named before anything is computed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from skipwise.config import EvaluationConfig, ModelConfig, RunConfig, validate
from skipwise.errors import SkipwiseError
from skipwise.export import hugging_face
from skipwise.jobs.evaluate import evaluate
from skipwise.jobs.extend import extend
from skipwise.models.agreement import check_finite, is_tied
from skipwise.models.forward import token_nll
from skipwise.models.load import LoadedModel, load
from support.tiny import VOCABULARY, tiny_llama

HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"


def read(path: Path) -> LoadedModel:
    return load(ModelConfig(path=str(path), precision="float32", device="cpu"))


def change_weights(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> Path:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def change_config(folder: Path, **values: Any) -> Path:
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(saved | values))
    return folder


def other_head(weights: dict[str, Tensor]) -> None:
    """What a merged LoRA adapter on the head of a tied model leaves."""
    generator = torch.Generator().manual_seed(1)
    weights[HEAD] = weights[EMBEDDING] + 0.1 * torch.randn(weights[EMBEDDING].shape, generator=generator)


# A head of its own beside `tie_word_embeddings: true` --------------------------------------------------------------


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    return change_weights(tiny_llama(tmp_path / "merged"), other_head)


def nll(model: PreTrainedModel) -> Tensor:
    return token_nll(model, torch.arange(40)[None] % VOCABULARY)


def expected_nll(folder: Path) -> Tensor:
    """Losses under the head in the file, whatever config.json says."""
    weights = load_file(folder / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=False)
    with torch.no_grad():
        assert torch.equal(model.lm_head.weight, weights[HEAD])
    return nll(model)


def test_the_head_in_the_file_is_used(merged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = read(merged).model
    assert "the weights hold a head of their own, which is used" in capsys.readouterr().err
    assert not is_tied(model)
    assert model.config.tie_word_embeddings is False
    torch.testing.assert_close(nll(model), expected_nll(merged))
    model.tie_weights()  # as some trainers do again: the flag must not undo it
    torch.testing.assert_close(nll(model), expected_nll(merged))


def test_an_export_says_that_its_head_is_its_own(merged: Path, tmp_path: Path) -> None:
    out = hugging_face.to_hf(str(merged), tmp_path / "out")
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(load_file(out / "model.safetensors")[HEAD], load_file(merged / "model.safetensors")[HEAD])
    torch.testing.assert_close(nll(read(out).model), expected_nll(merged))


def test_a_head_that_training_untied_is_saved(tmp_path: Path) -> None:
    loaded = read(tiny_llama(tmp_path / "model"))
    head = 2 * loaded.model.lm_head.weight.detach()
    loaded.model.lm_head.weight = torch.nn.Parameter(head.clone())
    hugging_face.save(loaded.model, loaded.tokenizer, tmp_path / "out", window=64, dtype=torch.float32)
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")[HEAD], head)
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    torch.testing.assert_close(nll(read(tmp_path / "out").model), nll(loaded.model))


def test_a_gguf_file_keeps_the_head(merged: Path, tmp_path: Path) -> None:
    file = hugging_face.to_gguf(str(merged), tmp_path / "merged.gguf", dtype="f32")
    tensors = {tensor.name: tensor.data for tensor in GGUFReader(file).tensors}
    assert torch.equal(torch.from_numpy(tensors["output.weight"].copy()), load_file(merged / "model.safetensors")[HEAD])
    torch.testing.assert_close(nll(read(file).model), expected_nll(merged), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("copies", ["none", "equal"])
def test_a_tied_head_stays_tied(copies: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tiny_llama(tmp_path / "model")
    if copies == "equal":
        change_weights(folder, lambda weights: weights.update({HEAD: weights[EMBEDDING].clone()}))
    model = read(folder).model
    assert is_tied(model)
    assert model.config.tie_word_embeddings is True
    assert "head" not in capsys.readouterr().err
    file = hugging_face.to_gguf(str(folder), tmp_path / "tied.gguf", dtype="f32")
    assert "output.weight" not in {tensor.name for tensor in GGUFReader(file).tensors}


def test_a_head_that_is_nowhere(tmp_path: Path) -> None:
    folder = change_config(tiny_llama(tmp_path / "model"), tie_word_embeddings=False)
    with pytest.raises(SkipwiseError, match=r"lacks 1 weights .*lm_head.weight; .*set tie_word_embeddings to true"):
        read(folder)


# Weights and configuration -----------------------------------------------------------------------------------------

LAYER = "model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (
            lambda weights: weights.update({f"{LAYER}.bias": torch.zeros(64)}),
            r"holds 1 weight that its configuration does not have, e\.g\. model\.layers\.0\.self_attn\.q_proj\.bias",
        ),
        (
            lambda weights: weights.update({f"{LAYER}.lora_A.weight": torch.zeros(4, 64)}),
            r"an unmerged LoRA adapter: merge it first",
        ),
        (
            lambda weights: weights.update({f"{LAYER}.qweight": torch.zeros(4, 64, dtype=torch.int32)}),
            "quantised in a way that cannot be read here",
        ),
        (lambda weights: weights.pop(f"{LAYER}.weight"), r"lacks 1 weights of its model, e\.g\. model\.layers\.0"),
        (
            lambda weights: weights.update({f"{LAYER}.weight": torch.zeros(32, 64)}),
            r"cannot read the weights of .*q_proj\.weight is 32 × 64 in the file and 64 × 64 in the model",
        ),
        (
            lambda weights: weights.update({EMBEDDING: torch.zeros(500, 64)}),
            r"weight is 500 × 64 in the file and 512 × 64 in the model \(vocab_size 512, hidden_size 64\)",
        ),
        (
            lambda weights: weights[f"{LAYER}.weight"][3].fill_(float("nan")),
            r"64 of the 4,096 values of model\.layers\.0\.self_attn\.q_proj\.weight are NaN or infinite",
        ),
        (
            lambda weights: weights["model.norm.weight"][:1].fill_(float("-inf")),
            r"1 of the 64 values of model\.norm\.weight are NaN or infinite",
        ),
    ],
)
def test_weights_of_another_model_are_refused(edit: Callable[..., Any], reason: str, tmp_path: Path) -> None:
    folder = change_weights(tiny_llama(tmp_path / "model"), edit)
    with pytest.raises(SkipwiseError, match=reason) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert "ignore_mismatched_sizes" not in str(caught.value)
    out = tmp_path / "out"
    with pytest.raises(SkipwiseError, match=reason):
        hugging_face.to_hf(str(folder), out)
    with pytest.raises(SkipwiseError, match=reason):
        hugging_face.to_gguf(str(folder), tmp_path / "out.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_layers_that_the_configuration_does_not_have(tmp_path: Path) -> None:
    folder = change_config(tiny_llama(tmp_path / "model"), num_hidden_layers=1)
    with pytest.raises(SkipwiseError, match=r"holds 9 weights .*num_hidden_layers is 1 and the file has layer 1"):
        read(folder)


def test_what_no_forward_pass_reads_is_let_through(tmp_path: Path) -> None:
    left = ("model.layers.0.self_attn.rotary_emb.inv_freq", "v_head.summary.weight", "mtp.fc.weight")
    folder = change_weights(
        tiny_llama(tmp_path / "model"), lambda weights: weights.update({name: torch.zeros(8) for name in left})
    )
    assert read(folder).window == 64


def test_a_large_finite_weight_is_finite(tmp_path: Path) -> None:
    model = read(tiny_llama(tmp_path / "model")).model
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)  # whose sum overflows
    check_finite(model, "here")


def test_a_model_that_training_broke_is_not_saved(tmp_path: Path) -> None:
    loaded = read(tiny_llama(tmp_path / "model"))
    with torch.no_grad():
        loaded.model.model.norm.weight[0] = float("nan")
    with pytest.raises(SkipwiseError, match=r"model\.norm\.weight are NaN or infinite; nothing is written"):
        hugging_face.save(loaded.model, loaded.tokenizer, tmp_path / "out", window=64, dtype=torch.bfloat16)
    assert not (tmp_path / "out").exists()


# Tokenizer and embedding -------------------------------------------------------------------------------------------


def with_tokens(folder: Path, *tokens: str, special: bool = False, template: str | None = None) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(tokens), special_tokens=special)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("template", [None, "<|user|>{{ messages[0].content }}"])
def test_tokens_that_the_embedding_has_no_row_for(template: str | None, tmp_path: Path) -> None:
    folder = with_tokens(
        tiny_llama(tmp_path / "model"), "<|user|>", "<|end|>", special=template is not None, template=template
    )
    reason = r"has 514 tokens and the embedding only 512 rows, none for '<\|user\|>', '<\|end\|>'; add rows in Python"
    with pytest.raises(SkipwiseError, match=reason):
        read(folder)
    with pytest.raises(SkipwiseError, match=reason):
        hugging_face.to_hf(str(folder), tmp_path / "out")
    with pytest.raises(SkipwiseError, match=r"514 tokens.* only 512.*; add rows .*resize_token_embeddings\(514\)"):
        hugging_face.to_gguf(str(folder), tmp_path / "out.gguf")


def test_the_remedy_works(tmp_path: Path) -> None:
    folder = with_tokens(tiny_llama(tmp_path / "model"), "<|user|>")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(513)
    model.save_pretrained(folder)
    loaded = read(folder)
    ids = loaded.tokenizer("<|user|>", return_tensors="pt").input_ids
    assert ids.tolist() == [[512]]
    assert torch.isfinite(loaded.model(ids).logits).all()
    hugging_face.to_gguf(str(folder), tmp_path / "out.gguf")


def test_a_special_token_that_nothing_uses_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = with_tokens(tiny_llama(tmp_path / "model"), "<image>", special=True)
    read(folder)
    assert "the embedding has no row for '<image>'; texts that hold it cannot be read" in capsys.readouterr().err


def test_a_text_that_holds_such_a_token_is_refused_before_training(tmp_path: Path) -> None:
    folder = with_tokens(tiny_llama(tmp_path / "model"), "<image>", special=True)
    text = "the parser reads arguments and prints its usage; " * 40
    (tmp_path / "book.txt").write_text(f"{text}<image> {text}")
    out = tmp_path / "run"
    recipe = {
        "model": {"path": str(folder), "device": "cpu"},
        "data": {"paths": [str(tmp_path / "book.txt")], "recall": 0, "cache": str(tmp_path / "cache")},
        "target_length": 128,
        "training": {"steps": 1, "batch_size": 1, "train_length": 32},
        "evaluation": {"tasks": ["perplexity"], "lengths": [32]},
        "out": str(out),
    }
    with pytest.raises(SkipwiseError, match=r"holds '<image>', which the embedding has no row for"):
        extend(validate(RunConfig, recipe))
    assert not out.exists()
    with pytest.raises(SkipwiseError, match=r"book\.txt.* holds '<image>', which the embedding has no row for"):
        evaluate(
            str(folder),
            validate(
                EvaluationConfig, {"tasks": ["perplexity"], "lengths": [32], "data": [str(tmp_path / "book.txt")]}
            ),
            tmp_path / "rows.jsonl",
        )


@pytest.mark.parametrize("name", ["bos_token_id", "eos_token_id", "pad_token_id"])
def test_special_ids_beyond_the_embedding(name: str, tmp_path: Path) -> None:
    folder = change_config(tiny_llama(tmp_path / "model"), **{name: 600})
    with pytest.raises(SkipwiseError, match=rf"{name} of config\.json is 600 and the embedding has only 512 rows"):
        read(folder)


def test_several_ends_of_text(tmp_path: Path) -> None:
    folder = change_config(tiny_llama(tmp_path / "model"), eos_token_id=[1, 512])
    with pytest.raises(SkipwiseError, match=r"eos_token_id of config\.json is 512"):
        read(folder)
