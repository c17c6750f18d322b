"""Read a model's tokenizer and weights from its source.

Folders and hub ids hold safetensors, which run no code; a GGUF file is dequantised, and a checkpoint whose own code
cannot be extended is read as its equivalent. Whatever the libraries raise becomes one line.
"""

import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import snapshot_download, try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerFast as FastTokenizer

from skipwise.errors import SkipwiseError
from skipwise.models import adapter_files, agreement, configuration, equivalents, families
from skipwise.models.merging import merge_folder
from skipwise.models.sources import Source, call
from skipwise.models.weight_files import weight_files
from skipwise.utils.progress import say


def tokenizer(source: Source) -> Any:
    """Load the fast tokenizer that comes with a model.

    Args:
        source: Where the model is.

    Raises:
        SkipwiseError: There is none, or it does not go with the model's embedding.
    """
    folder, names = Path(source.place), ("tokenizer*", "vocab*", "spiece*", "tekken*", "tiktoken*")
    if source.gguf is None and folder.is_dir() and not any(next(folder.glob(name), None) for name in names):
        if source.base is not None:
            return tokenizer(source.base)
        raise SkipwiseError(
            f"cannot read the tokenizer of {folder}: no tokenizer.json; copy the tokenizer of its base model there"
        )
    # Baichuan's tokenizer class is code in its repository; the file beside it is enough.
    bare = (configuration.foreign(source) or {}).get("model_type") == "baichuan"
    config = configuration.read(source)
    # The configuration goes in as Skipwise reads it: transformers refuses fields that older tools wrote.
    options = {} if bare or source.gguf else {"config": config}
    loaded = call(source, "tokenizer", (FastTokenizer if bare else AutoTokenizer).from_pretrained, **options)
    if not loaded.is_fast:
        raise SkipwiseError(f"{source.place}: its tokenizer has no fast form (tokenizer.json), which is needed")
    agreement.check_tokens(loaded, config, source.given)
    return loaded


def weights(
    source: Source,
    config: PreTrainedConfig,
    attention: str,
    dtype: torch.dtype,
    four_bit: torch.device | None = None,
) -> PreTrainedModel:
    """Load a model with every weight from safetensors or GGUF, as a plain dense model in evaluation mode.

    `tie_word_embeddings` of its configuration says what its weights say, whatever the file said.

    Args:
        source: Where the weights are.
        config: The configuration, scaled or not.
        attention: "sdpa" becomes "eager" for a family whose attention torch's fused kernel cannot compute.
        dtype: How the weights are stored.
        four_bit: Store the linear layers in 4 bits (NF4, arXiv 2305.14314) on this device.

    Raises:
        SkipwiseError: The weights cannot be read, are not those of the configuration, or are not finite.
    """
    if source.base is not None:
        return _adapted(source, source.base, config, attention, dtype, four_bit)
    chosen = families.attention(config, attention)
    options: dict[str, Any] = {"config": config, "dtype": dtype, "attn_implementation": chosen}
    # Weights of another shape are then in the report, where we name them.
    options |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
    values = configuration.foreign(source)
    if four_bit is not None:
        if source.gguf or values is not None:
            raise SkipwiseError(f"{source.given}: adapter.method=qlora reads safetensors of a known family; use lora")
        options |= {"quantization_config": _nf4(), "device_map": {"": four_bit}}
    if not Path(source.place).is_dir():
        say(f"reading the weights of {source.place} from the hub, or from its cache; a download can take minutes")
    gguf_config = getattr(transformers, "GgufConfig", None)
    if values is not None:

        def load_equivalent(*_: Any, **__: Any) -> Any:
            tensors = _Tensors(source)
            model, report = equivalents.load_equivalent(values, tensors, **options)
            return model, report | {"unexpected_keys": tensors.unread}

        model, report = call(source, "weights", load_equivalent)
    else:
        if source.gguf is None:
            options["use_safetensors"] = True
        elif gguf_config is not None:
            # Otherwise the model counts as quantised, and can neither be trained nor saved.
            options["quantization_config"] = gguf_config(dequantize=True)
        model, report = call(source, "weights", AutoModelForCausalLM.from_pretrained, **options)
    agreement.check_report(report, model.config, source.given)
    agreement.check_finite(model, source.given)
    if agreement.settle_head(model):
        say("config.json ties the head to the embedding; the weights hold a head of their own, which is used")
    return model


def _adapted(
    source: Source,
    base: Source,
    config: PreTrainedConfig,
    attention: str,
    dtype: torch.dtype,
    four_bit: torch.device | None,
) -> PreTrainedModel:
    """Load the base of an adapter, with the adapter's configuration, and merge the two; as `weights`."""
    if four_bit is not None:
        raise SkipwiseError(
            f"{source.given} is an adapter, and adapter.method=qlora reads whole weights; merge it first: skipwise "
            f"export {source.given} --out FOLDER"
        )
    model = merge_folder(weights(base, config, attention, dtype), Path(source.place))
    agreement.check_finite(model, source.given)
    if agreement.settle_head(model):
        say("config.json ties the head to the embedding; the adapter holds a head of its own, which is used")
    return model


def _nf4() -> Any:
    """QLoRA's storage: NF4, its scales quantised too, products in bf16."""
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


class _Tensors:
    """Gives a saved tensor by its name. Pickled files are read as data only: code in them is refused."""

    def __init__(self, source: Source) -> None:
        self.place = source.place
        folder = Path(source.place)
        if not folder.is_dir():
            patterns = ["*.safetensors", "*.safetensors.index.json", "*.bin"]
            folder = Path(snapshot_download(source.place, revision=source.options["revision"], allow_patterns=patterns))
        self._tensors: dict[str, Callable[[], Tensor]] = {}
        for path in weight_files(folder):
            if path.suffix == ".safetensors":
                file = safe_open(path, "pt")
                self._tensors |= {name: partial(file.get_tensor, name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
            else:
                held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                self._tensors |= {name: partial(held.__getitem__, name) for name in held}
        self.unread = set(self._tensors)

    def __call__(self, name: str) -> Tensor:
        """The tensor of this name; SkipwiseError where there is none."""
        if name not in self._tensors:
            raise SkipwiseError(f"{self.place} lacks weights of its model, e.g. {name}")
        self.unread.discard(name)
        return self._tensors[name]()


def fingerprint(source: Source, config: PreTrainedConfig) -> str:
    """sha256 (16 digits) of configuration and weights; of a large file, 256 samples spread over it."""
    values = {key: value for key, value in config.to_diff_dict().items() if key != "transformers_version"}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode())
    _add_weights(digest, source)
    return digest.hexdigest()[:16]


def _add_weights(digest: Any, source: Source) -> None:
    folder = Path(source.place)
    if source.base is not None:
        _add_weights(digest, source.base)
        files = [folder / adapter_files.SETTINGS, folder / adapter_files.WEIGHTS]
    else:
        files = weight_files(folder) if source.gguf is None else [source.file]
    if not folder.is_dir():
        read = try_to_load_from_cache(source.place, "config.json", revision=source.options["revision"])
        digest.update(Path(str(read)).parent.name.encode())  # the commit
    for path in files:
        size = path.stat().st_size
        digest.update(f"{size}".encode())
        with path.open("rb") as file:
            for offset in range(0, size, max(2**16, size // 256)):
                file.seek(offset)
                digest.update(file.read(2**16))
