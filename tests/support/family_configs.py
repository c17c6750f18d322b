"""A tiny configuration of every family in the table, of the real class, and a RoPE that is not transformers'.

`independent_logits` runs a model whose RoPE is switched off (all positions are 0). Its attention function rotates
queries and keys itself, in float64, at the wanted positions. The logits agree with a scaled model only if frequencies,
attention factor, rotated dimensions, pairing and the choice of layers all do.
"""

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AttentionInterface, PreTrainedConfig
from transformers.masking_utils import AttentionMaskInterface, eager_mask
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from support.tiny import tiny_model

WINDOW = 64
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 0,
    "initializer_range": 0.3,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
MIXED = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 6}
NESTED = {
    "rope_parameters": {
        "full_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    }
}
MOE = {"num_experts": 4, "use_sliding_window": True}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 4, "v_head_dim": 8}
GROUPS = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}


def partial(share: float) -> dict[str, Any]:
    return {"rope_parameters": {**SIZES["rope_parameters"], "partial_rotary_factor": share}}


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": {**GROUPED, "sliding_window": 6},
    "mixtral": {**GROUPED, "num_local_experts": 4, "sliding_window": 6},
    "qwen2": {**GROUPED, **MIXED, "use_sliding_window": True},
    "qwen2_moe": {**GROUPED, **EXPERTS, **MIXED, **MOE, "shared_expert_intermediate_size": 16},
    "qwen3": {**GROUPED, **MIXED, "use_sliding_window": True, "head_dim": 12},
    "qwen3_moe": {**GROUPED, **EXPERTS, **MOE, "sliding_window": 6, "head_dim": 12},
    "gemma": {**GROUPED, "head_dim": 12},
    "gemma2": {**GROUPED, **MIXED, "head_dim": 12, "query_pre_attn_scalar": 12},
    "gemma3_text": {**GROUPED, **MIXED, **NESTED, "head_dim": 12, "query_pre_attn_scalar": 12},
    "phi": {**GROUPED, **partial(0.5)},
    "phi3": {**GROUPED, "sliding_window": 6, "original_max_position_embeddings": WINDOW},
    "gpt_neox": {**SIZES, **partial(0.5)},
    "olmo2": GROUPED,
    "olmo3": {**GROUPED, **MIXED, **NESTED},
    "smollm3": {**GROUPED, "num_hidden_layers": 4, "no_rope_layers": [1, 1, 1, 0]},
    "stablelm": {**GROUPED, **partial(0.5)},
    "falcon": {**SIZES, "num_kv_heads": 2, "new_decoder_architecture": True},
    "granite": {**GROUPED, "attention_multiplier": 0.3, "logits_scaling": 2.0},
    "glm4": {**GROUPED, **partial(0.5), "head_dim": 8},
    "starcoder2": {**GROUPED, "sliding_window": 6},
    "gpt_oss": {**GROUPED, **MIXED, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
    "deepseek_v3": {**SIZES, "num_key_value_heads": 4, **EXPERTS, **LATENT, **GROUPS},
    "internlm3": {**GROUPED, "head_dim": 8},
    "exaone4": {**GROUPED, "sliding_window": None, "layer_types": ["full_attention"] * 2},
    "cohere2": {**GROUPED, **MIXED},
}


def config(family: str, **more: Any) -> PreTrainedConfig:
    """The configuration of a family. Skips the test if transformers has no such family yet (InternLM 3 in 5.17)."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    return transformers.AutoConfig.for_model(family, **{**CONFIGS[family], **more})


class Rotated:
    """An attention function that rotates queries and keys, (B, heads, T, d), itself before it attends."""

    def __init__(self) -> None:
        self.positions = torch.zeros(1, 1)
        self.turns: dict[int, tuple[Tensor, float]] = {}
        """Frequencies (pairs,) in float64 and factor on cos and sin of each layer that is rotated."""
        self.neighbours = False
        self.at_end = False
        """Whether the rotated dimensions are a head's last ones."""
        self.temper = 1.0
        """Factor on the logits of the attention."""
        self.keys: dict[str, Tensor] | None = None
        """Takes the keys that each layer gives, by its index."""

    def rotate(self, x: Tensor, layer: int) -> Tensor:
        if layer not in self.turns:
            return x
        frequencies, factor = self.turns[layer]
        width = 2 * len(frequencies)
        part = (x[..., -width:] if self.at_end else x[..., :width]).double()
        angles = self.positions.double()[:, None, :, None] * frequencies  # (B, 1, T, pairs)
        turn = torch.polar(torch.full_like(angles, factor), angles)
        pairs = (part[..., ::2], part[..., 1::2]) if self.neighbours else part.chunk(2, dim=-1)
        z = torch.complex(*(half.contiguous() for half in pairs)) * turn
        done = (
            torch.stack([z.real, z.imag], -1).flatten(-2) if self.neighbours else torch.cat([z.real, z.imag], -1)
        ).to(x)
        return torch.cat([x[..., :-width], done] if self.at_end else [done, x[..., width:]], dim=-1)

    def __call__(
        self,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **ignored: Any,
    ) -> tuple[Tensor, None]:
        if self.keys is not None:
            self.keys[str(module.layer_idx)] = key
        query, key = self.rotate(query, module.layer_idx), self.rotate(key, module.layer_idx)
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        scores = self.temper * query @ key.mT * (query.shape[-1] ** -0.5 if scaling is None else scaling)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores + attention_mask
        if s_aux is None:
            shares = scores.softmax(-1)
        else:  # a sink takes its share and gives nothing
            sink = s_aux.view(1, -1, 1, 1).expand(len(scores), -1, scores.shape[2], 1)
            shares = torch.cat([scores, sink], dim=-1).softmax(-1)[..., :-1]
        return (shares @ value).transpose(1, 2).contiguous(), None


ROTATED = Rotated()
AttentionInterface.register("rotated", ROTATED)
AttentionMaskInterface.register("rotated", eager_mask)


class ThroughFused(TorchFunctionMode):
    """The rotation of `Rotated` for Falcon, which calls torch's fused attention without asking the interface."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.layers, self.calls = layers, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention:
            layer, self.calls = self.calls % self.layers, self.calls + 1
            args = (ROTATED.rotate(args[0], layer), ROTATED.rotate(args[1], layer), *args[2:])
        return func(*args, **(kwargs or {}))


def independent_logits(
    family: str,
    plain: PreTrainedConfig,
    ids: Tensor,
    positions: Tensor,
    turns: dict[int, tuple[Tensor, float]],
    *,
    neighbours: bool,
    temper: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Logits of the family's model (weights of `seed`) with RoPE computed here; (B, T, V)."""
    plain = type(plain).from_dict(plain.to_dict())
    small = tiny_model(plain, seed=seed)
    small.set_attn_implementation("sdpa" if family == "falcon" else "rotated")
    ROTATED.positions, ROTATED.turns, ROTATED.temper = positions, turns, temper
    # DeepSeek reorders its neighbours into halves before it rotates them, at any position.
    ROTATED.neighbours, ROTATED.at_end = neighbours and family != "deepseek_v3", family == "deepseek_v3"
    with torch.no_grad(), ThroughFused(plain.num_hidden_layers) if family == "falcon" else torch.no_grad():
        zero = torch.zeros_like(positions)
        logits: Tensor = small(ids, position_ids=zero, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits
