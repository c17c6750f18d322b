"""Checkpoints whose own code cannot be extended, read as their exact twin: the same function in another class.

- GPT-J's code fixes the base of RoPE and a table of n_positions rows. Phi computes the same function with a
  configurable RoPE, once each head's rotated rows are reordered (GPT-J pairs neighbours, Phi halves).
- Baichuan-7B and Baichuan2-7B need code from their repository. They are Llama with queries, keys and values in one
  matrix, and (Baichuan2) a head whose rows are normalised before use.

A configuration as saved and a way to read one tensor flow in; the twin's configuration and weights flow out.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GPTJConfig, LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM, PreTrainedConfig

from skipwise.errors import SkipwiseError

TWINS = {"gptj": "phi", "baichuan": "llama"}
"""Model types that are read as another one."""

Read = Callable[[str], Tensor]


def configuration(told: dict[str, Any]) -> PreTrainedConfig:
    """The twin's configuration for one of a model type in TWINS. Errors: SkipwiseError for ALiBi, odd dimensions."""
    return _phi_configuration(told) if told["model_type"] == "gptj" else _llama_configuration(told)


def load(told: dict[str, Any], read: Read, **options: Any) -> Any:
    """What `from_pretrained(**options)` of the twin's class returns; `read` gives a tensor by its saved name."""
    kind, make = (PhiForCausalLM, _phi_weights) if told["model_type"] == "gptj" else (LlamaForCausalLM, _llama_weights)
    return kind.from_pretrained(None, state_dict=make(told, read), **options)


def _phi_configuration(told: dict[str, Any]) -> PreTrainedConfig:
    own = GPTJConfig.from_dict(told)
    head = own.n_embd // own.n_head
    share = (own.rotary_dim or 0) / head
    if int(head * share) != own.rotary_dim or own.rotary_dim % 2:
        raise SkipwiseError(f"this GPT-J rotates {own.rotary_dim} dimensions of heads of {head}: not supported")
    return PhiConfig(
        vocab_size=own.vocab_size,
        hidden_size=own.n_embd,
        intermediate_size=own.n_inner or 4 * own.n_embd,
        num_hidden_layers=own.n_layer,
        num_attention_heads=own.n_head,
        hidden_act=own.activation_function,
        max_position_embeddings=own.n_positions,
        layer_norm_eps=own.layer_norm_epsilon,
        initializer_range=own.initializer_range,
        resid_pdrop=own.resid_pdrop,
        embd_pdrop=own.embd_pdrop,
        attention_dropout=own.attn_pdrop,
        tie_word_embeddings=own.tie_word_embeddings,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": share},
        architectures=["PhiForCausalLM"],
        dtype=own.dtype,
    )


def _phi_weights(told: dict[str, Any], read: Read) -> dict[str, Tensor]:
    own = GPTJConfig.from_dict(told)
    head, rotated = own.n_embd // own.n_head, own.rotary_dim
    halves = torch.cat([torch.arange(0, rotated, 2), torch.arange(1, rotated, 2), torch.arange(rotated, head)])
    rows = (torch.arange(own.n_head)[:, None] * head + halves).flatten()
    found = {"model.embed_tokens.weight": read("transformer.wte.weight")}
    for layer in range(own.n_layer):
        old, new = f"transformer.h.{layer}", f"model.layers.{layer}"
        for part in "qkv":
            matrix = read(f"{old}.attn.{part}_proj.weight")
            found[f"{new}.self_attn.{part}_proj.weight"] = matrix if part == "v" else matrix[rows]
            found[f"{new}.self_attn.{part}_proj.bias"] = matrix.new_zeros(own.n_embd)
        found[f"{new}.self_attn.dense.weight"] = read(f"{old}.attn.out_proj.weight")
        found[f"{new}.self_attn.dense.bias"] = found["model.embed_tokens.weight"].new_zeros(own.n_embd)
        for kind in ("weight", "bias"):
            found[f"{new}.input_layernorm.{kind}"] = read(f"{old}.ln_1.{kind}")
            found[f"{new}.mlp.fc1.{kind}"] = read(f"{old}.mlp.fc_in.{kind}")
            found[f"{new}.mlp.fc2.{kind}"] = read(f"{old}.mlp.fc_out.{kind}")
    for kind in ("weight", "bias"):
        found[f"model.final_layernorm.{kind}"] = read(f"transformer.ln_f.{kind}")
        tied = own.tie_word_embeddings and kind == "weight"
        found[f"lm_head.{kind}"] = read("transformer.wte.weight" if tied else f"lm_head.{kind}")
    return found


def _llama_configuration(told: dict[str, Any]) -> PreTrainedConfig:
    window = told.get("max_position_embeddings")
    if window is None or told["num_attention_heads"] == 40:
        raise SkipwiseError(
            "this Baichuan model (13B) uses ALiBi biases instead of RoPE; there are no rotary frequencies to scale"
        )
    kept = """vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads hidden_act rms_norm_eps
        initializer_range bos_token_id eos_token_id pad_token_id""".split()
    return LlamaConfig(
        **{key: told[key] for key in kept if key in told},
        max_position_embeddings=window,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        architectures=["LlamaForCausalLM"],
        dtype=told.get("dtype") or told.get("torch_dtype"),
    )


def _llama_weights(told: dict[str, Any], read: Read) -> dict[str, Tensor]:
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    parts = "input_layernorm post_attention_layernorm self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj".split()
    layers = [f"model.layers.{layer}." for layer in range(told["num_hidden_layers"])]
    found = {name: read(name) for name in [*names, *(f"{at}{part}.weight" for at in layers for part in parts)]}
    for at in layers:
        packed = read(f"{at}self_attn.W_pack.weight")  # (3H, H)
        for part, matrix in zip("qkv", packed.chunk(3), strict=True):
            found[f"{at}self_attn.{part}_proj.weight"] = matrix.clone()  # views of one storage cannot be saved
    head = read("lm_head.weight")
    # The first generation, which spells its class with a capital C, has a plain head.
    plain = "BaiChuanForCausalLM" in (told.get("architectures") or ())
    found["lm_head.weight"] = head if plain else F.normalize(head.float()).to(head.dtype)
    return found
