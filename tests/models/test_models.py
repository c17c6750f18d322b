"""Models: loading and its errors, the traps of skipped positions, losses and their gradients, decoding, memory."""

import copy
import json
import re
import shutil
from pathlib import Path
from typing import Any

import gguf
import huggingface_hub
import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    DeepseekV3Config,
    FalconH1Config,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    MixtralConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from skipwise.config import ModelConfig, ScalingConfig, parse_length
from skipwise.errors import SkipwiseError
from skipwise.models import checks, memory, sliced_loss
from skipwise.models.checks import full_precision
from skipwise.models.device import arithmetic
from skipwise.models.forward import greedy, hidden_states, loss, token_nll
from skipwise.models.load import LoadedModel, apply
from skipwise.models.load import load as load_model
from skipwise.rope.scale import scale
from support.tiny import VOCABULARY, llama_config, tiny_gguf, tiny_llama, tiny_model, tiny_tokenizer

SMALL: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
KINDS = ["sliding_attention", "full_attention"]
FAMILIES = {
    "llama": llama_config(**GROUPED),
    "gemma2 soft cap": Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=2.0),
    "gemma3 nested": Gemma3TextConfig(**GROUPED, head_dim=8, layer_types=KINDS),
    "cohere scale": CohereConfig(**GROUPED, logit_scale=0.25),
    "granite scale": GraniteConfig(**GROUPED, logits_scaling=4.0),
    "phi bias": PhiConfig(**SMALL),
    "gpt-neox partial": GPTNeoXConfig(**SMALL, rotary_pct=0.5),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4),
    "falcon-h1 hybrid": FalconH1Config(
        **GROUPED, mamba_d_ssm=64, mamba_n_heads=8, mamba_d_head=8, mamba_d_state=16, lm_head_multiplier=0.3
    ),
    "deepseek mla": DeepseekV3Config(
        **SMALL,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=8,
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=16,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
    ),
}


def family(name: str) -> PreTrainedModel:
    small = tiny_model(copy.deepcopy(FAMILIES[name]))
    bias = small.get_output_embeddings().bias
    if bias is not None:  # it starts at zero, where it could be forgotten
        torch.nn.init.normal_(bias)
    return small


def tokens(rows: int = 2, length: int = 24, vocabulary: int = 97) -> Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(1))


# Traps -------------------------------------------------------------------------------------------------------------

SKIPPED = torch.tensor([[0, 1, 2, 3, 20, 21, 22, 23], [0, 1, 2, 3, 4, 50, 51, 52]])


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_last_token_sees_the_first_chunk_across_a_skip(attention, training):
    config = llama_config(window=64, attn_implementation=attention)
    small = tiny_model(config).train(training)
    assert small.config._attn_implementation == attention
    first = tokens(2, 8, VOCABULARY)
    second = first.clone()
    second[:, 1] = (second[:, 1] + 7) % VOCABULARY

    def change(states: Any) -> float:
        return (states(first)[:, -1] - states(second)[:, -1]).abs().amax(dim=-1).min().item()

    with torch.no_grad():
        # The premise: without a mask (and a cache), transformers takes the jump for a border and cuts.
        assert change(lambda ids: small.model(ids, position_ids=SKIPPED, use_cache=False).last_hidden_state) == 0
        assert change(lambda ids: hidden_states(small, ids, SKIPPED)) > 1e-2
        assert change(lambda ids: token_nll(small, ids, SKIPPED)) > 1e-3
    labels = torch.full_like(first, -100)
    labels[:, -1] = first[:, -1]
    small.zero_grad()
    loss(small, first, SKIPPED, labels).backward()
    own = small.model.embed_tokens.weight.grad
    seen = [own[token].abs().max().item() for token in set(first[:, 1].tolist())]
    assert min(seen) > 0


def test_token_nll_names_a_tensor_of_another_shape():
    small, ids = tiny_model(llama_config(window=64)), tokens(1, 8, VOCABULARY)
    with pytest.raises(SkipwiseError, match=r"input_ids has the shape \[8\]: expected \[batch, tokens\]"):
        token_nll(small, ids[0])
    with pytest.raises(SkipwiseError, match=r"position_ids has the shape \[8\]: expected \[1, 8\]"):
        token_nll(small, ids, torch.arange(8))
    with pytest.raises(SkipwiseError, match=r"labels has the shape \[1, 7\]: expected \[1, 8\]"):
        token_nll(small, ids, labels=ids[:, 1:])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[1, 2, 3]], "input_ids is of type list: expected a tensor"),
        (torch.zeros(1, 0, dtype=torch.long), r"input_ids has the shape \[1, 0\]"),
        (torch.zeros(1, 4), "input_ids holds torch.float32: expected torch.int64"),
        (torch.full((1, 4), VOCABULARY), f"input_ids holds {VOCABULARY}: expected 0 to {VOCABULARY - 1}"),
        (torch.full((1, 4), -100), "input_ids holds -100"),
    ],
)
def test_token_nll_refuses_what_are_no_tokens(ids, message):
    with pytest.raises(SkipwiseError, match=message):
        token_nll(tiny_model(llama_config()), ids)


def test_what_is_neither_model_nor_configuration():
    with pytest.raises(SkipwiseError, match="model is of type str: expected a model of transformers"):
        apply("folder", target_length=256)
    with pytest.raises(SkipwiseError, match="config is of type dict: expected a configuration of transformers"):
        scale({"model_type": "llama"}, target_length=256)


def test_apply_takes_a_length_as_a_text():
    texts, numbers = (tiny_model(llama_config(window=64)) for _ in range(2))
    apply(texts, target_length="1k")
    apply(numbers, target_length=1024)
    assert texts.config.max_position_embeddings == 1024
    assert texts.config.to_dict() == numbers.config.to_dict()


def test_skipped_positions_are_those_that_the_model_uses():
    """Distances are what counts: a shift of all positions changes nothing, a skip does."""
    small = tiny_model(llama_config(window=64))
    ids = tokens(1, 8, VOCABULARY)
    plain = token_nll(small, ids)
    torch.testing.assert_close(token_nll(small, ids, torch.arange(8)[None] + 40), plain, rtol=1e-4, atol=1e-4)
    assert (token_nll(small, ids, SKIPPED[:1]) - plain).abs().max() > 1e-2


def test_flash_attention_would_not_cut_rows_whose_only_minimum_is_their_first_position():
    """flash-attention's path for packed rows starts a sequence wherever a position equals the smallest of all."""
    (borders, _), _ = prepare_fa_kwargs_from_position_ids(SKIPPED[:1])
    assert borders.tolist() == [0, 8]
    (borders, _), _ = prepare_fa_kwargs_from_position_ids(torch.tensor([[0, 1, 2, 0, 1]]))
    assert borders.tolist() == [0, 3, 5]


# Losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_token_nll_is_that_of_the_models_own_logits(name):
    small = family(name)
    ids = tokens()
    with torch.no_grad():
        logits = small(ids, use_cache=False).logits
    wanted = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(2, -1)
    found = token_nll(small, ids, slice_tokens=5)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_token_nll_of_masked_labels_is_zero():
    small = family("llama")
    ids = tokens()
    labels = ids.clone()
    labels[:, 3] = -100
    found = token_nll(small, ids, labels=labels)
    whole = token_nll(small, ids)
    assert (found[:, 2] == 0).all()
    torch.testing.assert_close(found[:, 3:], whole[:, 3:])


def test_an_unknown_head_is_refused():
    small = family("gemma2 soft cap")
    small.config.final_logit_softcapping = None
    checks.check_head(small)
    small.config.final_logit_softcapping, small.config.logit_scale = None, 3.0
    with pytest.raises(SkipwiseError, match="changes its logits in a way that is not known"):
        checks.check_head(small)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for item in out if isinstance(out, tuple | list) else [out]:
            if isinstance(item, Tensor):
                self.elements = max(self.elements, item.numel())
        return out


@pytest.mark.parametrize("config", [llama_config(vocab=4096), llama_config(vocab=4096, final_logit_softcapping=30.0)])
def test_logits_exist_for_one_slice_only(config):
    small = tiny_model(config)
    ids = tokens(2, 48, 4096)
    table = 4096 * 64  # the embedding, and its gradient
    with Largest() as plain:
        small(ids, labels=ids).loss.backward()
    assert plain.elements == 2 * 48 * 4096
    with Largest() as sliced:
        loss(small, ids, None, ids, slice_tokens=16).backward()
        token_nll(small, ids, slice_tokens=16)
    assert sliced.elements == table


def test_a_slice_holds_64_mib_of_logits():
    assert (
        sliced_loss.slice_tokens(49_152) * 49_152 * 4
        <= 64 * 2**20
        < (sliced_loss.slice_tokens(49_152) + 1) * 49_152 * 4
    )
    assert sliced_loss.slice_tokens(10**8) == 16


def gradients(small: PreTrainedModel, value: Tensor) -> dict[str, Tensor]:
    small.zero_grad()
    value.backward()
    return {name: weight.grad.clone() for name, weight in small.named_parameters() if weight.grad is not None}


def own_loss(small: PreTrainedModel, ids: Tensor, labels: Tensor) -> Tensor:
    logits = small(ids, position_ids=SKIPPED_LONG, attention_mask=torch.ones_like(ids)).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


SKIPPED_LONG = torch.cat([torch.arange(10), torch.arange(30, 44)]).expand(2, -1)


@pytest.mark.parametrize("frozen", ["nothing", "head", "body"])
@pytest.mark.parametrize("name", ["tied", "untied", "phi bias", "gemma2 soft cap", "cohere scale"])
def test_gradients_are_those_of_plain_autograd(name, frozen):
    if name in ("tied", "untied"):
        small = tiny_model(llama_config(**{**GROUPED, "tie_word_embeddings": name == "tied"}))
    else:
        small = family(name)
    for weight in small.get_output_embeddings().parameters():
        weight.requires_grad_(frozen != "head")
    if frozen == "body":
        for weight in small.get_decoder().parameters():
            weight.requires_grad_(any(weight is kept for kept in small.get_output_embeddings().parameters()))
    ids = tokens()
    labels = ids.clone()
    labels[0, 5:9] = -100
    labels[1, -1] = -100
    wanted_loss = own_loss(small, ids, labels)
    wanted = gradients(small, 0.25 * wanted_loss)
    found_loss = loss(small, ids, SKIPPED_LONG, labels, slice_tokens=5)
    found = gradients(small, 0.25 * found_loss)
    torch.testing.assert_close(found_loss, wanted_loss, rtol=1e-6, atol=1e-6)
    assert found.keys() == wanted.keys()
    assert len(wanted) > 0
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()) + 1e-7)


@pytest.mark.parametrize("name", ["llama", "phi bias", "gemma2 soft cap"])
def test_gradients_under_autocast_are_close_to_fp32(name):
    small = family(name)
    ids = tokens()
    exact = gradients(small, own_loss(small, ids, ids))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(small, ids, SKIPPED_LONG, ids, slice_tokens=5)
        usual_value = own_loss(small, ids, ids)
    assert value.dtype == torch.float32
    rough = gradients(small, value)
    usual = gradients(small, usual_value)
    for key, wanted in exact.items():
        size = wanted.norm()
        assert rough[key].dtype == torch.float32
        # No worse than what transformers' own loss makes of bf16, with room for its luck.
        assert (rough[key] - wanted).norm() <= 1.3 * (usual[key] - wanted).norm() + 0.01 * size, key


def test_bfloat16_weights_get_bfloat16_gradients():
    small = family("llama").to(torch.bfloat16)
    ids = tokens()
    value = loss(small, ids, None, ids, slice_tokens=5)
    found = gradients(small, value)
    assert value.dtype == torch.float32
    assert {value.dtype for value in found.values()} == {torch.bfloat16}
    exact = family("llama")
    wanted = gradients(exact, F.cross_entropy(exact(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()))
    difference = torch.cat([(found[key].float() - wanted[key]).flatten() for key in wanted])
    assert difference.norm() < 0.1 * torch.cat([g.flatten() for g in wanted.values()]).norm()


def test_loss_without_gradients_and_without_labels():
    small = family("llama")
    ids = tokens()
    with torch.no_grad():
        value = loss(small, ids, None, ids, slice_tokens=5)
    assert not value.requires_grad
    torch.testing.assert_close(value, token_nll(small, ids).mean())
    with pytest.raises(SkipwiseError, match="no label to learn from"):
        loss(small, ids, None, torch.full_like(ids, -100))


def test_a_loss_is_differentiated_once():
    small = family("llama")
    value = loss(small, tokens(), None, tokens())
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already differentiated"):
        value.backward()


# Scaling a live model ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["linear", "ntk", "yarn"])
@pytest.mark.parametrize("name", ["llama", "gemma3 nested", "gpt-neox partial", "phi bias", "mixtral", "deepseek mla"])
def test_apply_is_loading_with_the_scaled_configuration(tmp_path, name, method):
    small = family(name)
    small.save_pretrained(tmp_path / "plain")
    plain_config = copy.deepcopy(small.config)
    scaled_config = scale(small.config, method, target_length=256)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", config=scaled_config)
    held = small.config
    assert apply(small, method, target_length=256) is small
    assert held.to_dict() == plain_config.to_dict(), "another model may hold the same configuration"
    assert small.config.get_text_config().max_position_embeddings == 256
    small.save_pretrained(tmp_path / "scaled")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "scaled")
    ids = tokens(1, 96)
    with torch.no_grad():
        before = family(name)(ids).logits
        wanted = loaded(ids).logits
        torch.testing.assert_close(small(ids).logits, wanted)
        torch.testing.assert_close(again(ids).logits, wanted)
    assert (before - wanted).abs().max() > 1e-3


def test_apply_refuses_before_it_changes_anything():
    small = family("llama")
    before = copy.deepcopy(small.config.to_dict())
    with pytest.raises(SkipwiseError, match="must be above the original window"):
        apply(small, "yarn", target_length=32)
    with pytest.raises(SkipwiseError, match="has no RoPE"):
        apply(tiny_model(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=97)), target_length=4096)
    assert small.config.to_dict() == before


def test_code_that_ignores_its_configuration_is_found_out():
    small = family("llama")
    scaled = scale(small.config, "linear", target_length=256)
    with pytest.raises(SkipwiseError, match="does not follow the rope_parameters"):
        checks.check_rope(small, checks.rope_tables(small.get_decoder()), scaled)
    with pytest.raises(SkipwiseError, match="does not follow the rope_parameters"):
        checks.check_rope(small, {}, scaled)


def yarn_llama(**more: Any) -> PreTrainedModel:
    return tiny_model(scale(llama_config(**GROUPED, **more), "yarn", target_length=256))


def test_code_that_ignores_the_attention_factor_is_refused(monkeypatch):
    """Code that has the frequencies right and the factor on cos and sin wrong."""
    plain = LlamaRotaryEmbedding.forward

    def without_factor(self, x, position_ids):
        cos, sin = plain(self, x, position_ids)
        return cos / self.attention_scaling, sin / self.attention_scaling

    small = yarn_llama()
    decoder = small.get_decoder()
    rotary = checks.rotary_modules(decoder)
    assert list(rotary) == ["rotary_emb"]
    checks.check_rope(small, checks.rope_tables(decoder), small.config, rotary.values())
    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", without_factor)
    reason = "does not follow the attention factor .* multiplied by 1 and not by 1.13863; choose a scaling.method"
    with pytest.raises(SkipwiseError, match=reason):
        checks.check_rope(small, checks.rope_tables(decoder), small.config, rotary.values())
    with pytest.raises(SkipwiseError, match=reason):
        apply(family("llama"), "yarn", target_length=256)
    apply(family("llama"), "linear", target_length=256)


def test_loading_checks_the_attention_factor(folder, monkeypatch):
    monkeypatch.setattr(LlamaRotaryEmbedding, "forward", lambda self, x, position_ids: (torch.ones(1), torch.zeros(1)))
    with pytest.raises(SkipwiseError, match="does not follow the attention factor"):
        load(folder, target_length=256, scaling=ScalingConfig())


# Loading -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("models") / "small", window=64, theta=5e4)


def load(path: Path, precision: Any = "float32", **given: Any) -> LoadedModel:
    return load_model(ModelConfig(path=str(path), precision=precision, device="cpu"), **given)


def test_load_a_folder(folder):
    found = load(folder)
    assert (found.name, found.path, found.original_length, found.window) == ("small", str(folder), 64, 64)
    assert found.scaling is None
    assert found.quantised_from is None
    assert not found.model.training
    assert found.tokenizer.is_fast
    assert found.model.dtype == torch.float32
    ids = tokens(1, 16, VOCABULARY)
    plain = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(found.model(ids).logits, plain(ids).logits)


def test_precision_attention_and_dtype(folder):
    rough = ModelConfig(path=str(folder), attention="eager", precision="bfloat16")
    found = load_model(rough)
    assert found.model.dtype == torch.bfloat16
    assert found.model.config._attn_implementation == "eager"
    assert load_model(rough, dtype=torch.float32).model.dtype == torch.float32
    automatic = arithmetic("auto", torch.device("cpu"))
    assert load(folder, precision="auto").model.dtype == automatic
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert automatic == (torch.bfloat16 if re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", flags) else torch.float32)


@pytest.mark.parametrize(
    ("scaling", "wanted"),
    [
        (ScalingConfig(), {"method": "yarn", "factor": 4.0, "theta": 5e4, "original_length": 64}),
        (ScalingConfig(method="linear"), {"method": "linear", "factor": 4.0, "theta": 5e4, "original_length": 64}),
        (ScalingConfig(method="ntk"), {"method": "ntk", "factor": 4.0, "theta": 5e4 * 4 ** (16 / 14)}),
        (ScalingConfig(method="theta", theta=1e6), {"method": "theta", "factor": 4.0, "theta": 1e6}),
        (ScalingConfig(method="none"), {"method": "none", "factor": 4.0, "theta": 5e4}),
    ],
)
def test_load_and_scale(folder, tmp_path, scaling, wanted):
    found = load(folder, target_length=256, scaling=scaling)
    assert found.scaling == pytest.approx(wanted) if scaling.method == "ntk" else found.scaling == wanted
    assert (found.original_length, found.window) == (64, 256)
    found.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.rope_parameters["rope_theta"] == found.scaling["theta"]
    ids = tokens(1, 128, VOCABULARY)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, found.model(ids).logits)


def test_an_extended_model_tells_its_scaling_and_original_window(folder, tmp_path):
    extended = load(folder, target_length=256, scaling=ScalingConfig())
    extended.model.save_pretrained(tmp_path)
    extended.tokenizer.save_pretrained(tmp_path)
    again = load(tmp_path)
    assert (again.original_length, again.window, again.scaling) == (64, 256, extended.scaling)
    further = load(tmp_path, target_length=1024, scaling=ScalingConfig())
    assert further.model.config.rope_parameters["factor"] == 16.0


def test_the_users_original_length_counts(folder):
    config = ModelConfig(path=str(folder), original_length=32)
    found = load_model(config, target_length=128, scaling=ScalingConfig())
    assert found.original_length == 32
    assert found.model.config.rope_parameters["original_max_position_embeddings"] == 32
    assert found.scaling["factor"] == 4.0


def test_fingerprint_is_of_content_and_not_of_place(folder, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    first = load(folder).fingerprint
    assert len(first) == 16
    assert load(moved).fingerprint == first == load(folder, precision="bfloat16").fingerprint
    assert load(folder, target_length=256, scaling=ScalingConfig()).fingerprint != first
    assert load(tiny_llama(tmp_path / "other", window=64, theta=5e4, seed=1)).fingerprint != first
    monkeypatch.setattr(transformers.configuration_utils, "__version__", "5.99.0")
    assert load(folder).fingerprint == first


def broken(folder: Path, target: Path, kind: str) -> Path:
    shutil.copytree(folder, target)
    weights, config = target / "model.safetensors", target / "config.json"
    if kind == "cut":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif kind == "garbage":
        weights.write_bytes(b"no weights here" * 99)
    elif kind == "pickled":
        weights.rename(target / "pytorch_model.bin")
    elif kind == "pickled beside others":
        torch.save(AutoModelForCausalLM.from_pretrained(folder).state_dict(), target / "pytorch_model.bin")
        weights.rename(target / "adapter.safetensors")
    elif kind == "no weights":
        weights.unlink()
    elif kind == "no tokenizer":
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (target / name).unlink()
    elif kind == "bad tokenizer":
        (target / "tokenizer.json").write_text("{")
    elif kind == "bad json":
        config.write_text("{")
    elif kind == "no config":
        config.unlink()
    else:
        values = json.loads(config.read_text())
        values.update(json.loads(kind))
        config.write_text(json.dumps(values))
    return target


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("cut", "cannot read the weights of .*incomplete"),
        ("garbage", "cannot read the weights of .*header"),
        ("pickled", r"no \.safetensors weights; only pickled ones"),
        ("pickled beside others", "cannot read the weights of .*no file named model.safetensors"),
        ("no weights", r"no \.safetensors weights$"),
        ("no tokenizer", "cannot read the tokenizer of "),
        ("bad tokenizer", "cannot read the tokenizer of "),
        ("bad json", "cannot read the configuration of .*not a valid JSON"),
        ("no config", r"no config\.json and 0 \.gguf files"),
        ('{"model_type": "frobnicate"}', "cannot read the configuration of .*frobnicate"),
        ('{"model_type": "frobnicate", "auto_map": {"AutoConfig": "own.Config"}}', "custom code"),
        ('{"num_hidden_layers": 3}', "lacks 9 weights of its model, e.g. model.layers.2"),
        ('{"intermediate_size": 64}', "cannot read the weights of "),
    ],
)
def test_broken_folders_give_one_line(folder, tmp_path, kind, reason):
    with pytest.raises(SkipwiseError, match=reason) as caught:
        load(broken(folder, tmp_path / "broken", kind))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/no/such/place", "no such file or folder"),
        ("./nothing", "no such file or folder"),
        ("a/b/c", "no such file or folder"),
        (__file__, "is not a model: expected a folder, a hub id or a .gguf file"),
    ],
)
def test_paths_that_are_no_model(path, reason):
    with pytest.raises(SkipwiseError, match=reason):
        load_model(ModelConfig(path=path))


def test_an_unreachable_hub_is_told(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        SkipwiseError, match=r"configuration of nobody/nothing \(no folder of this name is here"
    ) as caught:
        load_model(ModelConfig(path="nobody/nothing"))
    assert "\n" not in str(caught.value)
    with pytest.raises(SkipwiseError, match="taken as a hub id; did you mean the packaged model 'bundled'"):
        load_model(ModelConfig(path="bundle"))


def test_no_rope_and_a_device_that_is_not_there(folder, tmp_path):
    tiny_model(GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=VOCABULARY), tmp_path)
    tiny_tokenizer(tmp_path)
    with pytest.raises(SkipwiseError, match="'gpt2' has no RoPE"):
        load(tmp_path)
    with pytest.raises(SkipwiseError, match="device 'toaster' cannot be used here"):
        load_model(ModelConfig(path=str(folder), device="toaster"))


def test_no_bar_while_a_gguf_file_is_read(tmp_path, capfd):
    path = tiny_gguf(tmp_path / "tiny.gguf", window=64)
    capfd.readouterr()
    load(path)
    assert "tensors..." not in capfd.readouterr().err


def test_load_a_gguf_file(tmp_path):
    path = tiny_gguf(tmp_path / "tiny.gguf", window=64, theta=5e4)
    found = load(path)
    assert (found.name, found.quantised_from, found.window) == ("tiny", "Q4_1", 64)
    assert found.model.config.rope_parameters["rope_theta"] == 5e4
    assert found.tokenizer.decode(found.tokenizer("hello 123").input_ids) == "hello 123"
    kind = gguf.GGMLQuantizationType.Q4_1
    for name, value in tiny_model(llama_config(window=64, theta=5e4)).state_dict().items():
        if value.ndim == 2:
            value = torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(value.numpy(), kind), kind))
        torch.testing.assert_close(found.model.state_dict()[name], value)
    assert load(tmp_path).name == tmp_path.name  # a folder with one GGUF file


def test_a_gguf_model_is_saved_as_a_plain_checkpoint(tmp_path):
    found = load(tiny_gguf(tmp_path / "tiny.gguf"), target_length=256, scaling=ScalingConfig())
    found.model.save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert "quantization_config" not in saved
    assert saved["rope_parameters"]["rope_theta"] == 10_000.0
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    ids = tokens(1, 96, VOCABULARY)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, found.model(ids).logits)
    loss(found.model, ids, None, ids).backward()


def test_the_scaling_of_a_gguf_file_is_not_lost(tmp_path):
    yarn = {"type": "yarn", "factor": 4.0, "original_context_length": 16, "yarn_beta_fast": 24.0}
    found = load(tiny_gguf(tmp_path / "yarn.gguf", window=64, scaling=yarn))
    wanted = scale(llama_config(window=16), ScalingConfig(beta_fast=24.0), target_length=64)
    assert found.model.config.rope_parameters == wanted.rope_parameters
    assert (found.original_length, found.window) == (16, 64)
    linear = load(tiny_gguf(tmp_path / "linear.gguf", scaling={"type": "linear", "factor": 2.0}))
    assert linear.scaling["factor"] == 2.0
    with pytest.raises(SkipwiseError, match="'longrope' RoPE scaling, which is not read"):
        load(tiny_gguf(tmp_path / "long.gguf", scaling={"type": "longrope", "factor": 2.0}))


def test_a_file_that_is_no_gguf(tmp_path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(SkipwiseError, match=r"bad\.gguf is no whole GGUF file"):
        load(tmp_path / "bad.gguf")


@pytest.mark.slow
def test_the_packaged_model_speaks_and_is_saved(tmp_path):
    found = load_model(ModelConfig(path="smollm2"))
    assert (found.name, found.original_length, found.quantised_from) == ("smollm2", 8192, "Q4_1")
    assert found.model.config.rope_parameters["rope_theta"] == 100_000.0
    ids = found.tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert found.tokenizer.decode(greedy(found.model, ids, 1, lambda _: False)).strip() == "Paris"
    found.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    with torch.no_grad():
        torch.testing.assert_close(again(ids).logits, found.model(ids).logits)


# Decoding and memory -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama", "gemma2 soft cap", "falcon-h1 hybrid"])
def test_greedy_is_what_transformers_generates(name):
    small = family(name)
    ids = tokens(1)
    wanted = small.generate(ids, max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)[0, 24:].tolist()
    assert greedy(small, ids, 8, lambda _: False) == wanted
    assert greedy(small, ids, 8, lambda said: len(said) == 3) == wanted[:3]


def test_greedy_makes_logits_for_one_token_at_a_time():
    small = tiny_model(llama_config(vocab=4096, hidden=16))
    with Largest() as largest:
        greedy(small, tokens(1, 40, 4096), 3, lambda _: False)
    assert largest.elements < 40 * 4096


def test_memory_that_is_not_there_is_told(folder):
    found = load(folder).model
    memory.check_memory(found, 64)
    with pytest.raises(
        SkipwiseError, match=r"^100,000,000,001 tokens need about .* GiB on cpu and .* GiB are free"
    ) as caught:
        memory.check_memory(found, 10**11 + 1)
    fits = parse_length(str(caught.value).split("fits is about ")[1].split()[0].replace(",", ""))
    free = memory.free_bytes(torch.device("cpu"))
    assert 0.85 * free < memory.forward_bytes(found, fits) < 1.15 * free  # others take and give back memory too


def test_eager_attention_needs_the_square_of_the_length():
    plain, eager = (tiny_model(llama_config(attn_implementation=kind)) for kind in ("sdpa", "eager"))
    assert memory.forward_bytes(eager, 10_000) - memory.forward_bytes(plain, 10_000) > 4 * 10_000**2 * 4
    assert memory.forward_bytes(plain, 0) == 0
    assert memory.forward_bytes(plain, 2000) < 2.1 * memory.forward_bytes(plain, 1000)


@pytest.mark.parametrize("tied", [True, False])
def test_full_precision_computes_in_fp32_and_gives_every_weight_back(tied):
    rounded = tiny_model(llama_config(window=64, tie_word_embeddings=tied)).to(torch.bfloat16)
    exact = copy.deepcopy(rounded).float()
    before = {name: weight.data_ptr() for name, weight in rounded.named_parameters()}
    ids = torch.arange(16)[None]
    with torch.no_grad(), full_precision(rounded):
        assert torch.equal(rounded(ids).logits, exact(ids).logits)
        with pytest.raises(IndexError):
            rounded(ids + 10**6)  # a failure in the middle of a module
    assert {name: weight.data_ptr() for name, weight in rounded.named_parameters()} == before
    assert rounded(ids).logits.dtype == torch.bfloat16
