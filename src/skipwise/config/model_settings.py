"""The sections `model` and `scaling`."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from skipwise.config.stage import Stage
from skipwise.config.values import Length, read_factors


class ModelConfig(Stage):
    """The model and how it is loaded."""

    path: str = "bundled"
    """Folder, hub id, .gguf file, or name of a packaged model (`bundled`, `smollm2`)."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    original_length: Length | None = None
    """Window that the model was pre-trained with, tokens. Read from its configuration when absent."""
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
    """Arithmetic of the forward pass. `auto` takes bfloat16 where the device has instructions for it, else float32.
    Training keeps master weights in float32 with each of them."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention implementation, as transformers names it."""
    device: str = "auto"
    """`auto` (CUDA when there is a GPU), `cpu`, `cuda`, `cuda:1` …"""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Set it only for a model whose code you trust."""


class ScalingConfig(Stage):
    """How RoPE is scaled to the longer window (docs/scaling.md)."""

    method: Literal[
        "linear", "ntk", "yarn", "yarn_revised", "critical", "llama3", "longrope", "dynamic", "theta", "none"
    ] = "yarn"
    """How RoPE frequencies change. `dynamic` is for inference only: no model can be trained under it."""
    theta: float | None = None
    """`theta`: the new base, above 1."""
    beta_fast: float | None = None
    """`yarn`, `critical`, `yarn_revised`: dimensions that turn more often than this inside the original window stay as
    they are. 32 when absent."""
    beta_slow: float | None = None
    """`yarn`, `critical`, `yarn_revised`: dimensions that turn less often than this are fully interpolated. When absent
    1, and 2.75 for `critical`."""
    attention_factor: float | None = None
    """`yarn`, `critical`, `yarn_revised`, `longrope`: factor on cos and sin. When absent 0.1·ln(factor) + 1, which
    every loader computes by itself; for `longrope` √(1 + ln(factor) / ln(original))."""
    mscale: float | None = None
    """`yarn`, `critical`: DeepSeek's numerator of the attention factor. Set `mscale_all_dim` too."""
    mscale_all_dim: float | None = None
    """`yarn`, `critical`: DeepSeek's denominator of the attention factor. Set `mscale` too."""
    truncate: bool | None = None
    """`yarn`, `critical`, `yarn_revised`: round the borders of the blend to whole dimensions. True when absent."""
    low_freq_factor: float | None = None
    """`llama3`: dimensions that turn less often than this are fully interpolated. 1 when absent."""
    high_freq_factor: float | None = None
    """`llama3`: dimensions that turn more often than this stay as they are. 4 when absent."""
    factors: Annotated[list[float], BeforeValidator(read_factors)] | None = None
    """`longrope`: what each wavelength is multiplied by, the fastest dimension first. A list, or a file with one
    (JSON, or one number a line)."""
