"""Read a model's configuration, without torch and without its weights.

config.json is checked field by field before transformers reads it, and the configuration as a whole afterwards.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from skipwise.errors import SkipwiseError
from skipwise.models import equivalents, families, gguf_header
from skipwise.models.sources import EQUIVALENTS, Source, call
from skipwise.rope import fields, hf_config


def values_of(source: Source) -> dict[str, Any]:
    """config.json of a folder, file or hub id, with what older tools wrote in today's form.

    Raises:
        SkipwiseError: The file is not a JSON mapping, or a field has a wrong value. The error names file and field.
    """
    if source.base is not None and not _file(source):
        return values_of(source.base)
    file = _file(source)
    if file is None:
        values, _ = call(source, "configuration", PreTrainedConfig.get_config_dict)
    else:
        values = _json(file)
    return _checked(values, file or source.place)


def _file(source: Source) -> Path | None:
    """config.json on this machine; None for a hub id, and for an adapter without one."""
    place = Path(source.place)
    if source.base is not None and not (place / "config.json").is_file():
        return None
    return place / "config.json" if place.is_dir() else place if place.is_file() else None


def _json(file: Path) -> dict[str, Any]:
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise SkipwiseError(
            f"{file} is nested too deeply for a configuration; take the model's original file"
        ) from error
    except (ValueError, OSError) as error:
        cause = getattr(error, "strerror", None) or f"not a valid JSON file ({' '.join(str(error).split())})"
        raise SkipwiseError(f"cannot read the configuration of {file}: {cause}") from error
    if not isinstance(values, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(values), "a single value")
        raise SkipwiseError(f'{file} holds {kind}: expected a JSON mapping such as {{"model_type": "llama", …}}')
    return values


def _checked(values: dict[str, Any], file: Path | str) -> dict[str, Any]:
    new = fields.normalised(values)
    if not new.get("model_type"):
        raise SkipwiseError(f'{file}: model_type is missing; write e.g. "model_type": "llama"')
    try:
        fields.check(new)
    except SkipwiseError as error:
        raise SkipwiseError(f"{file}: {error}") from error
    return new


def foreign(source: Source) -> dict[str, Any] | None:
    """config.json of a checkpoint that is read as another model type; None for any other."""
    root = source.root
    values = None if root.gguf else values_of(root)
    return values if values and values["model_type"] in EQUIVALENTS else None


def read(source: Source) -> PreTrainedConfig:
    """The configuration of a source, with what transformers leaves in a GGUF file's header.

    Raises:
        SkipwiseError: What is written there cannot be a model; the error names the file, the field and its value.
    """
    if source.base is not None and not _file(source):
        return read(source.base)
    if source.gguf:
        config, place = _from_gguf(source), str(source.file)
    else:
        values, place = values_of(source), str(_file(source) or source.place)
        if values["model_type"] in EQUIVALENTS:
            config = call(source, "configuration", lambda *_, **__: equivalents.configuration(values))
        else:
            config = _from_values(source, values)
    try:
        if families.refusal(config) is None:
            fields.check_object(hf_config.language_model(config))
            families.architecture(config)
            hf_config.check_lists(config)
    except SkipwiseError as error:
        raise SkipwiseError(f"{place}: {error}") from error
    return config


def _from_values(source: Source, values: dict[str, Any]) -> PreTrainedConfig:
    if source.options.get("trust_remote_code"):  # code of the repository reads the file itself
        config: PreTrainedConfig = call(source, "configuration", AutoConfig.from_pretrained)
        return config
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(values), encoding="utf-8")
        config = call(source, "configuration", lambda place, **options: AutoConfig.from_pretrained(folder, **options))
    config.name_or_path = source.place
    return config


def _from_gguf(source: Source) -> PreTrainedConfig:
    config: PreTrainedConfig = call(source, "configuration", AutoConfig.from_pretrained)
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
