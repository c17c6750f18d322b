"""Where a model comes from: a configured path flows in; its configuration, tokenizer and weights flow out.

Folders and hub ids hold safetensors, which run no code; a GGUF file is dequantised, a checkpoint that has a twin
(`twins`) is read as that. Whatever the libraries raise becomes one line.
"""

import hashlib
import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from huggingface_hub import snapshot_download, try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerFast as FastTokenizer

from skipwise.assets import catalogue
from skipwise.config import ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.models import equivalents, families, gguf_header
from skipwise.rope import hf_config

PACKAGED = ("bundled", "smollm2")


class Source(NamedTuple):
    """Where a model is read from: `place` is a folder or a hub id, `gguf` the name of a file in it."""

    name: str
    place: str
    gguf: str | None
    options: dict[str, Any]

    @property
    def file(self) -> Path:
        return Path(self.place) / (self.gguf or "")


def find(config: ModelConfig, *, weights: bool = True) -> Source:
    """What `config.path` names. Without `weights`, a folder without any and a bare config.json will do.

    Errors: SkipwiseError for a path that is no model.
    """
    path = Path(catalogue.get(config.path) if config.path in PACKAGED else config.path).expanduser()
    options = {"trust_remote_code": config.trust_remote_code}
    if path.is_file():
        if path.suffix == ".json" and not weights:
            return Source(path.resolve().parent.name, str(path), None, options)
        if path.suffix != ".gguf":
            raise SkipwiseError(f"{config.path} is no model: expected a folder, a hub id or a .gguf file")
        return Source(config.path if config.path in PACKAGED else path.stem, str(path.parent), path.name, options)
    if path.is_dir():
        name = config.path if config.path in PACKAGED else path.resolve().name
        if (path / "config.json").is_file():
            if weights:
                _check_files(path)
            return Source(name, str(path), None, options)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return Source(name, str(path), files[0].name, options)
        choice = f"; give one of {', '.join(file.name for file in files)}" if files else ""
        raise SkipwiseError(f"{config.path} is no model folder: no config.json and {len(files)} .gguf files{choice}")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", config.path):
        raise SkipwiseError(f"model {config.path!r}: no such file or folder")
    return Source(config.path, config.path, None, {**options, "revision": config.revision or "main"})


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, or the pickled files of one that has none."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _check_files(folder: Path) -> None:
    said = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    foreign = re.search(rf'"model_type":\s*"({"|".join(equivalents.TWINS)})"', said)
    if not any(folder.glob("*.safetensors")) and not (foreign and _weight_files(folder)):
        old = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        hint = "; only pickled ones, which can run code: convert them to safetensors first" if old else ""
        raise SkipwiseError(f"{folder} has no .safetensors weights{hint}")


def one_line(error: BaseException) -> str:
    """The first sentence or two of an error, on one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _read(source: Source, what: str, from_pretrained: Callable[..., Any], **options: Any) -> Any:
    """`from_pretrained` of the source. Errors: SkipwiseError in one line, whatever the library raised."""
    if source.gguf:
        options["gguf_file"] = source.gguf
    try:
        return from_pretrained(source.place, **source.options, **options)
    except (KeyboardInterrupt, MemoryError, torch.OutOfMemoryError, SkipwiseError):
        raise
    except Exception as error:  # the libraries raise OSError, ValueError, KeyError, SafetensorError, TypeError …
        where = str(source.file) if source.gguf else source.place
        if not Path(source.place).exists():
            where += " (no folder of this name is here, so it was taken as a hub id)"
        raise SkipwiseError(f"cannot read the {what} of {where}: {one_line(error)}") from error


def told(source: Source) -> dict[str, Any] | None:
    """config.json of a checkpoint that is read as its twin; None for any other."""
    if source.gguf:
        return None
    found, _ = _read(source, "configuration", PreTrainedConfig.get_config_dict)
    return found if found.get("model_type") in equivalents.TWINS else None


def configuration(source: Source) -> PreTrainedConfig:
    """The configuration as it was saved, with what transformers leaves in a GGUF file's header."""
    foreign = told(source)
    if foreign is not None:
        twin: PreTrainedConfig = _read(source, "configuration", lambda *_, **__: equivalents.configuration(foreign))
        return twin
    config: PreTrainedConfig = _read(source, "configuration", AutoConfig.from_pretrained)
    if source.gguf is None:
        return config
    if config.model_type == "mistral":  # which gguf has as llama, without a sliding window
        other = {"model_type", "sliding_window", "architectures"}
        config = LlamaConfig.from_dict({key: value for key, value in config.to_dict().items() if key not in other})
    for name, value in gguf_header.overlooked(source.file).items():
        setattr(config, name, value)
    carried = gguf_header.rope_scaling(source.file)
    if carried is not None:
        original = carried.get("original_max_position_embeddings")
        if carried["rope_type"] == "yarn" and not original:
            carried["original_max_position_embeddings"] = config.max_position_embeddings
        elif carried["rope_type"] == "linear" and original:
            config.original_max_position_embeddings = carried.pop("original_max_position_embeddings")
        full = {**hf_config.parameters(config), **carried}
        nested = hf_config.is_nested(config.rope_parameters)
        config.rope_parameters = {**config.rope_parameters, "full_attention": full} if nested else full
    return config


def tokenizer(source: Source) -> Any:
    """The fast tokenizer that comes with the model. Errors: SkipwiseError when there is none."""
    # Baichuan's tokenizer class is code in its repository; the file beside it is enough.
    bare = (told(source) or {}).get("model_type") == "baichuan"
    found = _read(source, "tokenizer", (FastTokenizer if bare else AutoTokenizer).from_pretrained)
    if not found.is_fast:
        raise SkipwiseError(f"{source.place}: its tokenizer has no fast form (tokenizer.json), which is needed")
    return found


def weights(source: Source, config: PreTrainedConfig, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """The model with every weight read from safetensors or GGUF, as a plain dense model in evaluation mode.

    `attention` "sdpa" becomes "eager" for a family whose attention torch's fused kernel cannot compute.
    """
    chosen = families.attention(config, attention)
    options: dict[str, Any] = {"config": config, "dtype": dtype, "attn_implementation": chosen}
    options["output_loading_info"] = True
    foreign = told(source)
    gguf_config = getattr(transformers, "GgufConfig", None)
    if foreign is not None:
        model, found = _read(source, "weights", lambda *_, **__: equivalents.load(foreign, _reader(source), **options))
    else:
        if source.gguf is None:
            options["use_safetensors"] = True
        elif gguf_config is not None:
            # Otherwise the model counts as quantised, and can neither be trained nor saved.
            options["quantization_config"] = gguf_config(dequantize=True)
        model, found = _read(source, "weights", AutoModelForCausalLM.from_pretrained, **options)
    missing = sorted(found["missing_keys"])
    if missing:
        raise SkipwiseError(f"{source.place} lacks {len(missing)} weights of its model, e.g. {missing[0]}")
    return model


def _reader(source: Source) -> Callable[[str], Tensor]:
    """Gives a saved tensor by its name. Pickled files are read as data only: code in them is refused."""
    folder = Path(source.place)
    if not folder.is_dir():
        revision = source.options["revision"]
        folder = Path(snapshot_download(source.place, revision=revision, allow_patterns=["*.safetensors", "*.bin"]))
    found: dict[str, Callable[[], Tensor]] = {}
    for path in _weight_files(folder):
        if path.suffix == ".safetensors":
            file = safe_open(path, "pt")
            found |= {name: partial(file.get_tensor, name) for name in file.keys()}  # type: ignore[no-untyped-call]  # noqa: SIM118
        else:
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
            found |= {name: partial(held.__getitem__, name) for name in held}

    def read(name: str) -> Tensor:
        if name not in found:
            raise SkipwiseError(f"{source.place} lacks weights of its model, e.g. {name}")
        return found[name]()

    return read


def fingerprint(source: Source, config: PreTrainedConfig) -> str:
    """sha256 (16 digits) of configuration and weights; of a large file, 256 samples spread over it."""
    told = {key: value for key, value in config.to_diff_dict().items() if key != "transformers_version"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    folder = Path(source.place)
    if not folder.is_dir():
        read = try_to_load_from_cache(source.place, "config.json", revision=source.options["revision"])
        digest.update(Path(str(read)).parent.name.encode())  # the commit
    for path in _weight_files(folder) if source.gguf is None else [source.file]:
        size = path.stat().st_size
        digest.update(f"{size}".encode())
        with path.open("rb") as file:
            for offset in range(0, size, max(2**16, size // 256)):
                file.seek(offset)
                digest.update(file.read(2**16))
    return digest.hexdigest()[:16]
