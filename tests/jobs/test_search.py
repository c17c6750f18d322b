"""The search of RoPE factors: lists that never decrease, the same result after an interruption, a file that is used."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from skipwise.cli import main
from skipwise.config import ModelConfig, ScalingConfig, SearchConfig
from skipwise.data.recall_documents import Recall
from skipwise.errors import SkipwiseError
from skipwise.jobs import search
from skipwise.models.forward import token_nll
from skipwise.models.load import load
from skipwise.rope import evolution, hf_config, methods
from skipwise.utils.atomic_files import read_jsonl
from support.tiny import tiny_llama, tiny_tokenizer

SMALL = {"population": 7, "generations": 2, "parents": 4, "mutations": 3, "crossovers": 2}
TARGET = 96


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("search")
    tiny_llama(root / "model", window=32)
    words = np.random.default_rng(0).choice(["def", "return", "the ", "args", "\n", "(self)", "= ", "help "], size=2000)
    (root / "long.txt").write_text(" ".join(words))
    return root


def run(folder: Path, out: Path, **settings) -> dict[str, Any]:
    data = [str(folder / "long.txt")]
    config = SearchConfig(**{**SMALL, "documents": 1, "depths": 2, "step": 0.05, **settings})
    at = ModelConfig(path=str(folder / "model"), precision="float32", device="cpu")
    return search.search(at, config, target_length=TARGET, data=data, out=out)


# Evolution ---------------------------------------------------------------------------------------------------------


def distance(goal: np.ndarray):
    return lambda factors: float(((np.array(factors) - goal) ** 2).sum())


def test_children_never_decrease_and_stay_within_bounds():
    parent, other = (1.0, 1.0, 1.7, 4.0, 4.0), (1.0, 1.2, 2.0, 3.0, 4.4)
    mutations = {evolution.mutated(np.random.default_rng(i), parent, 5.0, 0.5, 0.01) for i in range(500)}
    crossings = {evolution.crossed(np.random.default_rng(i), parent, other, 0.5) for i in range(200)}
    for child in [*mutations, *crossings]:
        assert child is not None
        assert all(np.diff(child) >= 0)
        assert child[0] >= 1
        assert child[-1] <= 5.0
    assert len(mutations) > 300
    assert {factors[-1] for factors in mutations if factors[-1] > 4.9}, "the upper bound is reached"
    assert all(set(child) <= {*parent, *other} for child in crossings)
    assert evolution.crossed(np.random.default_rng(0), parent, parent, 0.5) is None


def test_evolution_finds_a_known_optimum():
    goal = np.array([1.0, 1.1, 1.5, 2.2, 3.0, 3.3])
    settings = SearchConfig(population=20, generations=60, parents=8, mutations=10, crossovers=10)
    start = (1.0, 1.0, 1.0, 4.0, 4.0, 4.0)
    tried = evolution.evolve([start], settings, 5.0, distance(goal))
    assert tried[0].value < 0.02 < distance(goal)(start)
    assert [each.value for each in tried] == sorted(each.value for each in tried)
    assert len({each.factors for each in tried}) == len(tried) <= evolution.count(settings)


def test_evolution_is_a_function_of_its_seed():
    def once(seed: int) -> list[evolution.Tried]:
        return evolution.evolve([(1.0, 2.0, 4.0)], SearchConfig(**SMALL, seed=seed), 5.0, distance(np.arange(1, 4)))

    assert once(0) == once(0)
    assert once(0) != once(1)


def test_seeds_are_scored_however_small_the_population():
    seeds = [(1.0, 2.0), (1.0, 3.0), (2.0, 2.0)]
    tried = evolution.evolve(seeds, SearchConfig(population=1, generations=0), 5.0, lambda factors: factors[1])
    assert [each.factors for each in tried] == [(1.0, 2.0), (2.0, 2.0), (1.0, 3.0)]


# Fitness -----------------------------------------------------------------------------------------------------------


def test_a_list_is_judged_as_the_model_loaded_with_it(folder):
    at = ModelConfig(path=str(folder / "model"), precision="float32", device="cpu")
    loaded = load(at)
    example = search.Example(np.arange(100) % 500, 7)
    judge = search.Judge(loaded, TARGET, None, None, [example, search.Example(np.arange(90) % 400, 89)])
    factors = tuple(np.linspace(1, 4, 8).tolist())
    judge.loss((2.0,) * 8)  # whatever was judged before leaves no trace
    scaling = ScalingConfig(method="longrope", factors=list(factors))
    fresh = load(at, scaling=scaling, target_length=TARGET)
    import torch

    first, second = (token_nll(fresh.model, torch.from_numpy(e.ids)[None])[0] for e in judge.examples)
    assert judge.loss(factors) == pytest.approx((first[-7:].sum() + second.sum()).item() / 96, rel=1e-6)


def test_answers_are_what_is_scored(folder):
    tokenizer = tiny_tokenizer(folder / "tokenizer")
    documents = [("a", np.arange(1000) % 250 + 5), ("b", np.arange(1000) % 200 + 9)]
    settings = SearchConfig(fitness="answers", depths=3)
    examples = search.make_examples(tokenizer, documents, settings, 900)
    assert len(examples) == 6
    for i, example in enumerate(examples):
        assert len(example.ids) == 900
        text = tokenizer.decode(example.ids)
        answer = tokenizer.decode(example.ids[-example.scored :]).strip()
        assert answer.isdigit()
        assert len(answer) == 5
        assert text.endswith(f" is {answer}")
        place = text.index(f" is {answer}.") / len(text)
        assert place == pytest.approx((i % 3 + 0.5) / 3, abs=0.07)
    again = search.make_examples(tokenizer, documents, settings, 900)
    assert all(np.array_equal(one.ids, other.ids) for one, other in zip(examples, again, strict=True))
    with pytest.raises(SkipwiseError, match="10 tokens do not hold a hidden fact and a question"):
        search.make_examples(tokenizer, documents, settings, 11)


def test_a_needle_keeps_the_text_around_it(folder):
    recall, filler = Recall(tiny_tokenizer(folder / "tokenizer")), np.arange(400) % 77 + 300
    ids, answer = recall.needle(np.random.default_rng(0), filler, 300, 0.5)
    text = ids.tolist()
    start = next(i for i in range(300) if text[i] != filler[i])
    rest = filler[start : start + 40].tolist()
    assert any(text[i : i + 40] == rest for i in range(start, 300)), "the filler goes on after the fact"
    assert answer < 8


# The search --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fitness", ["perplexity", "answers"])
def test_a_search_finds_factors_that_a_model_is_scaled_with(folder, tmp_path, fitness):
    found = run(folder, tmp_path / "factors.json", fitness=fitness)
    assert json.loads((tmp_path / "factors.json").read_text()) == found
    assert found["perplexity"] <= min(found["perplexity_of_seeds"].values())
    assert set(found["perplexity_of_seeds"]) == {"yarn", "yarn_revised", "critical", "llama3", "linear", "ntk"}
    assert all(np.diff(found["factors"]) >= 0)
    config = ScalingConfig.model_validate({"method": "longrope", "factors": str(tmp_path / "factors.json")})
    at = ModelConfig(path=str(folder / "model"), precision="float32", device="cpu")
    loaded = load(at, scaling=config, target_length=TARGET)
    np.testing.assert_allclose(hf_config.factors(loaded.model.config), found["factors"])
    assert hf_config.attention_factor(loaded.model.config) == pytest.approx(found["attention_factor"])


def test_an_interrupted_search_finds_what_it_would_have_found(folder, tmp_path, monkeypatch):
    whole = run(folder, tmp_path / "whole.json")
    judged = []
    own = search.Judge.loss

    def stopping(judge: search.Judge, factors: evolution.Factors) -> float:
        judged.append(factors)
        if len(judged) == 10:
            raise KeyboardInterrupt
        return own(judge, factors)

    monkeypatch.setattr(search.Judge, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path / "parts.json")
    assert not (tmp_path / "parts.json").exists()
    state = tmp_path / "parts.json.search.jsonl"
    assert len(read_jsonl(state)) == 1 + 9
    state.write_text(state.read_text() + '{"factors": [1.0, 1.')  # what a killed process was writing
    assert run(folder, tmp_path / "parts.json") == whole
    assert len(judged) == 10 + whole["candidates"] - 9, "nothing is judged twice"
    assert read_jsonl(state) == read_jsonl(tmp_path / "whole.json.search.jsonl")
    assert run(folder, tmp_path / "parts.json") == whole
    assert len(judged) == 10 + whole["candidates"] - 9


def test_more_generations_go_on_with_a_finished_search(folder, tmp_path):
    short = run(folder, tmp_path / "factors.json", generations=1)
    longer = run(folder, tmp_path / "factors.json", generations=2)
    assert longer["candidates"] > short["candidates"]
    assert longer["factors"] == run(folder, tmp_path / "direct.json", generations=2)["factors"]


def test_another_search_in_the_same_file_is_refused(folder, tmp_path):
    run(folder, tmp_path / "factors.json", generations=0)
    with pytest.raises(SkipwiseError, match=r"holds a search with another search: .*'seed': 0.*; give another --out"):
        run(folder, tmp_path / "factors.json", generations=0, seed=1)


def test_a_model_that_carries_a_scaling_starts_from_it(tmp_path, folder):
    yarn = methods.Yarn().to_hf(16, 1e4, 32, 128)
    tiny_llama(tmp_path / "model", window=128, rope_parameters=yarn)
    loaded = load(ModelConfig(path=str(tmp_path / "model"), precision="float32", device="cpu"))
    carried = search.seeds(loaded.model.config, 512)["carried"]
    grown = hf_config.factors(loaded.model.config) ** 2  # factor 4 to factor 16
    np.testing.assert_allclose(carried, np.maximum.accumulate(grown), rtol=1e-6)
    with pytest.raises(SkipwiseError, match=r"target_length \(32\) must be above the original window"):
        search.seeds(loaded.model.config, 32)


def test_a_list_that_grows_beyond_what_is_tried_is_cut(tmp_path, folder):
    lists = {"short_factor": [8.0] * 8, "long_factor": [8.0] * 8, "attention_factor": 1.0}
    told = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32}
    tiny_llama(tmp_path / "model", window=128, rope_parameters={**told, **lists})
    loaded = load(ModelConfig(path=str(tmp_path / "model"), precision="float32", device="cpu"))
    carried, most = search.seeds(loaded.model.config, TARGET)["carried"], search.MOST * TARGET / 32
    assert carried == (most,) * 8  # 8 to the power of ln 3 / ln 4 is 5.2
    tried = evolution.evolve([carried], SearchConfig(**SMALL), most, lambda factors: factors[-1])
    assert tried[0].value <= most


def test_a_window_that_is_not_known_is_asked_for(tmp_path, folder):
    linear = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    tiny_llama(tmp_path / "model", window=64, rope_parameters=linear)
    shutil.copy(folder / "long.txt", tmp_path)
    with pytest.raises(SkipwiseError, match=r"does not say from which window; give model\.original_length"):
        run(tmp_path, tmp_path / "factors.json")


# The command line --------------------------------------------------------------------------------------------------


def test_the_command_prints_seeds_and_result(folder, tmp_path, capsys):
    sets = [f"search.{key}={value}" for key, value in {**SMALL, "generations": 1, "documents": 1}.items()]
    given = [text for each in [*sets, "model.precision=float32"] for text in ("--set", each)]
    out = tmp_path / "factors.json"
    command = ["search", str(folder / "model"), "--target", "128", "--data", str(folder / "long.txt")]
    assert main.main([*command, *given, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "yarn_revised" in printed
    assert f"scaling.factors={out}" in printed
    assert math.isfinite(json.loads(out.read_text())["perplexity"])
    saved = tmp_path / "scaled"
    loaded = load(
        ModelConfig(path=str(folder / "model"), precision="float32", device="cpu"),
        scaling=ScalingConfig.model_validate({"method": "longrope", "factors": str(out)}),
        target_length=128,
    )
    loaded.model.save_pretrained(saved)
    plain = AutoModelForCausalLM.from_pretrained(saved)  # transformers alone
    assert plain.config.rope_parameters["long_factor"] == json.loads(out.read_text())["factors"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--target", "16"], "target_length (16) must be above the original window (32 tokens)"),
        (["--target", "100k"], "has 100k tokens"),
        (["--target", "128", "--set", "search.populations=3"], "unknown key 'populations'; did you mean 'population'?"),
        (["--target", "128", "--set", "scaling.method=yarn"], "expected search.KEY=VALUE or model.KEY=VALUE"),
        (["--target", "long"], "target_length = 'long'"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, capsys, given, reason):
    command = ["search", str(folder / "model"), "--data", str(folder / "long.txt"), "--out", str(tmp_path / "f.json")]
    assert main.main([*command, *given]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("skipwise: ")
    assert reason in said
    assert not list(tmp_path.iterdir())


def test_help_needs_nothing_heavy():
    subprocess.run([sys.executable, "-m", "skipwise", "search", "--help"], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("out", "data", "message"),
    [
        ("taken", "long.txt", "is a folder; give a file"),
        ("long.txt/factors.json", "long.txt", "is not a folder"),
        ("broken.json", "long.txt", "line 1 is not a JSON object"),
        ("new.json", "missing.txt", "no such file"),
    ],
)
def test_refused_before_a_model_is_loaded(tmp_path, out, data, message):
    """The weights are no weights, so loading the model would be another error."""
    tiny_llama(tmp_path / "model", window=32)
    (tmp_path / "model/model.safetensors").write_bytes(b"nothing")
    (tmp_path / "taken").mkdir()
    (tmp_path / "long.txt").write_text("long " * 200)
    (tmp_path / "broken.json.search.jsonl").write_text("nothing\n")
    with pytest.raises(SkipwiseError, match=message):
        search.search(
            ModelConfig(path=str(tmp_path / "model")),
            SearchConfig(**SMALL),
            target_length=TARGET,
            data=[str(tmp_path / data)],
            out=tmp_path / out,
        )
