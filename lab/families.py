"""Small models of several families, pre-trained for a short while on the standard library's sources.

They are real checkpoints of their families: GPT-J with neighbouring dimensions that turn together and a part of the
head that does not turn, Mistral with grouped queries and a sliding window, Baichuan 2 with its packed matrix and its
normalised head. Skipwise reads each as it reads the large ones. All have the packaged model's tokenizer and window.
"""

import functools
import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from transformers import (
    AutoTokenizer,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from lab.bench import ORIGINAL, WINDOW, Bench, base_digest
from skipwise.assets import catalogue
from skipwise.utils.atomic_files import atomic_folder
from skipwise.utils.progress import say

VOCABULARY, HIDDEN, FEED, LAYERS, HEADS = 4096, 128, 352, 4, 4
SLIDING = 2 * WINDOW
"""Tokens that a sliding layer sees: fewer than any target has."""
RATE, WARM_UP = 3e-3, 30
STEPS, QUICK_STEPS = 3000, 100
BATCH, QUICK_BATCH = 16, 4
"""A step of 16 windows takes about one second of one core."""
SHARED: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FEED,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}


class NormalisedRows(torch.nn.Module):
    """Baichuan 2's head: its rows have length 1 when they are used."""

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Scale each row of a matrix (V, H) to length 1."""
        return torch.nn.functional.normalize(weight)


def llama() -> Any:
    """A plain llama."""
    return LlamaForCausalLM(LlamaConfig(**SHARED, rope_parameters=ROPE))


def mistral() -> Any:
    """Two heads share a key head; all layers slide."""
    return MistralForCausalLM(
        MistralConfig(**SHARED, num_key_value_heads=HEADS // 2, sliding_window=SLIDING, rope_parameters=ROPE)
    )


def gptj() -> Any:
    """Attention and MLP side by side; half of a head turns, neighbours together."""
    config = GPTJConfig(
        vocab_size=VOCABULARY, n_embd=HIDDEN, n_inner=FEED * 3 // 2, n_layer=LAYERS, n_head=HEADS, n_positions=WINDOW,
        rotary_dim=HIDDEN // HEADS // 2,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPTJForCausalLM(config)


def baichuan() -> Any:
    """A llama with a normalised head, to be saved under Baichuan's names."""
    model = llama()
    torch.nn.utils.parametrize.register_parametrization(model.lm_head, "weight", NormalisedRows())
    return model


def save_baichuan(model: Any, folder: Path) -> None:
    """Save a llama with a normalised head as Baichuan 2 would: q, k and v in one matrix, the head not normalised."""
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    weights["lm_head.weight"] = weights.pop("lm_head.parametrizations.weight.original")
    for layer in range(LAYERS):
        at = f"model.layers.{layer}.self_attn."
        weights[f"{at}W_pack.weight"] = torch.cat([weights.pop(f"{at}{part}_proj.weight") for part in "qkv"])
    save_file({name: value.clone().contiguous() for name, value in weights.items()}, folder / "model.safetensors")
    config = {**SHARED, "model_type": "baichuan", "architectures": ["BaichuanForCausalLM"], "hidden_act": "silu"}
    config |= {"rms_norm_eps": model.config.rms_norm_eps, "tie_word_embeddings": False, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")


FAMILIES: dict[str, Callable[[], Any]] = {"llama": llama, "GPT-J": gptj, "Mistral": mistral, "Baichuan 2": baichuan}


def family(bench: Bench, name: str) -> Path:
    """The folder of a pre-trained model. It is made once."""
    steps, batch = (QUICK_STEPS, QUICK_BATCH) if bench.quick else (STEPS, BATCH)
    identity = [name, steps, batch, RATE, SLIDING, SHARED, ROPE, base_digest(ORIGINAL)]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:10]
    folder = (bench.folder / f"family-{name.replace(' ', '-').lower()}-{digest}").absolute()
    if not folder.exists():
        say(f"{name}: {steps} steps of pre-training, {batch} × {WINDOW} tokens each")
        torch.manual_seed(0)
        model = FAMILIES[name]().train()
        loss = pretrain(model, tokens(), steps, batch)
        say(f"{name}: loss {loss:.3f} at the end")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder) as partial:
            if name == "Baichuan 2":
                save_baichuan(model, partial)
            else:
                model.save_pretrained(partial)
            AutoTokenizer.from_pretrained(catalogue.get("bundled")).save_pretrained(partial)
    return folder


@functools.cache
def tokens() -> NDArray[np.uint16]:
    """The standard library's sources as one stream of the packaged tokenizer's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(catalogue.get("bundled"))
    texts = [
        path.read_text(encoding="utf-8", errors="ignore") for path in sorted(catalogue.get("stdlib").rglob("*.py"))
    ]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return np.concatenate([np.asarray([0, *ids], dtype=np.uint16) for ids in encoded])


def pretrain(model: Any, stream: NDArray[np.uint16], steps: int, batch: int) -> float:
    """Train on `batch` random windows of a stream a step. Return the mean loss of the last tenth of the steps."""
    adam = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    rng = np.random.default_rng(0)
    losses = []
    for step in range(steps):
        for group in adam.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
        starts = rng.integers(0, len(stream) - WINDOW, batch)
        rows = np.stack([stream[start : start + WINDOW] for start in starts]).astype(np.int64)
        rows[:, 0] = 0
        ids = torch.from_numpy(rows)  # (B, T)
        logits = model(input_ids=ids, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return float(np.mean(losses[-max(steps // 10, 1) :]))
