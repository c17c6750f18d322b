"""Read a checkpoint as another model type that computes the same function and that can be extended.

- GPT-J's code fixes the base of RoPE and a table of n_positions rows. Phi computes the same function with a
  configurable RoPE, once each head's rotated rows are reordered (GPT-J pairs neighbours, Phi halves).
- Baichuan-7B and Baichuan2-7B need code from their repository. They are Llama with queries, keys and values in one
  matrix, and (Baichuan2) a head whose rows are normalised before use.

This module imports torch only where it handles weights: a configuration is read without it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import GPTJConfig, LlamaConfig, PhiConfig, PreTrainedConfig

from skipwise.errors import SkipwiseError

if TYPE_CHECKING:
    from torch import Tensor

    Read = Callable[[str], Tensor]


def configuration(values: dict[str, Any]) -> PreTrainedConfig:
    """The equivalent configuration.

    Args:
        values: config.json of a model type in `sources.EQUIVALENTS`.

    Raises:
        SkipwiseError: The model uses ALiBi, or rotates dimensions that Phi cannot.
    """
    return _phi_configuration(values) if values["model_type"] == "gptj" else _llama_configuration(values)


def load_equivalent(values: dict[str, Any], read: Read, **options: Any) -> Any:
    """Call `from_pretrained(**options)` of the equivalent class and return its result.

    Args:
        values: config.json of the checkpoint.
        read: Gives a tensor by its saved name.
        options: As `from_pretrained` takes them.
    """
    from transformers import LlamaForCausalLM, PhiForCausalLM

    gptj = values["model_type"] == "gptj"
    kind, make = (PhiForCausalLM, _phi_weights) if gptj else (LlamaForCausalLM, _llama_weights)
    return kind.from_pretrained(None, state_dict=make(values, read), **options)


def _phi_configuration(values: dict[str, Any]) -> PreTrainedConfig:
    gptj = GPTJConfig.from_dict(values)
    head = gptj.n_embd // gptj.n_head
    share = (gptj.rotary_dim or 0) / head
    if int(head * share) != gptj.rotary_dim or gptj.rotary_dim % 2:
        raise SkipwiseError(f"this GPT-J rotates {gptj.rotary_dim} dimensions of heads of {head}: not supported")
    return PhiConfig(
        vocab_size=gptj.vocab_size,
        hidden_size=gptj.n_embd,
        intermediate_size=gptj.n_inner or 4 * gptj.n_embd,
        num_hidden_layers=gptj.n_layer,
        num_attention_heads=gptj.n_head,
        hidden_act=gptj.activation_function,
        max_position_embeddings=gptj.n_positions,
        layer_norm_eps=gptj.layer_norm_epsilon,
        initializer_range=gptj.initializer_range,
        resid_pdrop=gptj.resid_pdrop,
        embd_pdrop=gptj.embd_pdrop,
        attention_dropout=gptj.attn_pdrop,
        tie_word_embeddings=gptj.tie_word_embeddings,
        bos_token_id=gptj.bos_token_id,
        eos_token_id=gptj.eos_token_id,
        pad_token_id=gptj.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": share},
        architectures=["PhiForCausalLM"],
        dtype=gptj.dtype,
    )


def _phi_weights(values: dict[str, Any], read: Read) -> dict[str, Tensor]:
    import torch

    gptj = GPTJConfig.from_dict(values)
    head, rotated = gptj.n_embd // gptj.n_head, gptj.rotary_dim
    halves = torch.cat([torch.arange(0, rotated, 2), torch.arange(1, rotated, 2), torch.arange(rotated, head)])
    rows = (torch.arange(gptj.n_head)[:, None] * head + halves).flatten()
    weights = {"model.embed_tokens.weight": read("transformer.wte.weight")}
    for layer in range(gptj.n_layer):
        old, new = f"transformer.h.{layer}", f"model.layers.{layer}"
        for part in "qkv":
            matrix = read(f"{old}.attn.{part}_proj.weight")
            weights[f"{new}.self_attn.{part}_proj.weight"] = matrix if part == "v" else matrix[rows]
            weights[f"{new}.self_attn.{part}_proj.bias"] = matrix.new_zeros(gptj.n_embd)
        weights[f"{new}.self_attn.dense.weight"] = read(f"{old}.attn.out_proj.weight")
        weights[f"{new}.self_attn.dense.bias"] = weights["model.embed_tokens.weight"].new_zeros(gptj.n_embd)
        for kind in ("weight", "bias"):
            weights[f"{new}.input_layernorm.{kind}"] = read(f"{old}.ln_1.{kind}")
            weights[f"{new}.mlp.fc1.{kind}"] = read(f"{old}.mlp.fc_in.{kind}")
            weights[f"{new}.mlp.fc2.{kind}"] = read(f"{old}.mlp.fc_out.{kind}")
    for kind in ("weight", "bias"):
        weights[f"model.final_layernorm.{kind}"] = read(f"transformer.ln_f.{kind}")
        try:
            weights[f"lm_head.{kind}"] = read(f"lm_head.{kind}")
        except SkipwiseError:
            if kind == "bias" or not gptj.tie_word_embeddings:
                raise
            weights[f"lm_head.{kind}"] = read("transformer.wte.weight")  # tied, and the file has no head
    return weights


def _llama_configuration(values: dict[str, Any]) -> PreTrainedConfig:
    window = values.get("max_position_embeddings")
    if window is None or values["num_attention_heads"] == 40:
        raise SkipwiseError(
            "this Baichuan model (13B) uses ALiBi biases instead of RoPE; there are no rotary frequencies to scale"
        )
    shared = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act rms_norm_eps
        initializer_range bos_token_id eos_token_id pad_token_id""".split()
    return LlamaConfig(
        **{key: values[key] for key in shared if key in values},
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        architectures=["LlamaForCausalLM"],
        dtype=values.get("dtype") or values.get("torch_dtype"),
    )


def _llama_weights(values: dict[str, Any], read: Read) -> dict[str, Tensor]:
    from torch.nn import functional as F

    names = ["model.embed_tokens.weight", "model.norm.weight"]
    parts = "input_layernorm post_attention_layernorm self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj".split()
    layers = [f"model.layers.{layer}." for layer in range(values["num_hidden_layers"])]
    weights = {name: read(name) for name in [*names, *(f"{at}{part}.weight" for at in layers for part in parts)]}
    for at in layers:
        packed = read(f"{at}self_attn.W_pack.weight")  # (3H, H)
        for part, matrix in zip("qkv", packed.chunk(3), strict=True):
            weights[f"{at}self_attn.{part}_proj.weight"] = matrix.clone()  # views of one storage cannot be saved
    head = read("lm_head.weight")
    # The first generation, which spells its class with a capital C, has a plain head.
    plain = "BaiChuanForCausalLM" in (values.get("architectures") or ())
    weights["lm_head.weight"] = head if plain else F.normalize(head.float()).to(head.dtype)
    return weights
