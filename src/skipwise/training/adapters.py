"""Low-rank adapters through PEFT: attach them to a frozen base, keep their state, merge them into ordinary weights.

The base stays as it was loaded (bf16, or NF4 under `qlora`); only what is trained has fp32 masters. So training a 7B
model needs about the bytes of its weights, and not the sixteen bytes a parameter of training all of them.
"""

import difflib
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from skipwise.config import AdapterConfig, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models.merging import NAME
from skipwise.training import sharding
from skipwise.training.sharding import fill, whole

if TYPE_CHECKING:
    from peft import PeftModel


def require_packages(config: AdapterConfig, device: torch.device) -> None:
    """Refuse an adapter whose package or device is missing, before a model is loaded.

    Raises:
        SkipwiseError: `qlora` without bitsandbytes or without a CUDA device.
    """
    if config.method != "qlora":
        return
    if device.type != "cuda":
        raise SkipwiseError(f"adapter.method=qlora needs a CUDA device, this run is on {device.type}; use lora")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise SkipwiseError("adapter.method=qlora needs bitsandbytes: pip install 'skipwise[qlora]'")


def check_settings(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Refuse a target or an entry of `also_train` that matches nothing, and a rank that no layer has.

    Raises:
        SkipwiseError: With the nearest name, or the largest rank.
    """
    targets = _targets(model, config)
    _also_trained(model, config)
    largest = max(
        min(module.weight.shape)
        for name, module in model.named_modules()
        if _is_linear(module) and name.rpartition(".")[2] in targets
    )
    if config.rank > largest:
        raise SkipwiseError(
            f"adapter.rank = {config.rank:,}: the layers that get an adapter have a rank of {largest:,} at most; lower "
            "it, or train all weights with adapter.method=none"
        )


def attach(model: PreTrainedModel, config: AdapterConfig, seed: int = 0) -> "PeftModel":
    """Put trainable adapters into `model` and freeze the rest.

    Args:
        model: The base with scaled RoPE, in the dtype that it keeps. Its linear layers are replaced in place, so
            its own forward pass includes the adapters.
        config: Method, rank, targets and what else is trained.
        seed: Of the adapters' first values, so that every process of a job begins with the same.

    Returns:
        PEFT's model around `model`.

    Raises:
        SkipwiseError: A target or an entry of `also_train` matches nothing.
    """
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    also = _also_trained(model, config)
    tied = (
        bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
        and "embeddings" in config.also_train
    )
    settings = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha if config.alpha is not None else 2 * config.rank,
        lora_dropout=config.dropout,
        target_modules=_targets(model, config),
        use_rslora=config.rslora,
        use_dora=config.dora,
        modules_to_save=also or None,
        ensure_weight_tying=tied,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, settings)
    for weight in wrapped.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()
    for module in wrapped.modules():
        # PEFT would copy the input of every layer to fp32. Autocast casts the small adapter instead. DoRA needs it.
        if isinstance(module, LoraLayer) and not config.dora:
            module.cast_input_dtype_enabled = False
    return wrapped


def _linear_names(model: PreTrainedModel) -> list[str]:
    """Last parts of the names of the decoder's linear layers, e.g. `q_proj`."""
    head = model.get_output_embeddings()
    layers = {
        name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module) and module is not head
    }
    return sorted(layers)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ in ("Conv1D", "Linear4bit")


def _targets(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """All linear layers of the decoder (QLoRA, arXiv 2305.14314, section 4) unless some are named."""
    names = _linear_names(model)
    for target in config.targets:
        if target not in names:
            near = difflib.get_close_matches(target, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"this model has {', '.join(names)}"
            raise SkipwiseError(f"adapter.targets: no linear layer is called {target!r}; {hint}")
    return config.targets or names


def _also_trained(model: PreTrainedModel, config: AdapterConfig) -> list[str]:
    """Names of the modules that are trained whole, as PEFT's `modules_to_save` matches them."""
    names: set[str] = set()
    if "embeddings" in config.also_train:
        embeddings = model.get_input_embeddings()
        names |= {name.rpartition(".")[2] for name, module in model.named_modules() if module is embeddings}
    if "norms" in config.also_train:
        norms = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if re.search(r"(RMS|Layer)Norm", type(module).__name__) and next(module.parameters(), None) is not None
        }
        if not norms:
            raise SkipwiseError("adapter.also_train: this model has no norms with weights; leave 'norms' out")
        names |= norms
    return sorted(names)


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return what a checkpoint must hold beside the base: every trained parameter by name, tied ones once.

    Where the weights are divided among processes, all of them call this.
    """
    return {name: whole(weight.detach()) for name, weight in model.named_parameters() if weight.requires_grad}


def load_trainable_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put a `trainable_state` back, into weights that are held whole or divided among processes.

    Raises:
        SkipwiseError: The state is that of another adapter.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    wrong = sorted(set(trained) ^ set(state)) or [n for n in trained if trained[n].shape != state[n].shape]
    if wrong:
        raise SkipwiseError(
            f"the checkpoint holds another adapter (they differ in {wrong[0]}); give the same adapter settings"
        )
    for name, weight in trained.items():
        fill(weight, state[name])


def save(wrapped: "PeftModel", folder: Path, base: ModelConfig) -> None:
    """Write the adapter as PEFT reads it, and beside it the scaled configuration that its base needs.

    Args:
        wrapped: The trained model.
        folder: A folder that exists.
        base: Names the base model in adapter_config.json: as the user did, or a path on this machine from its root.
    """
    place = Path(base.path).expanduser()
    settings = wrapped.peft_config[NAME]
    settings.base_model_name_or_path = str(place.resolve()) if place.exists() else base.path
    settings.revision = base.revision
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)
    base_model: Any = wrapped.get_base_model()
    base_model.config.save_pretrained(folder)


def gathered(wrapped: "PeftModel", config: AdapterConfig) -> "PeftModel":
    """Gather an adapted model that is divided among processes into one that the first process holds on its CPU.

    Every weight keeps its dtype. In the other processes, and for a model that is held whole, `wrapped` comes back.
    """
    model: Any = wrapped.get_base_model()
    return sharding.gathered(wrapped, lambda: attach(sharding.unfilled(model), config))
