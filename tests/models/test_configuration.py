"""Configurations that are read in another form than they are saved in: the model behind them loads and extends."""

import json
from pathlib import Path

from transformers import Gemma3Config, Phi3Config

from skipwise.config import ModelConfig, ScalingConfig
from skipwise.models.load import load
from support import family_configs
from support.tiny import VOCABULARY, tiny_model, tiny_tokenizer


def test_an_old_phi3_folder_loads_with_tokenizer_and_weights(tmp_path: Path) -> None:
    lists = {"long_factor": [2.0] * 4, "short_factor": [1.0] * 4}
    windows = {"original_max_position_embeddings": 64, "max_position_embeddings": 256, "sliding_window": None}
    carried = {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **lists}}
    sizes = {**family_configs.CONFIGS["phi3"], "vocab_size": VOCABULARY}
    tiny_model(Phi3Config(**{**sizes, **windows, **carried}), tmp_path)
    tiny_tokenizer(tmp_path)
    file = tmp_path / "config.json"
    values = json.loads(file.read_text())
    del values["rope_parameters"]
    old = {"rope_scaling": {"type": "su", **lists}, "rope_theta": 1e4, "max_position_embeddings": 256.0}
    file.write_text(json.dumps({**values, **old}))
    loaded = load(ModelConfig(path=str(tmp_path), device="cpu"))
    assert (loaded.original_length, loaded.window) == (64, 256)
    assert loaded.scaling is not None
    assert loaded.scaling["method"] == "longrope"
    assert loaded.model.config.name_or_path == str(tmp_path)


def test_the_text_part_of_a_multimodal_model_is_extended(tmp_path: Path) -> None:
    sees = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(
        text_config={**family_configs.CONFIGS["gemma3_text"], "vocab_size": VOCABULARY},
        vision_config={**sees, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=4,
        **{"boi_token_index": 500, "eoi_token_index": 501, "image_token_index": 502},
    )
    tiny_model(config, tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    loaded = load(ModelConfig(path=str(tmp_path / "model"), device="cpu"), target_length=256, scaling=ScalingConfig())
    assert (loaded.original_length, loaded.window) == (64, 256)
    loaded.model.save_pretrained(tmp_path / "out")
    text = json.loads((tmp_path / "out/config.json").read_text())["text_config"]
    assert text["max_position_embeddings"] == 256
    assert text["rope_parameters"]["full_attention"]["factor"] == 4.0
    assert text["rope_parameters"]["sliding_attention"]["rope_type"] == "default"
