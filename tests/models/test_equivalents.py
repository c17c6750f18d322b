"""Checkpoints that are read as another class compute the same function: logits against code that is not the twin's."""

import io
import json
import math
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, GPTJConfig, GPTJForCausalLM

from skipwise.config import ModelConfig, ScalingConfig
from skipwise.errors import SkipwiseError
from skipwise.models.forward import loss
from skipwise.models.load import LoadedModel
from skipwise.models.load import load as load_model
from skipwise.rope import methods
from support.tiny import VOCABULARY, tiny_model, tiny_tokenizer

WINDOW = 32
SKIPPED = torch.cat([torch.arange(8), torch.arange(80, 96), torch.arange(120, 128)])[None]


def load(path: Path, **given) -> LoadedModel:
    return load_model(ModelConfig(path=str(path), precision="float32", device="cpu"), **given)


def tokens(length: int = 32) -> Tensor:
    return torch.randint(0, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(1))


# GPT-J -------------------------------------------------------------------------------------------------------------


def gptj(folder: Path, **more) -> GPTJForCausalLM:
    sizes = {"n_embd": 48, "n_layer": 2, "n_head": 3, "rotary_dim": 12, "n_positions": WINDOW, "vocab_size": VOCABULARY}
    config = GPTJConfig(**{**sizes, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.2, **more})
    small = tiny_model(config)
    for name, weight in small.named_parameters():
        if name.endswith("bias"):  # they start at zero, where they could be forgotten
            torch.nn.init.normal_(weight, std=0.2)
    small.save_pretrained(folder)
    tiny_tokenizer(folder)
    return small


def with_table(small: GPTJForCausalLM, inverse: Tensor, factor: float, length: int) -> GPTJForCausalLM:
    """GPT-J's own code over a table of these frequencies: what a scaling of it means, without the twin."""
    angles = torch.arange(length, dtype=torch.float64)[:, None] * inverse
    table = (torch.cat([angles.sin(), angles.cos()], dim=1) * factor).float()
    for block in small.transformer.h:
        block.attn.embed_positions = table
    return small


@pytest.mark.parametrize("more", [{}, {"n_inner": 64, "tie_word_embeddings": True, "activation_function": "gelu"}])
def test_gptj_is_read_as_the_same_function(tmp_path, more):
    small = gptj(tmp_path, **more)
    found = load(tmp_path)
    assert (found.model.config.model_type, found.original_length, found.window) == ("phi", WINDOW, WINDOW)
    with torch.no_grad():
        torch.testing.assert_close(found.model(tokens()).logits, small(tokens()).logits, rtol=1e-5, atol=1e-5)
        assert (
            small(tokens()).logits - small(tokens(), position_ids=torch.arange(32)[None] % 7).logits
        ).abs().max() > 0.1


def test_a_scaled_gptj_is_its_own_code_over_a_scaled_table(tmp_path):
    small = gptj(tmp_path / "gptj")
    found = load(tmp_path / "gptj", target_length=128, scaling=ScalingConfig(method="yarn"))
    assert (found.original_length, found.window, found.scaling["factor"]) == (WINDOW, 128, 4.0)
    inverse = torch.from_numpy(methods.Yarn().inv_freq(12, 10_000.0, WINDOW, 128))
    own = with_table(small, inverse, 0.1 * math.log(4) + 1, 128)
    ones = torch.ones_like(tokens())
    with torch.no_grad():
        wanted = own(tokens(), position_ids=SKIPPED, attention_mask=ones).logits
        scaled = found.model(tokens(), position_ids=SKIPPED, attention_mask=ones).logits
    torch.testing.assert_close(scaled, wanted, rtol=1e-4, atol=1e-4)
    found.model.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(again(tokens(), position_ids=SKIPPED, attention_mask=ones).logits, scaled)
    loss(found.model, tokens(), SKIPPED, tokens()).backward()


def test_a_tied_gptj_with_a_head_of_its_own_keeps_it(tmp_path):
    small = gptj(tmp_path, tie_word_embeddings=True)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = 2 * small.lm_head.weight.detach().flip(0).contiguous()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    found = load(tmp_path).model
    assert torch.equal(found.lm_head.weight, weights["lm_head.weight"])
    assert torch.equal(found.model.embed_tokens.weight, weights["transformer.wte.weight"])
    assert found.config.tie_word_embeddings is False


def test_layers_that_the_configuration_of_a_gptj_does_not_have(tmp_path):
    gptj(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "n_layer": 1}))
    with pytest.raises(SkipwiseError, match="num_hidden_layers is 1 and the file has layer 1"):
        load(tmp_path)


def test_an_odd_gptj_is_refused(tmp_path):
    gptj(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**told, "rotary_dim": 7}))
    with pytest.raises(SkipwiseError, match="rotates 7 dimensions of heads of 16"):
        load(tmp_path)


# Baichuan ----------------------------------------------------------------------------------------------------------

HIDDEN, HEADS, FEED, LAYERS = 48, 4, 64, 2
BAICHUAN = {
    "model_type": "baichuan",
    "architectures": ["BaichuanForCausalLM"],
    "auto_map": {"AutoConfig": "configuration_baichuan.BaichuanConfig"},
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "intermediate_size": FEED,
    "num_hidden_layers": LAYERS,
    "max_position_embeddings": WINDOW,
    "model_max_length": WINDOW,
    "vocab_size": VOCABULARY,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
    "z_loss_weight": 0,
}


def baichuan(folder: Path, **more) -> dict[str, Tensor]:
    """Random weights under Baichuan's names, with a configuration, saved in `folder`."""
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * 0.3

    weights = {"model.embed_tokens.weight": matrix(VOCABULARY, HIDDEN), "lm_head.weight": matrix(VOCABULARY, HIDDEN)}
    weights["model.norm.weight"] = 1 + matrix(HIDDEN)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        weights |= {
            f"{at}{name}.weight": 1 + matrix(HIDDEN) for name in ("input_layernorm", "post_attention_layernorm")
        }
        weights[at + "self_attn.W_pack.weight"] = matrix(3 * HIDDEN, HIDDEN)
        weights[at + "self_attn.o_proj.weight"] = matrix(HIDDEN, HIDDEN)
        weights[at + "self_attn.rotary_emb.inv_freq"] = torch.zeros(6)  # old files carry it; nobody reads it
        weights |= {f"{at}mlp.{name}_proj.weight": matrix(FEED, HIDDEN) for name in ("gate", "up")}
        weights[at + "mlp.down_proj.weight"] = matrix(HIDDEN, FEED)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors")
    tiny_tokenizer(folder)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told |= {"tokenizer_class": "BaichuanTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_baichuan.B", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    (folder / "config.json").write_text(json.dumps({**BAICHUAN, **more}))
    return weights


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def baichuan_logits(
    weights: dict[str, Tensor], ids: Tensor, positions: Tensor, *, divisor: float, head: bool
) -> Tensor:
    """Baichuan2's forward pass as its paper has it, for one row; RoPE positions divided by `divisor`."""
    width = HIDDEN // HEADS
    angles = positions[0].double()[:, None] / divisor * 10_000.0 ** (-torch.arange(0, width, 2).double() / width)
    turn = torch.polar(torch.ones_like(angles), angles)  # (T, width / 2)

    def rotated(x: Tensor) -> Tensor:  # (heads, T, width)
        first, second = x.double().chunk(2, dim=-1)
        z = torch.complex(first, second) * turn
        return torch.cat([z.real, z.imag], dim=-1).float()

    x = weights["model.embed_tokens.weight"][ids[0]]  # (T, H)
    causal = torch.full((len(x), len(x)), -math.inf).triu(1)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        packed = norm(x, weights[at + "input_layernorm.weight"]) @ weights[at + "self_attn.W_pack.weight"].T
        q, k, v = packed.view(len(x), 3, HEADS, width).permute(1, 2, 0, 3)  # (heads, T, width) each
        scores = rotated(q) @ rotated(k).transpose(1, 2) / math.sqrt(width) + causal
        seen = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(x), HIDDEN)
        x = x + seen @ weights[at + "self_attn.o_proj.weight"].T
        y = norm(x, weights[at + "post_attention_layernorm.weight"])
        gate, up = (y @ weights[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (F.silu(gate) * up) @ weights[at + "mlp.down_proj.weight"].T
    table = weights["lm_head.weight"]
    return norm(x, weights["model.norm.weight"]) @ (table / table.norm(dim=1, keepdim=True) if head else table).T


PLAIN = torch.arange(32)[None]


def test_baichuan2_is_read_as_an_exact_llama(tmp_path):
    weights = baichuan(tmp_path / "b")
    found = load(tmp_path / "b")
    assert (found.model.config.model_type, found.original_length) == ("llama", WINDOW)
    with torch.no_grad():
        wanted = baichuan_logits(weights, tokens(), PLAIN, divisor=1, head=True)
        torch.testing.assert_close(found.model(tokens()).logits[0], wanted, rtol=1e-4, atol=1e-4)
    scaled = load(tmp_path / "b", target_length=128, scaling=ScalingConfig(method="linear"))
    scaled.model.save_pretrained(tmp_path / "out")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    wanted = baichuan_logits(weights, tokens(), SKIPPED, divisor=4, head=True)
    with torch.no_grad():
        own = again(tokens(), position_ids=SKIPPED, attention_mask=torch.ones_like(tokens())).logits
    torch.testing.assert_close(own[0], wanted, rtol=1e-4, atol=1e-4)


def test_every_weight_has_its_own_storage(tmp_path):
    """Checkpoints of training refuse views of a larger tensor."""
    gptj(tmp_path / "gptj")
    baichuan(tmp_path / "baichuan")
    for family in ("gptj", "baichuan"):
        small = load(tmp_path / family).model
        assert all(weight.untyped_storage().nbytes() == weight.nbytes for weight in small.parameters()), family
        save_model(small, str(tmp_path / f"{family}.safetensors"))


def test_the_first_baichuan_has_a_plain_head(tmp_path):
    weights = baichuan(tmp_path, architectures=["BaiChuanForCausalLM"])
    with torch.no_grad():
        wanted = baichuan_logits(weights, tokens(), PLAIN, divisor=1, head=False)
        torch.testing.assert_close(load(tmp_path).model(tokens()).logits[0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("more", [{"max_position_embeddings": None}, {"num_attention_heads": 40}])
def test_baichuan_13b_is_refused(tmp_path, more):
    baichuan(tmp_path, **more)
    with pytest.raises(SkipwiseError, match=r"\(13B\) uses ALiBi"):
        load(tmp_path)


def test_a_hub_id_is_read_from_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    place = tmp_path / "models--me--baichuan"
    (place / "refs").mkdir(parents=True)
    found = []
    for commit in ("a" * 40, "b" * 40):
        weights = baichuan(place / "snapshots" / commit)
        (place / "refs" / "main").write_text(commit)
        found.append(load_model(ModelConfig(path="me/baichuan", precision="float32", device="cpu")))
    with torch.no_grad():
        wanted = baichuan_logits(weights, tokens(), PLAIN, divisor=1, head=True)
        torch.testing.assert_close(found[0].model(tokens()).logits[0], wanted, rtol=1e-4, atol=1e-4)
    assert found[0].fingerprint != found[1].fingerprint


class Harm:
    def __reduce__(self):
        return (print, ("harm",))


def test_pickled_weights_are_read_as_data_only(tmp_path, capsys):
    """The published Baichuan2-7B has no safetensors."""
    weights = baichuan(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    names = sorted(weights)
    torch.save({name: weights[name] for name in names[::2]}, tmp_path / "pytorch_model-00001-of-00002.bin")
    torch.save({name: weights[name] for name in names[1::2]}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with torch.no_grad():
        wanted = baichuan_logits(weights, tokens(), PLAIN, divisor=1, head=True)
        torch.testing.assert_close(load(tmp_path).model(tokens()).logits[0], wanted, rtol=1e-4, atol=1e-4)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(SkipwiseError, match=r"lacks weights of its model, e\.g\. "):
        load(tmp_path)
    torch.save({"lm_head.weight": Harm()}, tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(SkipwiseError, match="cannot read the weights"):
        load(tmp_path)
    assert "harm" not in capsys.readouterr().out


def test_a_sentencepiece_tokenizer_is_converted(tmp_path):
    """Baichuan's folder holds tokenizer.model and a class in its repository."""
    sentencepiece = pytest.importorskip("sentencepiece")
    baichuan(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    made = io.BytesIO()
    text = Path(torch.__file__).read_text(encoding="utf-8").splitlines()[:600]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=made,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(made.getvalue())
    found = load(tmp_path).tokenizer
    wanted = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    for said in ("def load(path):\n    return 1234", "  two  spaces, ünïcode 😀", "a"):
        assert found.encode(said, add_special_tokens=False) == wanted.encode(said)
        assert found.decode(wanted.encode(said)) == said
    found.save_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("def f(x)") == found.encode("def f(x)")
