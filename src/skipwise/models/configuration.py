"""Read a model's configuration, without torch and without its weights."""

from typing import Any

from transformers import AutoConfig, LlamaConfig, PreTrainedConfig

from skipwise.models import equivalents, gguf_header
from skipwise.models.sources import EQUIVALENTS, Source, call
from skipwise.rope import hf_config


def foreign(source: Source) -> dict[str, Any] | None:
    """config.json of a checkpoint that is read as another model type; None for any other."""
    if source.gguf:
        return None
    values, _ = call(source, "configuration", PreTrainedConfig.get_config_dict)
    return values if values.get("model_type") in EQUIVALENTS else None


def read(source: Source) -> PreTrainedConfig:
    """The configuration as it was saved, with what transformers leaves in a GGUF file's header."""
    values = foreign(source)
    if values is not None:
        twin: PreTrainedConfig = call(source, "configuration", lambda *_, **__: equivalents.configuration(values))
        return twin
    config: PreTrainedConfig = call(source, "configuration", AutoConfig.from_pretrained)
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
