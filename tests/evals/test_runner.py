"""Evaluation of real tiny models: rows, what is measured again and what is not, documents from files, the table."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from skipwise.config import EvaluationConfig, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.document_losses import Document
from skipwise.evals.rows import Row, read
from skipwise.evals.runner import default_lengths, evaluate, load_documents
from skipwise.evals.tables import summary_table
from skipwise.evals.task import Inputs
from skipwise.evals.tasks import passkey
from skipwise.models.load import LoadedModel, load
from skipwise.utils.atomic_files import read_jsonl
from support.known import bigram_llama
from support.tiny import tiny_llama, tiny_tokenizer

CONFIG = EvaluationConfig(trials=1, depths=[0.0, 1.0], documents=2)
LENGTHS = [64, 200, 400]
CHECKS = 8  # passes at most with which a reader finds out what a model's code allows
CONTRACT = (
    *("model", "path", "fingerprint", "window", "original_length", "scaling", "task", "task_version", "variant"),
    *("length", "depth", "metric", "value", "low", "high", "interval", "n", "tokens", "seed", "seconds"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama", layers=1, window=256)


@pytest.fixture
def llama(folder: Path) -> LoadedModel:
    return load(ModelConfig(path=str(folder), precision="float32", device="cpu"))


def texts(*lengths: int, seed: int = 0) -> list[Document]:
    generator = np.random.default_rng(seed)
    return [(f"{i}.txt", generator.integers(2, 512, n).astype(np.uint16)) for i, n in enumerate(lengths)]


def in_order(rows: list[Row]) -> list[Row]:
    """Rows are written as they are finished: cells that share much of their text one after the other."""
    return sorted(rows, key=lambda row: json.dumps([row.task, row.length, row.depth]))


def run(loaded: LoadedModel, out: Path, config: EvaluationConfig = CONFIG, **changed: Any) -> tuple[list[Any], int]:
    """The rows and how many forward passes they took."""
    passes = []
    handle = loaded.model.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    arguments = {"documents": texts(450, 420, 100), "label": "original", "lengths": LENGTHS, **changed}
    rows = evaluate(loaded, config, arguments.pop("documents"), out=out, **arguments)
    handle.remove()
    return rows, len(passes)


def test_rows_follow_the_contract_and_are_written(llama: LoadedModel, tmp_path: Path) -> None:
    rows, _ = run(llama, tmp_path / "results.jsonl")
    assert in_order(read(tmp_path / "results.jsonl")) == in_order(rows)
    assert all(row.keys() >= set(CONTRACT) for row in read_jsonl(tmp_path / "results.jsonl"))
    told = [(row.task, row.length, row.depth, row.n) for row in rows]
    cells = [("passkey", length, depth, n) for length in (200, 400) for depth, n in ((0.0, 1), (1.0, 1), (None, 2))]
    stretches = [("perplexity_by_position", length, None, 2) for length in LENGTHS[1:]]
    assert told == [("perplexity", length, None, 2) for length in LENGTHS] + stretches + cells
    assert {row.beyond_window for row in rows if row.length <= 256} == {False}
    assert {row.beyond_window for row in rows if row.length > 256} == {True}
    first = {"model": "original", "window": 256, "original_length": 256, "dtype": "float32", "scaling": None}
    assert all(row.items() >= first.items() for row in read_jsonl(tmp_path / "results.jsonl"))


def test_a_short_length_is_left_out_of_passkey_aloud(
    llama: LoadedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(llama, tmp_path / "results.jsonl")
    assert "passkey: left out at 64 tokens, which cannot hold a prompt" in capfd.readouterr().err


def test_finished_rows_are_not_measured_again(llama: LoadedModel, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    rows, passes = run(llama, out)
    assert passes >= 6
    written = out.read_bytes()
    assert run(llama, out) == (rows, 0)
    assert out.read_bytes() == written


def test_after_a_kill_the_rest_is_measured(llama: LoadedModel, tmp_path: Path) -> None:
    out = tmp_path / "results.jsonl"
    rows, _ = run(llama, out)
    lines = out.read_bytes().splitlines(keepends=True)
    # What a kill leaves while a row of passkey at 400 tokens is written.
    out.write_bytes(b"".join(lines[:7]) + lines[7][:20])
    again, passes = run(llama, out)
    assert 1 <= passes <= CHECKS + passkey.ANSWER_TOKENS
    assert [row.replace(seconds=None) for row in again] == [row.replace(seconds=None) for row in rows]
    assert in_order(read(out)) == in_order(again)


def test_longer_lengths_reuse_the_shorter_ones(llama: LoadedModel, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tasks": ["perplexity"]})
    rows, _ = run(llama, tmp_path / "results.jsonl", config, lengths=[64, 200])
    longer, _ = run(llama, tmp_path / "results.jsonl", config, lengths=[64, 200, 400])
    assert [longer[0], longer[1], longer[3]] == rows
    assert len(read_jsonl(tmp_path / "results.jsonl")) == 5


@pytest.mark.parametrize(
    "changed",
    [{"seed": 1}, {"bos": False}, {"protocol": "sliding", "stride": 50}, {"documents": 1}],
    ids=lambda changed: next(iter(changed)),
)
def test_other_settings_are_measured_anew(llama: LoadedModel, tmp_path: Path, changed: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update={"tasks": ["perplexity"]})
    rows, passes = run(llama, tmp_path / "results.jsonl", config)
    others, more = run(llama, tmp_path / "results.jsonl", config.model_copy(update=changed))
    assert more >= passes / 2
    assert len(read_jsonl(tmp_path / "results.jsonl")) == (8 if "protocol" in changed else 10)
    assert run(llama, tmp_path / "results.jsonl", config) == (rows, 0)
    assert run(llama, tmp_path / "results.jsonl", config.model_copy(update=changed)) == (others, 0)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"trials": 2}, {"depths": [1.0, 0.0]}])
def test_other_passkey_settings_are_measured_anew(llama: LoadedModel, tmp_path: Path, changed: dict[str, Any]) -> None:
    config = CONFIG.model_copy(update={"tasks": ["passkey"]})
    rows, _ = run(llama, tmp_path / "results.jsonl", config, lengths=[200])
    others, more = run(llama, tmp_path / "results.jsonl", config.model_copy(update=changed), lengths=[200])
    assert more > 0
    assert len(read_jsonl(tmp_path / "results.jsonl")) == 6
    assert run(llama, tmp_path / "results.jsonl", config, lengths=[200]) == (rows, 0)
    assert others[-1].n == 2 * changed.get("trials", 1)


def test_sliding_windows_go_over_whole_documents(llama: LoadedModel, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tasks": ["perplexity"], "protocol": "sliding", "stride": 50})
    [row], _ = run(llama, tmp_path / "a.jsonl", config, lengths=[64])
    assert (row.span, row.tokens) == (451, 450 + 420)  # a BOS before every window; all tokens of two documents
    [part], _ = run(llama, tmp_path / "a.jsonl", config.model_copy(update={"span": 200}), lengths=[64])
    assert (part.span, part.tokens) == (200, 2 * 199)


def test_rows_of_other_models_texts_and_labels_are_not_mixed(llama: LoadedModel, folder: Path, tmp_path: Path) -> None:
    out, config = tmp_path / "results.jsonl", CONFIG.model_copy(update={"tasks": ["perplexity"]})
    rows, passes = run(llama, out, config)
    other = load(ModelConfig(path=str(tiny_llama(tmp_path / "b", layers=1, window=256, seed=1)), device="cpu"))
    half = load(ModelConfig(path=str(folder), precision="bfloat16", device="cpu"))
    for loaded, change in [
        (other, {}),
        (half, {}),
        (llama, {"label": "extended"}),
        (llama, {"documents": texts(450, 420, seed=1)}),
    ]:
        news, more = run(loaded, out, config, **change)
        assert more == passes
        assert [row.value for row in news] != [row.value for row in rows] or "label" in change
    assert len(read_jsonl(out)) == 25
    assert run(llama, out, config) == (rows, 0)


def test_a_moved_model_is_the_same_model(llama: LoadedModel, folder: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tasks": ["perplexity"]})
    run(llama, tmp_path / "results.jsonl", config)
    shutil.copytree(folder, tmp_path / "moved")
    moved = load(ModelConfig(path=str(tmp_path / "moved"), precision="float32", device="cpu"))
    assert run(moved, tmp_path / "results.jsonl", config)[1] == 0


@pytest.mark.parametrize(
    ("config", "lengths", "message"),
    [
        ({}, [64, 600], "no document is that long"),
        ({}, [], r"evaluation\.lengths is empty"),
        ({"depths": []}, [200], r"evaluation\.depths is empty"),
        ({"retrieval_lengths": [64, 200]}, [200], r"prompt of 64 tokens is too short: .* take 1[0-9][0-9];"),
        ({"tasks": ["passkey"]}, [32, 64], "prompt of 64 tokens is too short"),
        ({"protocol": "sliding", "stride": 100}, [64, 200], "at most 63"),
        ({"protocol": "sliding", "stride": 10, "span": 100}, [64, 200], r"span = 100 is shorter than .*, 200 tokens"),
        ({"retrieval_lengths": [2**40]}, [64], "GiB"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    llama: LoadedModel, tmp_path: Path, config: dict[str, Any], lengths: list[int], message: str
) -> None:
    passes: list[int] = []
    llama.model.get_decoder().register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(SkipwiseError, match=message):
        run(llama, tmp_path / "results.jsonl", CONFIG.model_copy(update=config), lengths=lengths)
    assert not passes
    assert not (tmp_path / "results.jsonl").exists()


def inputs_of(config: EvaluationConfig, folder: Path | None = None) -> Inputs:
    return Inputs(tiny_tokenizer(folder or Path(tempfile.mkdtemp())), config)


def distinct_digits(length: int) -> EvaluationConfig:
    """A seed whose key at the second depth has five distinct digits, and at the first and third another key."""
    for seed in range(100):
        config = CONFIG.model_copy(update={"seed": seed, "depths": [0.0, 0.5, 1.0], "tasks": ["passkey"]})
        if len(set(passkey.draw_key(seed, passkey.cells(inputs_of(config), length)[1], 0))) == 5:
            return config
    raise AssertionError("no such seed")


@pytest.mark.parametrize(("after", "right"), [(".", 1), ("</s>", 1), ("digits", 0)])
def test_passkey_of_a_model_whose_answer_is_known(tmp_path: Path, after: str, right: int) -> None:
    # The model's next token depends on the last alone: it always says one number, the key of one cell.
    tokenizer = tiny_tokenizer(tmp_path)
    config = distinct_digits(300)
    inputs = inputs_of(config)
    cell = passkey.cells(inputs, 300)[1]
    key = passkey.draw_key(config.seed, cell, 0)
    spoken = tokenizer.convert_tokens_to_ids([*key, after if after != "digits" else key[0]])
    question = passkey.question(inputs, cell, 0).ids[-1]
    space = tokenizer(" 1")["input_ids"][0]
    chances = np.full((512, 512), 0.01 / 511)
    for last, following in zip([question, space, *spoken], [space, *spoken], strict=False):
        chances[last, following] = 0.99
    bigram_llama(chances, tmp_path, window=512)
    loaded = load(ModelConfig(path=str(tmp_path), precision="float32", device="cpu"))
    rows, _ = run(loaded, tmp_path / "results.jsonl", config, lengths=[300])
    assert [row.value for row in rows] == [0, right, 0, pytest.approx(right / 3)]
    # Decoding stops with the number: at what follows it, at the end of the text, or when the room is used up.
    assert rows[1].answers[0][1].strip() == {".": key + ".", "</s>": key, "digits": (key * 3)[:15]}[after]


def test_default_lengths() -> None:
    assert default_lengths(2048, 16384) == [512, 1024, 2048, 4096, 8192, 16384]
    assert default_lengths(8192, 20_000) == [2048, 4096, 8192, 16384, 20_000]
    assert default_lengths(256, 4096)[0] == 64
    assert default_lengths(4, 4) == [2, 4]
    assert default_lengths(2048, 2048) == [512, 1024, 2048]


def test_documents_from_files_longest_first(folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    words = {"short.txt": 20, "long.txt": 300, "middle.txt": 200}
    for name, count in words.items():
        (tmp_path / name).write_text(" ".join(f"word{i}" for i in range(count)), encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "and so on " * 100}) + "\n", encoding="utf-8")
    documents = load_documents([str(tmp_path)], tokenizer, minimum=100, limit=8)
    names = [name for name, _ in documents]
    assert [name for name in names if name in words] == ["long.txt", "middle.txt"]
    assert len(documents) == 3
    sizes = [len(tokens) for _, tokens in documents]
    assert sizes == sorted(sizes, reverse=True)
    text = (tmp_path / "long.txt").read_text(encoding="utf-8")
    assert documents[0][1].tolist() == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(load_documents([str(tmp_path)], tokenizer, minimum=100, limit=2)) == 2
    assert len(load_documents([str(tmp_path)], tokenizer, minimum=1, limit=8, exclude=["*.jsonl"])) == 3
    message = rf"has 100,000 tokens, the longest is 'long.txt' with {sizes[0]:,}; .* up to {sizes[0]:,}"
    with pytest.raises(SkipwiseError, match=message):
        load_documents([str(tmp_path)], tokenizer, minimum=100_000, limit=2)


def test_the_longest_documents_are_those_of_reading_all(folder: Path, tmp_path: Path) -> None:
    """Short ones are left out unread; which those are depends on what came before them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for i in range(12):
        (tmp_path / f"{i:02}.txt").write_text("word é " * (7 * i % 12 + 1), encoding="utf-8")
    every = load_documents([str(tmp_path)], tokenizer, minimum=1, limit=12)
    assert len(every) == 12
    for limit in (1, 3, 11):
        some = load_documents([str(tmp_path)], tokenizer, minimum=1, limit=limit)
        assert [name for name, _ in some] == [name for name, _ in every[:limit]]


def test_memory_mapped_tokens_are_documents(llama: LoadedModel, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"tasks": ["perplexity"]})
    plain, _ = run(llama, tmp_path / "a.jsonl", config)
    documents = []
    for name, tokens in texts(450, 420, 100):
        np.save(tmp_path / f"{name}.npy", tokens.astype(np.uint32))
        documents.append((name, np.load(tmp_path / f"{name}.npy", mmap_mode="r")))
    mapped, _ = run(llama, tmp_path / "b.jsonl", config, documents=documents)
    assert [row.value for row in mapped] == [row.value for row in plain]
    assert [row.data for row in mapped] == [row.data for row in plain]


def row(model: str, task: str, length: int, value: float, **more: Any) -> Row:
    perplexity = task == "perplexity"
    known = {
        "model": model,
        "task": task,
        "variant": "prefix" if perplexity else None,
        "length": length,
        "depth": None,
        "metric": "perplexity" if perplexity else "accuracy",
        "value": value,
        "low": value - 0.25,
        "high": value + 0.25,
        "interval": "bootstrap 95%" if perplexity else "wilson 95%",
        "n": 4,
        "beyond_window": False,
    }
    return Row(**known | more)


def test_the_table_puts_models_side_by_side() -> None:
    rows = [
        row("original", "perplexity", 16384, 58.2, beyond_window=True),
        row("original", "perplexity", 2048, 33.25),
        row("extended", "perplexity", 2048, 33.0),
        row("extended", "perplexity", 16384, 30.9, low=1.0),
        row("extended", "perplexity", 16384, 30.5),
        row("extended", "passkey", 2048, 0.75),
        row("extended", "passkey", 2048, 1.0, depth=0.5),
    ]
    assert summary_table(rows) == "\n".join(
        [
            "perplexity (prefix), value [bootstrap 95%], n documents",
            "length                   original                   extended",
            "    2k  33.25 [33.00, 33.50] n=4   33.00 [32.75, 33.25] n=4",
            "   16k  58.20 [57.95, 58.45] n=4*  30.50 [30.25, 30.75] n=4",
            "",
            "passkey (accuracy), value [wilson 95%], n prompts",
            "length              extended",
            "    2k  75% [50%, 100%] n=4",
            "",
            "* beyond the window that the model is configured for",
        ]
    )
    assert "*" not in summary_table(rows[1:3])
    assert " - " in summary_table([*rows[:2], rows[5], row("original", "passkey", 4096, 0.5)])


def test_an_evaluation_in_another_precision_keeps_losses_in_fp32(folder: Path, tmp_path: Path) -> None:
    half = load(ModelConfig(path=str(folder), precision="bfloat16", device="cpu"))
    full = load(ModelConfig(path=str(folder), precision="float32", device="cpu"))
    config = CONFIG.model_copy(update={"tasks": ["perplexity"]})
    values = [[r.value for r in run(model, tmp_path / f"{n}.jsonl", config)[0]] for n, model in enumerate((half, full))]
    assert half.model.dtype == torch.bfloat16
    assert values[0] == pytest.approx(values[1], rel=0.05)
    assert values[0] != values[1]
