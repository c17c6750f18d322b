"""Evaluation of a served model without its tokenizer, and as chats: the server counts, and has the template."""

from pathlib import Path
from typing import Any

import pytest

import skipwise
from skipwise.cli import main
from skipwise.config import ModelConfig, ServerConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import Row
from skipwise.evals.served.server_tokenizer import messages_of
from skipwise.utils.atomic_files import read_jsonl
from support.openai_server import serving
from support.tiny import tiny_llama, tiny_tokenizer

pytest.importorskip("openai", reason="the OpenAI client is not installed (extra `served`)")

WINDOW = 1024
PASSKEY: dict[str, Any] = {"tasks": ["passkey"], "lengths": [256, 1024], "depths": [0.0, 0.5], "trials": 2}
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer puts `<s>` before a text and has a chat template."""
    folder = tiny_llama(tmp_path_factory.mktemp("models") / "tiny", layers=1, window=WINDOW)
    tokenizer = tiny_tokenizer(folder, adds_bos=True)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def evaluate(address: str, out: Path, settings: dict[str, Any] = PASSKEY, **server: Any) -> list[Row]:
    return skipwise.evaluate(ServerConfig(url=address, **server), settings, out)


def measured(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(row.length, row.depth, row.tokens, row.data, row.scores) for row in rows]


@pytest.mark.parametrize("tokenize", ["vllm", "llama.cpp"])
def test_a_server_that_shows_tokens_gets_the_prompts_of_the_tokenizer(
    model: Path, tmp_path: Path, tokenize: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(model, window=WINDOW, tokenize=tokenize) as address:
        given = evaluate(address, tmp_path / "given.jsonl", tokenizer=str(model))
        assert "no --tokenizer" not in capsys.readouterr().err
        rows = evaluate(address, tmp_path / "rows.jsonl")
    assert measured(rows) == measured(given)
    assert {row.value for row in rows} == {1.0}
    assert "no --tokenizer is given; lengths are fitted by the server's tokens of /tokenize" in capsys.readouterr().err


def test_a_server_that_only_counts_gets_prompts_of_the_same_lengths(model: Path, tmp_path: Path) -> None:
    with serving(model, window=WINDOW, tokenize="none") as address:
        given = evaluate(address, tmp_path / "given.jsonl", tokenizer=str(model))
        rows = evaluate(address, tmp_path / "rows.jsonl")
    assert [(row.length, row.depth, row.tokens, row.scores) for row in rows] == [
        (row.length, row.depth, row.tokens, row.scores) for row in given
    ]
    assert {row.value for row in rows} == {1.0}
    assert not any(row.cut for row in rows)


def test_finished_cells_are_not_asked_again_and_the_command_line_takes_a_window(model: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "rows.jsonl", tmp_path / "log.jsonl"
    with serving(model, window=WINDOW, tokenize="none", tells_window=False, log=str(log)) as address:
        options = ["--tasks", "passkey", "--lengths", "256", "--set", "evaluation.trials=1", "--out", str(out)]
        with pytest.raises(SkipwiseError, match=r"give --window LENGTH, or --tokenizer"):
            evaluate(address, out)
        assert main.main(["eval", address, "--window", "1k", *options]) == 0
        before = out.read_bytes()
        answers = [row for row in read_jsonl(log) if row["max_tokens"] > 1]
        assert main.main(["eval", address, "--window", "1k", *options]) == 0
        assert [row for row in read_jsonl(log) if row["max_tokens"] > 1] == answers
    assert out.read_bytes() == before
    assert {row["window"] for row in read_jsonl(out)} == {1024}


def test_a_server_that_cuts_in_silence_is_refused_where_only_it_counts(model: Path, tmp_path: Path) -> None:
    with (
        serving(model, window=WINDOW, tokenize="none", cut_at=300) as address,
        pytest.raises(SkipwiseError, match=r"counts 300 tokens in a text of .* cuts prompts without an error"),
    ):
        evaluate(address, tmp_path / "rows.jsonl")


def test_what_needs_the_tokenizer_says_so(model: Path, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("The rivers run to the sea. " * 200, encoding="utf-8")
    with serving(model, window=WINDOW) as address:
        settings = {"tasks": ["perplexity"], "lengths": [128], "data": [str(book)]}
        with pytest.raises(SkipwiseError, match="perplexity of a served model needs its tokenizer; give --tokenizer"):
            evaluate(address, tmp_path / "rows.jsonl", settings)
        with pytest.raises(SkipwiseError, match="nowhere"):
            evaluate(address, tmp_path / "rows.jsonl", tokenizer="nowhere/model")


def test_verify_works_without_a_tokenizer(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for tokenize in ("vllm", "none"):
        with serving(model, window=WINDOW, tokenize=tokenize) as address:
            assert main.main(["verify", "--server", address]) == 0
        printed = capsys.readouterr().out
        assert printed.count("3 of 3 found") == 3
        assert "no --tokenizer is given to compare with" in printed


@pytest.mark.parametrize("continues", [True, False])
def test_chats_are_sent_as_messages_and_the_rows_are_those_in_process(
    model: Path, tmp_path: Path, continues: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, log = PASSKEY | {"chat": True, "lengths": [256]}, tmp_path / "log.jsonl"
    local = skipwise.evaluate(ModelConfig(path=str(model), precision="float32"), settings, tmp_path / "local.jsonl")
    with serving(model, window=WINDOW, generate=True, continues=continues, log=str(log)) as address:
        rows = evaluate(address, tmp_path / "rows.jsonl", settings, tokenizer=str(model))
    asked = [row["messages"] for row in read_jsonl(log) if row["max_tokens"] > 1]
    assert len(asked) == 4
    if continues:
        assert [(row.data, row.scores, row.answers, row.tokens) for row in rows] == [
            (row.data, row.scores, row.answers, row.tokens) for row in local
        ]
        assert {(turn[0]["role"], turn[-1]["content"]) for turn in asked} == {("user", "The pass key is")}
    else:
        assert all(len(turn) == 1 and turn[0]["content"].endswith("? The pass key is") for turn in asked)
        assert {row.data for row in rows}.isdisjoint(row.data for row in local), "they are other prompts"
        assert "does not begin a reply" in capsys.readouterr().err
    assert {row.chat for row in rows} == {True}


def test_another_chat_template_is_told(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = PASSKEY | {"chat": True, "lengths": [256]}
    with serving(model, window=WINDOW, template="Be brief. " + TEMPLATE) as address:
        rows = evaluate(address, tmp_path / "rows.jsonl", settings, tokenizer=str(model))
    assert "its template is another" in capsys.readouterr().err
    assert ({row.value for row in rows}, {row.cut for row in rows}) == ({1.0}, {0})


@pytest.mark.parametrize("continues", [True, False])
def test_chats_without_a_tokenizer_are_fitted_by_the_servers_own_template(
    model: Path, tmp_path: Path, continues: bool
) -> None:
    settings, log = PASSKEY | {"chat": True}, tmp_path / "log.jsonl"
    with serving(model, window=WINDOW, continues=continues, log=str(log)) as address:
        rows = evaluate(address, tmp_path / "rows.jsonl", settings)
    assert {row.value for row in rows} == {1.0}
    assert all(row.length - 40 < row.tokens <= row.length - 16 for row in rows if row.length and row.tokens)
    assert all("messages" in row for row in read_jsonl(log))


def test_messages_are_read_from_the_text_of_a_chat() -> None:
    user = {"role": "user", "content": "Is it <b>?"}
    assert messages_of("[u]Is it <b>?[a]", "[u]", "[a]") == [user]
    assert messages_of("[u]Is it <b>?[a]It is", "[u]", "[a]") == [user, {"role": "assistant", "content": "It is"}]
    assert messages_of("Is it?[a]", "[u]", "[a]") is None
    assert messages_of("[u]Is it?", "[u]", "[a]") is None
    talk = messages_of("[u]Is it?[a]Yes[u]Why?[a]", "[u]", "[a]", ("[a]", "[u]"))
    assert talk == [
        {"role": "user", "content": "Is it?"},
        {"role": "assistant", "content": "Yes"},
        {"role": "user", "content": "Why?"},
    ]
    whole = [{"role": "user", "content": "Is it?[a]Yes"}]
    assert messages_of("[u]Is it?[a]Yes[a]", "[u]", "[a]", ("[a]", "[u]")) == whole, "it ends with the assistant"
    assert messages_of("[u]Is it?[a]Yes[a]", "[u]", "[a]", None) == whole


@pytest.mark.parametrize("given", [True, False], ids=["tokenizer", "counts"])
def test_a_conversation_is_sent_turn_by_turn(model: Path, tmp_path: Path, given: bool) -> None:
    log = tmp_path / "log.jsonl"
    settings: dict[str, Any] = {"tasks": ["mrcr"], "lengths": [1024], "chat": True}
    settings["mrcr"] = {"needles": [2], "samples": 2, "conversations": 1, "sentences": 1}
    with serving(model, window=WINDOW, generate=True, log=str(log)) as address:
        rows = evaluate(address, tmp_path / "rows.jsonl", settings, **({"tokenizer": str(model)} if given else {}))
    asked = [row["messages"] for row in read_jsonl(log) if row["max_tokens"] > 1]
    assert len(asked) == 2
    for turns in asked:
        assert [turn["role"] for turn in turns] == [("user", "assistant")[i % 2] for i in range(len(turns))]
        assert len(turns) >= 5
        assert turns[-1]["content"].startswith("Prepend ")
        assert not any("assistant" in turn["content"] for turn in turns)
    if given:
        exact = ModelConfig(path=str(model), precision="float32")
        local = skipwise.evaluate(exact, settings, tmp_path / "local.jsonl")
        assert [(row.data, row.answers) for row in rows] == [(row.data, row.answers) for row in local]


@pytest.mark.parametrize("template", ["{{ raise_exception('roles must alternate') }}", "{% if %}"])
def test_a_template_that_fails_is_one_line(model: Path, tmp_path: Path, template: str) -> None:
    folder = tiny_llama(tmp_path / "tiny", layers=1, window=WINDOW)
    tokenizer = tiny_tokenizer(folder, adds_bos=True)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    settings = PASSKEY | {"chat": True, "lengths": [256]}
    with pytest.raises(SkipwiseError, match="the chat template refuses one turn"):
        skipwise.evaluate(str(folder), settings, tmp_path / "rows.jsonl")
    with serving(model, window=WINDOW) as address:
        with pytest.raises(SkipwiseError, match="the chat template refuses one turn"):
            evaluate(address, tmp_path / "rows.jsonl", settings, tokenizer=str(folder))
        assert main.main(["verify", "--server", address, "--tokenizer", str(folder)]) == 1
    assert not (tmp_path / "rows.jsonl").exists()
