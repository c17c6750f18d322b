"""Verifying exports: what is whole passes, and each check fails when the thing it names is broken."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from skipwise.cli import main
from skipwise.config import RunConfig, dump_yaml, validate
from skipwise.export import hugging_face, verify, verify_process
from skipwise.rope import hf_config
from skipwise.rope.scale import scale
from support import family_configs
from support.tiny import llama_config, tiny_llama, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of no steps: its configuration, the base that it names, and its model, scaled from 64 to 256 tokens."""
    folder = tmp_path_factory.mktemp("verify")
    base = tiny_llama(folder / "base", window=64)
    recipe = {"target_length": 256, "model": {"path": str(base)}, "scaling": {"method": "yarn"}}
    recipe["training"] = {"train_length": 64, "steps": 0}
    (folder / "run").mkdir()
    dump_yaml(validate(RunConfig, recipe), folder / "run/config.yaml")
    (folder / "run/environment.json").write_text('{"original_length": 64, "device": "none"}')
    scaled = scale(llama_config(window=64), "yarn", target_length=256)
    tiny_model(scaled, folder / "scaled")
    tiny_tokenizer(folder / "scaled")
    hugging_face.to_hf(str(folder / "scaled"), folder / "run/model")
    return folder / "run"


@pytest.fixture
def exported(run: Path, tmp_path: Path) -> Path:
    return hugging_face.to_hf(str(run), tmp_path / "exported")


def here(path: Path, **options: Any) -> list[verify.Check]:
    """Verify with the request answered in this process, which saves seconds."""
    return verify.verify(str(path), ask=verify_process.answer, **options)


def states(checks: list[verify.Check]) -> dict[str, str]:
    return {check.name: check.state for check in checks}


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    saved = json.loads(path.read_text())
    edit(saved)
    path.write_text(json.dumps(saved))


GOOD = {
    "loads without Skipwise": "ok",
    "window": "ok",
    "both RoPE spellings": "ok",
    "head": "ok",
    "frequencies of the training": "ok",
    "logits at short positions": "ok",
    "logits at long positions": "ok",
    "passkey at the target": "failed",  # random weights find nothing
}


def test_a_whole_export(run: Path, exported: Path) -> None:
    checks = here(exported, against=str(run))
    assert states(checks) == GOOD
    said = {check.name: check.detail for check in checks}
    assert said["window"] == "configuration 256, tokenizer 256, recipe 256"
    assert said["head"] == "the embedding, tie_word_embeddings is true"
    assert "the recipe on" in said["frequencies of the training"]
    assert said["passkey at the target"].startswith("0 of 4 found in prompts of ")


@pytest.mark.parametrize(
    ("broken", "edit"),
    [
        ({"both RoPE spellings"}, lambda saved: saved["rope_scaling"].pop("type")),
        ({"both RoPE spellings"}, lambda saved: saved.pop("rope_theta")),
        ({"both RoPE spellings"}, lambda saved: saved.pop("rope_parameters")),
        ({"window"}, lambda saved: saved.update(max_position_embeddings=128)),
        (
            {"frequencies of the training", "logits at short positions", "logits at long positions"},
            lambda saved: (saved["rope_parameters"].update(rope_theta=5e3), saved.update(rope_theta=5e3)),
        ),
        (
            {"frequencies of the training", "logits at short positions", "logits at long positions"},
            lambda saved: (
                [saved[key].update(original_max_position_embeddings=32) for key in ("rope_parameters", "rope_scaling")]
                + [saved.update(original_max_position_embeddings=32)]
            ),
        ),
    ],
    ids=["type", "theta", "new spelling", "window", "another base", "another original window"],
)
def test_broken_configurations(broken: set[str], edit: Callable[..., Any], run: Path, exported: Path) -> None:
    change(exported / "config.json", edit)
    found = states(here(exported, against=str(run)))
    assert {name for name, state in found.items() if state == "failed"} - {"passkey at the target"} == broken


def test_other_weights_and_tokenizer(run: Path, exported: Path) -> None:
    weights = load_file(exported / "model.safetensors")
    weights["model.layers.0.self_attn.q_proj.weight"] *= 1.01
    save_file(weights, exported / "model.safetensors", metadata={"format": "pt"})
    change(exported / "tokenizer_config.json", lambda saved: saved.update(model_max_length=64))
    found = states(here(exported, against=str(run)))
    assert found == {
        **GOOD, "window": "failed", "logits at short positions": "failed", "logits at long positions": "failed"
    }  # fmt: skip


def test_weights_in_another_dtype(run: Path, tmp_path: Path) -> None:
    out = hugging_face.to_hf(str(run), tmp_path / "out", dtype="bfloat16")
    checks = here(out, against=str(run))
    assert states(checks) == GOOD
    assert "0.05 is allowed" in next(check.detail for check in checks if check.name.startswith("logits"))


def test_what_does_not_load(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (exported / "model.safetensors").write_bytes(b"not weights")
    assert main.main(["verify", str(exported), "--json"]) == 1
    (check,) = json.loads(capsys.readouterr().out)
    assert (check["name"], check["state"]) == ("loads without Skipwise", "failed")
    assert "safetensors" in check["detail"].lower()


def test_nothing_to_compare_with(exported: Path) -> None:
    (exported / "skipwise.yaml").unlink()
    found = states(here(exported))
    assert found["logits at long positions"] == "skipped"
    assert found["frequencies"] == "ok"


def test_a_folder_cannot_ask_for_code_to_be_run(exported: Path, tmp_path: Path) -> None:
    base, mark = tiny_llama(tmp_path / "base", window=64), tmp_path / "ran"
    (base / "own.py").write_text(f"open({str(mark)!r}, 'w')\nfrom transformers import LlamaConfig\n")
    change(base / "config.json", lambda saved: saved.update(auto_map={"AutoConfig": "own.LlamaConfig"}))
    recipe = yaml.safe_load((exported / "skipwise.yaml").read_text())
    recipe["model"] |= {"path": str(base), "trust_remote_code": True}
    (exported / "skipwise.yaml").write_text(yaml.safe_dump(recipe))
    assert states(here(exported))["frequencies of the training"] == "ok"
    assert not mark.exists()


def test_factors_on_cos_and_sin_by_layer_type(tmp_path: Path) -> None:
    config = scale(family_configs.config("gemma3_text", vocab_size=512), "yarn", target_length=256)
    tiny_model(config, tmp_path / "model")
    tiny_tokenizer(tmp_path / "model")
    seen: dict[str, Any] = {}

    def ask(at: Path) -> None:
        verify_process.answer(at)
        seen.update(json.loads(at.with_name("facts.json").read_text()))

    checks = verify.verify(str(tmp_path / "model"), ask=ask)
    assert seen["attention_scaling"] == [pytest.approx(hf_config.attention_factor(config))]
    assert states(checks)["frequencies"] == "ok"


@pytest.mark.parametrize("what", ["frequencies", "attention_scaling"])
def test_a_model_that_does_not_show_its_rope(what: str, exported: Path) -> None:
    def ask(at: Path) -> None:
        verify_process.answer(at)
        change(at.with_name("facts.json"), lambda facts: facts[what].clear())

    assert states(verify.verify(str(exported), ask=ask))["frequencies of the training"] == "failed"


def test_a_run_is_its_own_reference(run: Path) -> None:
    assert states(here(run)) == GOOD


def test_the_packaged_model_passes_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It finds every passkey within its own window; unscaled, it is an export like any other."""
    assert main.main(["export", "bundled", "--out", str(tmp_path / "out")]) == 0
    assert main.main(["verify", str(tmp_path / "out"), "--against", "bundled"]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 found" in printed
    assert "failed" not in printed
    assert "skipped" not in printed


# A checkpoint of which no run is known -----------------------------------------------------------------------------

ORDINARY = {
    "loads without Skipwise": "ok",
    "window": "ok",
    "both RoPE spellings": "ok",
    "head": "ok",
    "frequencies": "ok",
    "logits at short positions": "skipped",
    "logits at long positions": "skipped",
    "passkey at the target": "noted",  # random weights find nothing, and nothing says that they should
}


def test_an_ordinary_checkpoint_does_not_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As transformers 5 saves it: one spelling, and no limit in the tokenizer."""
    folder = tiny_llama(tmp_path / "model", window=256, rope_parameters=YARN)
    assert states(here(folder)) == {**ORDINARY, "both RoPE spellings": "noted"}
    assert main.main(["verify", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "configuration 256, tokenizer without a limit" in printed
    assert "failed" not in printed


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}


def test_a_checkpoint_of_older_transformers_does_not_fail(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", window=256, rope_parameters=YARN)
    change(
        folder / "config.json",
        lambda saved: saved.update(
            rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
            rope_theta=saved.pop("rope_parameters")["rope_theta"],
        ),
    )
    assert states(here(folder)) == ORDINARY


def test_an_export_of_an_ordinary_checkpoint_does_not_fail(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", window=256, rope_parameters=YARN)
    assert states(here(hugging_face.to_hf(str(folder), tmp_path / "out"))) == ORDINARY


def test_a_tokenizer_with_another_limit_is_noted(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", window=256)
    change(folder / "tokenizer_config.json", lambda saved: saved.update(model_max_length=64))
    assert states(here(folder))["window"] == "noted"


def test_spellings_that_disagree_fail_anywhere(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "model", window=256, rope_parameters=YARN)
    change(folder / "config.json", lambda saved: saved.update(rope_theta=5e5))
    assert states(here(folder))["both RoPE spellings"] == "failed"


def test_a_window_that_holds_no_passkey(tmp_path: Path) -> None:
    checks = here(tiny_llama(tmp_path / "model", window=64))
    (check,) = [check for check in checks if check.name == "passkey at the target"]
    assert check.state == "skipped"
    assert check.detail.startswith("the window does not hold a passkey prompt, which takes 162 tokens")


# Weights that loaders would read differently ------------------------------------------------------------------------


def change_weights(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_head_that_older_loaders_would_lose(exported: Path, run: Path) -> None:
    change_weights(exported, lambda held: held.update({"lm_head.weight": 2 * held["model.embed_tokens.weight"]}))
    checks = here(exported, against=str(run))
    (check,) = [check for check in checks if check.name == "head"]
    assert check.state == "failed"
    assert "older loaders would put the embedding in its place; write false in config.json" in check.detail
    change(exported / "config.json", lambda saved: saved.update(tie_word_embeddings=False))
    (check,) = [check for check in here(exported) if check.name == "head"]
    assert (check.state, check.detail) == ("ok", "its own, tie_word_embeddings is false")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda held: held.pop("model.norm.weight"), "lacks 1 weights of its model, e.g. model.norm.weight"),
        (lambda held: held.update({"model.layers.7.x": held["model.norm.weight"] + 0}), "the file has layer 7"),
        (lambda held: held["model.norm.weight"].fill_(float("nan")), "its logits are not finite numbers"),
    ],
)
def test_weights_that_are_not_those_of_the_model(edit: Callable[..., Any], reason: str, exported: Path) -> None:
    change_weights(exported, edit)
    checks = here(exported)
    assert checks[0].state == "failed"
    assert reason in checks[0].detail


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere/x/y"], "no such file or folder"),
        (["GGUF"], "is a file: expected a Hugging Face folder"),
        (["RUN/config.yaml"], "is a file: expected a Hugging Face folder"),
        (["RUN/model/config.json"], "is a file: expected a Hugging Face folder"),
        (["RUN", "--length", "some"], "--length some"),
        (["RUN", "--length", "5"], "--length 5: expected tokens from 162"),
        (["RUN", "--length", "257"], ", to 256, the model's window"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = hugging_face.to_gguf(str(run), tmp_path / "a.gguf")
    assert main.main(["verify", *(part.replace("RUN", str(run)).replace("GGUF", str(file)) for part in arguments)]) == 2
    assert message in capsys.readouterr().err


def test_a_window_without_room_for_a_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_llama(tmp_path / "model", window=64)
    assert main.main(["verify", str(model), "--length", "64"]) == 2
    assert "the model's window of 64 tokens holds no passkey prompt, which takes 162" in capsys.readouterr().err
