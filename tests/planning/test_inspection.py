"""`skipwise inspect`: numbers worked out by hand, nothing loaded, JSON that follows its types, a page that opens."""

import json
import math
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from transformers import (
    DeepseekV3Config,
    Gemma3Config,
    LlamaConfig,
    LlavaConfig,
    Ministral3Config,
    MistralConfig,
    Phi3Config,
    Qwen2VLConfig,
    SmolLM3Config,
)

from skipwise.cli import main
from skipwise.config import ModelConfig, ScalingConfig
from skipwise.errors import SkipwiseError
from skipwise.planning.inspection import Facts, critical_pair, facts, inspect
from skipwise.report import inspection_view as shown
from skipwise.report.render import SHEET, render
from skipwise.rope import hf_config, methods
from skipwise.rope.scale import scale
from support import family_configs
from support.tiny import llama_config, tiny_gguf, tiny_llama

MODEL = ModelConfig()


def looked_at(config, target=None, model=MODEL) -> Facts:
    return facts(config, model, target, name="m")


def llama2(**more) -> LlamaConfig:
    return LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, **{
        "max_position_embeddings": 4096, **more})  # fmt: skip


def test_llama2_worked_out_by_hand() -> None:
    found = looked_at(llama2(), 32768)
    assert (found.original_length, found.window, found.factor, found.rotary_dim) == (4096, 4096, 8.0, 128)
    assert found.scaling is None
    # 64 · ln(4096 / 2π) / ln(10000) = 45.03
    assert (found.critical_pair, found.critical_dimension) == (46, 92)
    assert len(found.pairs) == 64
    assert found.pairs[0].wavelength == pytest.approx(6.2832, abs=1e-4)
    assert found.pairs[0].turns == pytest.approx(651.90, abs=0.01)
    assert found.pairs[63].wavelength == pytest.approx(54410, rel=1e-4)  # 2π · 10000^(126/128)
    assert found.pairs[45].turns > 1 > found.pairs[46].turns
    assert (found.kv_bytes_per_token, found.kv_bytes_at_target) == (524_288, 2**34)


@pytest.mark.parametrize(
    ("dim", "theta", "original", "pair"),
    [
        (64, 100_000, 8192, 20),  # SmolLM2
        (128, 500_000, 8192, 35),  # Llama-3-8B; arXiv 2502.20082, table 1, gives 35 and 31 for these two
        (96, 10_000, 2048, 31),  # Phi-3-mini
        (32, 10_000, 256, 7),
        (64, 10_000, 6, 0),
        (64, 10_000, 10**9, 32),
    ],
)
def test_critical_pairs(dim: int, theta: float, original: int, pair: int) -> None:
    assert critical_pair(dim, theta, original) == pair


@given(st.integers(1, 128), st.floats(100, 1e7), st.integers(1, 10**6))
def test_pairs_from_the_critical_one_on_never_turn(pairs: int, theta: float, original: int) -> None:
    turns = original * methods.plain_inv_freq(2 * pairs, theta) / (2 * math.pi)
    first = critical_pair(2 * pairs, theta, original)
    assert (turns[:first] >= 1 - 1e-9).all()
    assert (turns[first:] <= 1 + 1e-9).all()


def test_methods_are_those_of_rope_and_stretch_by_its_frequencies() -> None:
    config = llama_config(window=64)
    found = looked_at(config, 512)
    assert [m.name for m in found.methods] == [
        name for name in get_args(ScalingConfig.model_fields["method"].annotation) if name != "none"
    ]
    plain = hf_config.inv_freq(config)
    by_name = {method.name: method for method in found.methods}
    for name in ("linear", "ntk", "yarn"):
        scaled = hf_config.inv_freq(scale(config, name, target_length=512))
        assert by_name[name].stretch == pytest.approx(plain / scaled)
        assert by_name[name].refused is None
    assert by_name["linear"].stretch == [8.0] * 8
    assert by_name["yarn"].attention_factor == pytest.approx(0.1 * math.log(8) + 1)
    assert by_name["theta"].stretch is None
    assert "new base" in by_name["theta"].refused


def test_a_model_that_was_scaled_is_seen_from_its_original_window() -> None:
    scaled = scale(llama_config(window=64), "yarn", target_length=256)
    found = looked_at(scaled)
    assert (found.window, found.original_length, found.target_length, found.factor) == (256, 64, 1024, 16)
    assert found.scaling["method"] == "yarn"
    assert found.recommendation.scaling == "yarn"
    assert "not scaled twice" in found.recommendation.reasons[0]
    by_name = {method.name: method for method in found.methods}
    assert "scale it twice" in by_name["linear"].refused
    assert by_name["linear"].stretch == [16.0] * 8


def test_layers_out_of_reach_are_told() -> None:
    layers = ["sliding_attention", "full_attention"]
    gemma = Gemma3Config(text_config={"num_hidden_layers": 2, "layer_types": layers, "sliding_window": 512})
    found = looked_at(gemma, 10 * 131072)
    assert (found.sliding_layers, found.sliding_window) == ([0], 512)
    assert any("keep no more than 511 tokens" in note for note in found.notes)
    assert found.kv_bytes_at_target - found.kv_bytes_at_window == found.kv_bytes_per_token * 9 * 131072
    nope = looked_at(SmolLM3Config(num_hidden_layers=4, no_rope_layers=[1, 1, 1, 0]))
    assert nope.nope_layers == [3]
    assert any("1 of 4 layers have no RoPE" in note for note in nope.notes)
    assert any("latent" in note for note in looked_at(DeepseekV3Config(), 10**6).notes)


def test_a_carried_scaling_is_shown_and_recommended_as_it_is_continued() -> None:
    """Llama 3.1 divides by 8, for twice its window by 16, though that is 32 times its original one."""
    own = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    parameters = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, **own}
    found = looked_at(llama_config(window=131_072, head_dim=128, rope_parameters=parameters), 262_144)
    [method] = [method for method in found.methods if method.name == "llama3"]
    assert method.stretch is not None
    assert max(method.stretch) == pytest.approx(16)
    assert found.recommendation is not None
    assert found.recommendation.scaling == "llama3"
    assert "scaling.method=llama3" in found.recommendation.command


def test_what_is_recommended() -> None:
    near, far = (looked_at(llama_config(window=256), target).recommendation for target in (1024, 4096))
    assert (near.scaling, near.sampler, near.chunks, near.train_length) == ("yarn", "pose", 2, 256)
    assert (far.scaling, far.chunks) == ("critical", 3)
    assert (
        "stretches 5 of 8 pairs" in far.reasons[0]
    )  # 2.75 turns in 256 tokens: pair 8·ln(256/(2π·2.75))/ln 10,000 = 2.3
    assert "once in 3,841 examples with 2 chunks" in far.reasons[-1]
    command = "skipwise extend --model bundled --target 4k --data TEXTS"
    assert far.command == f"{command} --set scaling.method=critical --set positions.chunks=3"
    carried = looked_at(scale(llama_config(window=64), "yarn", target_length=256), 64 * 16).recommendation
    assert carried.scaling == "yarn"
    phi = looked_at(Phi3Config(pad_token_id=0), 32768)  # whose code takes no yarn
    assert phi.recommendation.scaling == "ntk"
    assert any(reason.startswith("yarn is not possible here") for reason in phi.recommendation.reasons)
    assert "scaling.method=ntk" in phi.recommendation.command


def test_the_recommended_command_is_for_the_model_as_it_was_given() -> None:
    model = ModelConfig(path="a b", original_length=128, revision="v 2")
    assert looked_at(llama_config(window=256), 1024, model).recommendation.command == (
        "skipwise extend --model 'a b' --target 1k --data TEXTS "
        "--set 'model.revision=v 2' --set model.original_length=128"
    )
    bare = looked_at(llama_config(window=256), 1024, ModelConfig(path="x/config.json")).recommendation
    assert bare.command == "skipwise extend --model MODEL --target 1k --data TEXTS"


def test_a_broken_configuration_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(SkipwiseError, match="cannot read the configuration") as caught:
        inspect(ModelConfig(path=str(tmp_path / "config.json")))
    assert "hub id" not in str(caught.value)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """The configuration of a model of 405 billion parameters, and nothing else."""
    config = LlamaConfig(hidden_size=16384, num_hidden_layers=126, num_attention_heads=128, num_key_value_heads=8,
                         intermediate_size=53248, max_position_embeddings=8192, dtype="bfloat16")  # fmt: skip
    config.save_pretrained(tmp_path / "large")
    return tmp_path / "large"


@pytest.mark.parametrize("bare", [False, True])
def test_a_configuration_is_enough(large: Path, bare: bool, capsys: pytest.CaptureFixture[str]) -> None:
    path = large / "config.json" if bare else large
    assert main.main(["inspect", str(path), "--target", "32k", "--json"]) == 0
    found = TypeAdapter(Facts).validate_json(capsys.readouterr().out, strict=True)
    assert (found.model, found.kv_bytes_per_token, found.dtype) == ("large", 126 * 2 * 8 * 128 * 2, "bfloat16")
    assert found == inspect(ModelConfig(path=str(path)), 32768)
    assert set(asdict(found)) == set(Facts.__dataclass_fields__)


def test_a_gguf_file_and_a_broken_weight_file(tmp_path: Path) -> None:
    header = inspect(ModelConfig(path=str(tiny_gguf(tmp_path / "m.gguf"))))
    assert (header.model, header.window, header.dtype) == ("m", 64, "bfloat16")
    folder = tiny_llama(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(b"never read")
    found = inspect(ModelConfig(path=str(folder)))
    assert (found.dtype, found.kv_bytes_per_token) == ("float32", 2 * header.kv_bytes_per_token)
    assert found.pairs == header.pairs


def test_the_text_starts_with_window_recommendation_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["inspect", "bundled", "--target", "4k", "--table"]) == 0
    lines = capsys.readouterr().out.splitlines()
    labels = [line[:18].strip() for line in lines if line[:18].strip()]
    assert labels[:7] == ["model", "window", "read from", "target", "recommended", "command", "because"]
    [command] = [line for line in lines if line.startswith("command")]
    assert command.endswith("--set positions.chunks=3")
    assert max(len(line) for line in lines if line != command) <= 120
    assert any("8.39 MB at 4k" in line for line in lines)
    table = lines[lines.index("") :]
    table = table[table.index("", 1) + 1 :]
    assert table[0].split()[:5] == ["pair", "wavelength", "turns", "linear", "ntk"]
    assert [line.split()[0] for line in table[1:14]] == [str(pair) for pair in range(13)]
    assert table[14].startswith("--- no full turn in 256 tokens")
    assert main.main(["inspect", "bundled", "--target", "4k"]) == 0
    assert "wavelength" not in capsys.readouterr().out


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "phi3", "deepseek_v3", "qwen2", "stablelm"])
def test_the_command_line_reads_a_configuration_without_torch_and_the_same(family: str, tmp_path: Path) -> None:
    """torch takes most of the start-up, so the command leaves it out; the facts stay those of a process that has it."""
    family_configs.config(family, dtype="bfloat16").save_pretrained(tmp_path)
    code = "import sys; from skipwise.cli.main import main; main(); assert sys.modules['torch'] is None"
    command = [sys.executable, "-c", code, "inspect", str(tmp_path), "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads(done.stdout) == json.loads(json.dumps(asdict(inspect(ModelConfig(path=str(tmp_path))))))


def test_a_window_is_read_as_the_file_lets_it_be(tmp_path: Path) -> None:
    """`linear` ×4: is max_position_embeddings the window before the scaling or after it?"""
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    before = looked_at(llama_config(window=4096, rope_parameters=linear, max_sequence_length=16_384))
    assert (before.original_length, before.window, before.target_length) == (4096, 16_384, 65_536)
    assert "max_sequence_length 16,384 differ by the factor 4" in before.reading[0]
    assert before.reading[-1].endswith("--set model.original_length=LENGTH")
    assert before.recommendation is not None
    assert before.recommendation.scaling == "linear"
    after = looked_at(llama_config(window=16_384, rope_parameters=linear, seq_length=4096))
    assert (after.original_length, after.window) == (4096, 16_384)
    unknown = looked_at(llama_config(window=16_384, rope_parameters=linear, max_seq_len=2048))
    assert (unknown.original_length, unknown.window) == (16_384, 16_384)
    assert "does not say the window before it" in unknown.reading[0]
    assert unknown.reading[1] == "the file also has max_seq_len 2,048, which nothing here is read from"
    given = looked_at(llama_config(window=16_384, rope_parameters=linear), model=ModelConfig(original_length=4096))
    assert given.reading == ["the original window is 4,096 tokens, as model.original_length says"]
    assert "max_position_embeddings says" in looked_at(llama_config(window=64)).reading[0]
    chunks = {"chunk_size": 32_768, "original_max_position_embeddings": 32_768}
    dual = looked_at(llama_config(window=131_072, dual_chunk_attention_config=chunks))
    assert (dual.original_length, dual.window) == (32_768, 131_072)
    assert dual.reading[0] == "dual_chunk_attention_config says that the model was trained on 32,768 tokens"


def test_a_multimodal_model_is_not_called_plain() -> None:
    sections = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]}
    text = looked_at(llama_config(window=64, rope_parameters=sections))
    assert text.rotation.startswith("multimodal RoPE (mrope): 4, 2, 2 pairs follow time, height and width")
    with pytest.raises(SkipwiseError, match=r"multimodal model that .* \(its text part: plain RoPE\)"):
        looked_at(Qwen2VLConfig())
    with pytest.raises(SkipwiseError, match="save its text part, of model type 'llama', as a checkpoint of its own"):
        looked_at(LlavaConfig())
    gemma = looked_at(Gemma3Config(), 10 * 131_072)
    assert gemma.rotation.startswith("its text part: plain RoPE")


def test_a_model_whose_layers_all_slide_is_not_extended_in_silence() -> None:
    slides = MistralConfig(sliding_window=4096, max_position_embeddings=32_768)
    found = looked_at(slides, 131_072)
    assert found.recommendation is None
    assert found.refusal is not None
    assert "every layer of this model attends within 4,096 tokens" in found.refusal
    assert 'write "sliding_window": null into config.json and add --set model.original_length=4096' in found.refusal
    assert "not possible" in shown.text(found)
    assert looked_at(MistralConfig(sliding_window=None), 10**6).refusal is None
    farther = looked_at(MistralConfig(sliding_window=65_536, max_position_embeddings=32_768), 131_072)
    assert farther.refusal is None
    assert "a window of 131,072 reaches no farther back" in farther.notes[0]
    wide = looked_at(MistralConfig(sliding_window=262_144, max_position_embeddings=32_768), 131_072)
    assert wide.refusal is None


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"dual_chunk_attention_config": {"chunk_size": 262_144}}, "dual chunk attention"),
        ({"attention_chunk_size": 8192}, "attention_chunk_size 8,192, which transformers does not use here"),
        ({"attn_temperature_tuning": True}, "attention whose temperature grows"),
        ({"use_logn_attn": True}, "use_logn_attn"),
        ({"index_topk": 2048}, "sparse attention"),
    ],
)
def test_other_ways_to_a_long_window_are_named(fields: dict[str, Any], note: str) -> None:
    assert any(note in line for line in looked_at(llama_config(window=64, **fields)).notes)


def test_ministral3_keeps_the_window_that_its_queries_are_scaled_by() -> None:
    config = Ministral3Config(max_position_embeddings=262_144)
    assert any("1 + 0.1·ln" in line for line in looked_at(config).notes)
    scaled = scale(config, "yarn", target_length=2**20)
    parameters = hf_config.parameters(scaled)
    assert (parameters["original_max_position_embeddings"], parameters["llama_4_scaling_beta"]) == (16_384, 0.1)
    assert parameters["max_position_embeddings"] == 2**20
    plain = Ministral3Config(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "llama_4_scaling_beta": 0.1})
    with pytest.raises(SkipwiseError, match="which 'ntk' does not keep; use yarn"):
        scale(plain, "ntk", target_length=2**20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bundled", "--target", "256"], "not beyond the model's original window of 256"),
        (["bundled", "--target", "lots"], "expected a number of tokens"),
        (["bundled", "--set", "training.steps=3"], "expected model.KEY=VALUE"),
        (["bundled", "--set", "model.lenth=3"], "unknown key"),
        (["no/such/folder"], "no such file or folder"),
        (["bundled", "--html", "/dev/null/page.html"], "cannot write /dev/null/page.html"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["inspect", *arguments]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_a_model_without_rope_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 2}))
    with pytest.raises(SkipwiseError, match="no RoPE"):
        inspect(ModelConfig(path=str(tmp_path)))


def test_the_page_holds_the_facts_and_nothing_from_outside() -> None:
    found = looked_at(llama_config(window=64))
    page = render(shown.page(found), SHEET, "inspect")
    assert "<title>Skipwise inspect: m: from 64 to 256 tokens</title>" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    data = shown.page(found)
    charts = data["sections"][1]["charts"]
    assert [line["name"] for line in charts[1]["series"]] == [m.name for m in found.methods if m.stretch]
    assert charts[0]["series"][1]["points"][3][1] == pytest.approx(found.pairs[3].wavelength * 4)
    styles = [(line["colour"], line["dash"]) for line in charts[1]["series"]]
    assert len({colour for colour, _ in styles}) == len(styles) >= 7
    assert found.recommendation is not None
    marked = [line["name"] for line in charts[1]["series"] if line.get("note") == "recommended" and line.get("wide")]
    assert marked == [found.recommendation.scaling]


CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


@pytest.mark.skipif(CHROMIUM is None, reason="no browser: install chromium or google-chrome")
def test_the_page_opens_in_a_browser(tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    assert main.main(["inspect", "bundled", "--html", str(tmp_path / "page.html")]) == 0
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page, problems = browser.new_page(), []
        page.on("console", lambda m: problems.append(m.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((tmp_path / "page.html").as_uri())
        page.locator("#pairs .plot > svg").nth(1).wait_for()
        known = [m.name for m in inspect(MODEL).methods if m.stretch]
        stretched = page.locator("#pairs .chart").nth(1).locator(".series")
        assert [line.get_attribute("data-series") for line in stretched.all()] == known
        # Each method has a colour of its own that the style sheet knows, and the recommended one is named.
        strokes = stretched.locator(".line").evaluate_all("all => all.map((line) => getComputedStyle(line).stroke)")
        assert len(set(strokes)) == len(known)
        assert page.locator("#pairs .key", has_text="(recommended)").count() == 2
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.locator("#advice .copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()").startswith("skipwise extend --model bundled")
        page.locator("#pairs .key", has_text="ntk").last.click()
        assert stretched.count() == len(known) - 1
        assert page.locator("#numbers tbody tr").count() == 32
        colours = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            colours.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert colours[0] != colours[1]
        page.set_viewport_size({"width": 360, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        command = page.locator("#advice pre")
        assert command.evaluate("pre => pre.scrollWidth <= pre.clientWidth")
        assert problems == []
        browser.close()
