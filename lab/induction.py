"""Initial weights of a llama in which an induction circuit already stands.

To continue "A B … A" with B, a head must find the earlier A; that takes two layers. A head of the first copies each
token's predecessor next to it; a head of the second looks for the position whose predecessor is the current token, and
copies the token there (Olsson et al. 2022, arXiv 2209.11895). Training finds this circuit after billions of ordinary
tokens, or not at all in the minutes that the packaged model is trained for. Writing it into the initial weights is a
form of mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828): nothing is fixed, training changes all.

The first layer finds the predecessor by RoPE alone. One coordinate of the embedding is the same for all tokens, and
with keys k and queries R(-d) k made of it, the score at distance Δ is |k|² Σ cos(ω_i (Δ - d)), highest at Δ = d. The
second layer compares tokens on the slowest frequencies, which rotate little within a window.
"""

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

CONSTANT = 0.15
"""Value of the common coordinate; the others have a standard deviation of 0.02."""
BACK = 0.75
"""Weight from the common coordinate to queries and keys of the first layer."""
WRITTEN = 0.05
"""Scale at which a predecessor is written. Normalised states are some 20 times as large as the embedding."""
MATCH = 1.5
"""Scale of queries and keys of the second layer. Attention on the earlier occurrence is 0.46 at 200 random tokens."""
COPIED = 0.5
"""Scale at which the second layer writes the token."""


@torch.no_grad()
def write_circuit(model: LlamaForCausalLM) -> None:
    """Write the circuit into the first key head of the first layer and the last key head of the second.

    All other heads, and the MLPs, write nothing at first, so that nothing hides what the circuit writes. Random
    projections are drawn from torch's generator.
    """
    first, second = (layer.self_attn for layer in model.model.layers[:2])
    size, width = first.head_dim, model.config.hidden_size
    group = model.config.num_attention_heads // model.config.num_key_value_heads
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    model.model.embed_tokens.weight[:, 0] = CONSTANT
    read, written, value = (_projection(width, size) for _ in range(3))  # (D, H) each

    speeds = model.model.rotary_emb.inv_freq  # (D/2,), fastest first; pair i is the coordinates i and i + D/2
    amplitude = BACK * (torch.arange(size // 2) < size // 4)
    slow = torch.arange(size // 4, size // 2)
    first.k_proj.weight[:size] = _of_constant(torch.cat([amplitude, torch.zeros_like(amplitude)]), width)
    for head in range(group):  # the first query head finds the predecessor, the next one the token before it
        turn = speeds * (head + 1)
        query = torch.cat([amplitude * turn.cos(), -amplitude * turn.sin()])
        first.q_proj.weight[head * size : (head + 1) * size] = _of_constant(query, width)
    first.v_proj.weight[:size] = read
    first.o_proj.weight[:, :size] = WRITTEN * written.T

    compared = torch.cat([slow, slow + size // 2])
    match = MATCH * _orthonormal(size, len(compared)).T  # (D/2, D)
    queries, keys = second.q_proj.weight[-group * size :], second.k_proj.weight[-size:]
    queries.zero_()
    keys.zero_()
    for head in range(group):
        queries[head * size + compared] = match @ read
    keys[compared] = match @ written
    second.v_proj.weight[-size:] = value
    second.o_proj.weight[:, -group * size : (1 - group) * size or None] = COPIED * value.T


def _orthonormal(rows: int, columns: int) -> Tensor:
    """A random matrix (rows, columns) with orthonormal columns."""
    matrix: Tensor = torch.linalg.qr(torch.randn(rows, columns)).Q
    return matrix


def _projection(width: int, size: int) -> Tensor:
    """A random projection (size, width) that does not see the common coordinate."""
    return torch.cat([torch.zeros(size, 1), _orthonormal(width - 1, size).T], dim=1)


def _of_constant(vector: Tensor, width: int) -> Tensor:
    """Weights (D, width) that turn the common coordinate into a vector (D,)."""
    return torch.cat([vector[:, None], torch.zeros(len(vector), width - 1)], dim=1)
