"""Export to Hugging Face folders: the same model under any spelling of its scaling, a card, a real upload."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GPTNeoXConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen3Config,
)
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from skipwise.cli import main
from skipwise.errors import SkipwiseError
from skipwise.export import hugging_face, legacy_fields
from skipwise.rope import hf_config
from skipwise.rope.scale import scale
from support.sample_run import write_sample_run
from support.tiny import llama_config, tiny_gguf, tiny_llama, tiny_model, tiny_tokenizer

SCALINGS: dict[str, dict[str, Any]] = {
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "beta_slow": 2.5},
    "linear": {"rope_type": "linear", "factor": 4.0},
    "new base": {"rope_type": "default"},
    "llama3": {
        **{"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        **{"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.1},
        **{"short_factor": [1.5] * 8, "long_factor": [1.5] * 8, "short_mscale": 1.1, "long_mscale": 1.1},
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
}
SMALL: dict[str, Any] = {
    **{"vocab_size": 512, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0},
}


def scaled(folder: Path, **parameters: Any) -> PreTrainedConfig:
    """A tiny Llama with these RoPE parameters and a window of 256 in `folder`."""
    parameters = {"rope_theta": 20000.0, **parameters}
    config = llama_config(window=256, rope_parameters=parameters)
    if parameters["rope_type"] == "linear":
        config.original_max_position_embeddings = 64
    tiny_model(config, folder)
    tiny_tokenizer(folder)
    return config


def logits(folder: Path) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.arange(250)[None] % 500).logits


@pytest.mark.parametrize("kind", SCALINGS)
def test_both_spellings_are_written_and_read_the_same(kind: str, tmp_path: Path) -> None:
    parameters = SCALINGS[kind]
    scaled(tmp_path / "model", **parameters)
    hugging_face.to_hf(str(tmp_path / "model"), tmp_path / "out")
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert written["rope_parameters"] == {"rope_theta": 20000.0, **parameters}
    assert written["max_position_embeddings"] == 256
    assert written["rope_theta"] == 20000.0
    assert written["torch_dtype"] == written["dtype"] == "float32"
    if kind == "new base":
        assert "rope_scaling" not in written
    else:
        assert written["rope_scaling"] == {**parameters, "type": parameters["rope_type"]}
    if "original_max_position_embeddings" in parameters:
        assert written["original_max_position_embeddings"] == 64

    read = AutoConfig.from_pretrained(tmp_path / "out")
    expected = {"rope_theta": 20000.0, **parameters}
    assert {key: value for key, value in read.rope_parameters.items() if key != "type"} == expected
    if kind not in ("new base", "dynamic"):
        before, after = (
            ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu", seq_len=250)
            for config in (AutoConfig.from_pretrained(tmp_path / "model"), read)
        )
        assert torch.equal(before[0], after[0])
        assert before[1] == after[1]
    assert torch.equal(logits(tmp_path / "model"), logits(tmp_path / "out"))
    # The older fields alone say the same.
    del written["rope_parameters"]
    old = LlamaConfig.from_dict(written)
    assert {key: value for key, value in old.rope_parameters.items() if key != "type"} == expected


def test_tokenizer_of_an_export(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model", window=64)
    before = AutoTokenizer.from_pretrained(tmp_path / "model")
    before.add_special_tokens({"additional_special_tokens": ["<|tool|>"]})
    before.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    before.save_pretrained(tmp_path / "model")
    hugging_face.to_hf(str(tmp_path / "model"), tmp_path / "out")
    after = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert after.model_max_length == 64
    assert after("one <|tool|> 23")["input_ids"] == before("one <|tool|> 23")["input_ids"]
    assert after.all_special_tokens == before.all_special_tokens
    assert after.chat_template == before.chat_template
    written = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    # transformers 4 knows no other class, and reads a list of special tokens under its own name only.
    assert written["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert written["additional_special_tokens"] == ["<|tool|>"]


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        (Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=16), {"rope_theta": 10000.0}),
        (PhiConfig(**SMALL, partial_rotary_factor=0.5), {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
        (GPTNeoXConfig(**SMALL, rotary_pct=0.5), {"rotary_emb_base": 10000.0, "rotary_pct": 0.5}),
        (
            Gemma3TextConfig(**SMALL, head_dim=16, layer_types=["sliding_attention", "full_attention"]),
            {"rope_theta": 1e6, "rope_local_base_freq": 10000.0},
        ),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)
def test_families_read_their_older_fields_back(config: Any, fields: dict[str, Any], tmp_path: Path) -> None:
    longer = scale(config, "yarn", target_length=256)
    tiny_model(longer, tmp_path / "out")
    before = AutoConfig.from_pretrained(tmp_path / "out")
    assert legacy_fields.add_to_config(tmp_path / "out", longer)
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert {key: written[key] for key in fields} == fields
    assert written["rope_scaling"]["type"] == "yarn"
    after = AutoConfig.from_pretrained(tmp_path / "out")
    assert hf_config.parameters(after) == {**hf_config.parameters(before), "type": "yarn"}


def test_fields_that_would_be_misread_are_left_out(tmp_path: Path) -> None:
    class Odd(LlamaConfig):
        """A family that takes an older field for something else."""

        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            config = super().from_dict(config_dict, **kwargs)
            config.rope_parameters["factor"] = 2.0 if "rope_scaling" in config_dict else 4.0
            return config

    config = scaled(tmp_path / "out", **SCALINGS["yarn"])
    before = (tmp_path / "out/config.json").read_bytes()
    assert not legacy_fields.add_to_config(tmp_path / "out", Odd.from_dict(config.to_dict()))
    assert (tmp_path / "out/config.json").read_bytes() == before


def test_attention_factor_for_older_vllm() -> None:
    found = {**SCALINGS["yarn"], "rope_theta": 1e4, "attention_factor": 1.5}
    fields = legacy_fields.older_fields({"rope_parameters": found})["rope_scaling"]
    assert fields["attn_factor"] == pytest.approx(1.5 / 1.13862943611)  # 0.1 · ln 4 + 1
    assert "attn_factor" not in legacy_fields.older_fields({"rope_parameters": SCALINGS["yarn"]})["rope_scaling"]


def test_a_window_that_only_the_factor_says(tmp_path: Path) -> None:
    """As Qwen writes its YaRN."""
    config = scaled(tmp_path / "model", **SCALINGS["yarn"])
    config.max_position_embeddings = 64
    config.save_pretrained(tmp_path / "model")
    hugging_face.to_hf(str(tmp_path / "model"), tmp_path / "out")
    assert json.loads((tmp_path / "out/config.json").read_text())["max_position_embeddings"] == 256
    assert AutoTokenizer.from_pretrained(tmp_path / "out").model_max_length == 256
    assert torch.equal(logits(tmp_path / "model"), logits(tmp_path / "out"))


def test_dtype_and_shards(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model", hidden=128)
    hugging_face.to_hf(str(tmp_path / "model"), tmp_path / "out", dtype="bfloat16", shard_size="200KB")
    shards = sorted((tmp_path / "out").glob("model-*.safetensors"))
    assert len(shards) > 1
    assert max(shard.stat().st_size for shard in shards) < 250_000
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {shard.name for shard in shards}
    one, other = (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in ("model", "out"))
    assert other.dtype == torch.bfloat16
    for name, value in one.state_dict().items():
        assert torch.equal(value.bfloat16(), other.state_dict()[name])


def test_float16_that_would_overflow(tmp_path: Path) -> None:
    model = tiny_model(llama_config())
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = 70000.0
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    with pytest.raises(SkipwiseError, match=r"up_proj.*beyond float16"):
        hugging_face.to_hf(str(tmp_path / "model"), tmp_path / "out", dtype="float16")
    assert not (tmp_path / "out").exists()
    hugging_face.to_hf(str(tmp_path / "model"), tmp_path / "out", dtype="bfloat16")


def test_card_of_a_run(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "book-32k")
    tiny_llama(run / "model", window=256)
    assert main.main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == "transformers"
    for part in ("How it was made", "perplexity", "accuracy", "n = ", "transformers", "vllm serve", "llama-server"):
        assert part in card, part
    assert "--max-model-len" in card
    assert "30% of the examples are synthetic recall documents" in card
    assert (tmp_path / "out/skipwise.yaml").is_file()
    # The model of a run, named itself, is the same export.
    assert main.main(["export", str(run / "model"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/README.md").read_text() == card
    # An export of an export keeps what is known.
    assert main.main(["export", str(tmp_path / "out"), "--out", str(tmp_path / "third")]) == 0
    assert (tmp_path / "third/README.md").read_text() == card


def test_card_without_a_run(tmp_path: Path) -> None:
    scaled(tmp_path / "mine", **SCALINGS["yarn"])
    hugging_face.to_hf(str(tmp_path / "mine"), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "window of 256 tokens" in card
    assert "scaled from 64 tokens" in card
    assert "not known here" in card


def test_card_of_a_quantised_file(tmp_path: Path) -> None:
    hugging_face.to_hf(str(tiny_gguf(tmp_path / "m.gguf")), tmp_path / "out")
    assert "from `m` (dequantised from Q4_1 GGUF weights)" in (tmp_path / "out/README.md").read_text()


def test_nothing_is_left_where_the_card_cannot_be_written(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run")
    tiny_llama(run / "model", window=256)
    (run / "config.yaml").write_text("target_length: soon\n")
    assert main.main(["export", str(run / "model"), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    # A folder named model beside somebody else's config.yaml is no run.
    (run / "environment.json").unlink()
    assert main.main(["export", str(run / "model"), "--out", str(tmp_path / "out")]) == 0
    assert "not known here" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/x/y"], "no such file or folder"),
        (["MODEL", "--dtype", "int4"], "--dtype int4"),
        (["MODEL", "--dtype", "q8_0"], "--dtype q8_0"),
        (["MODEL", "--shard-size", "big"], "--shard-size"),
        (["MODEL", "--format", "gguf", "--push", "me/it"], "--push"),
        (["RUN"], "no model yet"),
        (["TAKEN"], "is there already"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_llama(tmp_path / "model")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text("target_length: 256\n")
    out = tmp_path / "out"
    if arguments == ["TAKEN"]:
        out.mkdir()
        (out / "thesis.txt").write_text("mine")
        arguments = ["MODEL"]
    named = {"MODEL": str(tmp_path / "model"), "RUN": str(tmp_path / "run")}
    assert main.main(["export", *(named.get(part, part) for part in arguments), "--out", str(out)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert [message in line for line in said if line.startswith("skipwise: ")] == [True]
    assert not out.exists() or [path.name for path in out.iterdir()] == ["thesis.txt"]


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of a hub as an upload of small files needs; what arrives is kept in the server's `seen`."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        seen: dict[str, Any] = self.server.seen  # type: ignore[attr-defined]
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            seen["created"].append(json.loads(body))
            name = seen["created"][-1]["name"]
            answer = {"url": f"{self.server.address}/me/{name}", "name": f"me/{name}"}  # type: ignore[attr-defined]
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    seen["files"][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            address = self.server.address  # type: ignore[attr-defined]
            answer = {"commitUrl": f"{address}/me/longer/commit/{'0' * 40}", "commitOid": "0" * 40}
        text = json.dumps(answer).encode()
        self.send_response(403 if "/models/me/refused" in self.path else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[Any]:
    server: Any = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen = {"files": {}, "created": []}
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_push_uploads_the_folder_and_nothing_without_being_told(hub: Any, tmp_path: Path) -> None:
    """The real client in a real process, against an endpoint on this machine."""
    tiny_llama(tmp_path / "model")
    environment = {"HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_none", "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    runs = [["--out", str(tmp_path / "a")]]
    runs += [["--out", str(tmp_path / name), "--push", f"me/{name}"] for name in ("longer", "refused")]
    code = "import json, sys; from skipwise.cli import main; print([main.main(run) for run in json.loads(sys.argv[1])])"
    command = [sys.executable, "-c", code, json.dumps([["export", str(tmp_path / "model"), *run] for run in runs])]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0, 0, 2]"
    assert f"{hub.address}/me/longer" in done.stdout
    assert "cannot push to 'me/refused'" in done.stderr.splitlines()[-1]
    assert [repo["name"] for repo in hub.seen["created"]] == ["longer", "refused"], "nothing unless told"
    assert all(repo.get("private") or repo.get("visibility") == "private" for repo in hub.seen["created"])
    assert hub.seen["files"] == {path.name: path.read_bytes() for path in (tmp_path / "longer").iterdir()}
    assert (tmp_path / "refused/config.json").is_file()
