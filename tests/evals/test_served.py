"""Evaluation through an OpenAI-compatible server: the same rows as in process, and every fault in one line."""

import json
import math
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

import skipwise
from skipwise.cli import main
from skipwise.config import ModelConfig, ServerConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import paired_change
from skipwise.evals.rows import Row, read
from skipwise.evals.served.client import schedule
from skipwise.evals.tables import summary_table
from skipwise.utils.atomic_files import read_jsonl
from support.openai_server import serving
from support.tiny import tiny_llama, tiny_tokenizer

pytest.importorskip("openai", reason="the OpenAI client is not installed (extra `served`)")

WINDOW = 1024
PASSKEY: dict[str, Any] = {"tasks": ["passkey"], "lengths": [256, 512, 1024], "depths": [0.0, 0.5], "trials": 2}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose tokenizer puts `<s>` before a text."""
    folder = tiny_llama(tmp_path_factory.mktemp("models") / "tiny", layers=1, window=WINDOW)
    tiny_tokenizer(folder, adds_bos=True)
    return folder


def saved_bundled(folder: Path) -> Path:
    """The packaged model as a folder that plain transformers loads."""
    assert main.main(["export", "bundled", "--out", str(folder), "--dtype", "float32"]) == 0
    return folder


def evaluate(address: str, folder: Path, out: Path, settings: dict[str, Any] = PASSKEY, **server: Any) -> list[Row]:
    return skipwise.evaluate(ServerConfig(url=address, tokenizer=str(folder), **server), settings, out)


def refused(address: str, folder: Path, out: Path, settings: dict[str, Any] = PASSKEY, **server: Any) -> str:
    """The error of an evaluation, in one line."""
    with pytest.raises(SkipwiseError) as caught:
        evaluate(address, folder, out, settings, **server)
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("text_only", [False, True], ids=["tokens", "text"])
def test_every_prompted_task_has_the_rows_of_the_model_in_process(model: Path, tmp_path: Path, text_only: bool) -> None:
    book = tmp_path / "book.txt"
    words = " ".join(f"The {i} rivers of valley {i} run to the sea." for i in range(500))
    book.write_text(f"title: The book of rivers\nauthor: Ada Number\n\n{words}\n", encoding="utf-8")
    (tmp_path / "summaries.jsonl").write_text(json.dumps({"text": words, "summary": "Rivers run to the sea."}) + "\n")
    settings = {
        "tasks": ["passkey", "k_max", "key_value", "needle", "document_qa", "ruler", "summarize"],
        "lengths": [WINDOW],
        "key_value": {"protocols": ["lines"]},
        "trials": 1,
        "depths": [0.5],
        "k_max": {"distances": 2, "trials": 1},
        "needle": {"haystack": [str(book)]},
        "document_qa": {"data": [str(book)], "documents": 1},
        "ruler": {"samples": 1, "tasks": ["niah_single_1", "niah_single_2"]},
        "summarize": {"data": [str(tmp_path / "summaries.jsonl")], "output_tokens": 8},
    }
    with serving(model, generate=True, window=WINDOW, text_only=text_only) as address:
        served = evaluate(address, model, tmp_path / "rows.jsonl", settings)
    exact = ModelConfig(path=str(model), precision="float32")
    local = skipwise.evaluate(exact, settings, tmp_path / "rows.jsonl")
    assert len(served) == len(local) > 10
    for one, other in zip(served, local, strict=True):
        assert (one.task, one.variant, one.data, one.scores) == (other.task, other.variant, other.data, other.scores)
        assert (one.path, one.served, one.cut) == (address, "vLLM 0.11.0", 0)
        assert (one.window, one.original_length, other.served) == (WINDOW, WINDOW, None)
    assert len(list(paired_change.pairs(local, served))) == len(local), "rows pair like those of two models"


def test_verdicts_of_the_packaged_model_are_equal_over_three_lengths(tmp_path: Path) -> None:
    """It finds the key inside its window of 256 tokens and not well beyond it."""
    settings = {"tasks": ["passkey"], "lengths": [128, 256, 384], "depths": [0.0, 0.5, 1.0], "trials": 7}
    out = tmp_path / "rows.jsonl"
    local = skipwise.evaluate(ModelConfig(path="bundled", precision="float32"), settings, out)
    folder = saved_bundled(tmp_path / "bundled")
    with serving(folder, generate=True, window=512) as address:
        served = evaluate(address, folder, out, settings)
    assert [(row.data, row.scores, row.answers) for row in served] == [
        (row.data, row.scores, row.answers) for row in local
    ]
    prompts = [score for row in served if row.depth is not None for score in row.scores]
    assert len(prompts) == 63
    assert 10 < sum(prompts) < 53, "both verdicts occur"
    page = tmp_path / "page.html"
    assert main.main(["report", str(out), "--out", str(page)]) == 0
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert {"bundled", "tiny (served)"} <= set(re.findall(r'"(bundled|tiny \(served\))"', data)), (
        "a page shows both side by side"
    )


def test_a_right_answer_scores_and_the_command_line_takes_a_url(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.jsonl"
    with serving(model, window=WINDOW) as address:
        options = ["--tokenizer", str(model), "--tasks", "passkey", "--lengths", "256,1024", "--out", str(out)]
        assert main.main(["eval", address, *options]) == 0
        before = out.read_bytes()
        assert main.main(["eval", "--server", address, "--model", "tiny", "--concurrency", "2", *options]) == 0
    assert out.read_bytes() == before, "finished cells are not asked again"
    printed = capsys.readouterr()
    assert "256" in printed.out
    assert "passkey at 256: 100%" in printed.err
    assert {row.value for row in read(out)} == {1.0}


def test_secrets_reach_the_server_and_no_file(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret-1")
    out = tmp_path / "rows.jsonl"
    with serving(model, key="sk-secret-1", window=WINDOW) as address:
        assert "asks for a key (401)" in refused(address, model, out)
        url = f"{address}?token=sk-secret-2"
        evaluate(url, model, out, api_key_env="MY_KEY")
        monkeypatch.setenv("MY_KEY", "sk-secret-3")
        line = refused(address, model, tmp_path / "other.jsonl", api_key_env="MY_KEY")
        assert "refuses the key in MY_KEY (401)" in line
        monkeypatch.delenv("MY_KEY")
        assert "MY_KEY (--api-key-env) is not set" in refused(address, model, out, api_key_env="MY_KEY")
        line += refused(address, model, out, api_key_env="sk-secret-4")
        assert "not the key itself" in line
        monkeypatch.setenv("MY_KEY", "Bearer\nsk-secret-5")
        line += refused(address, model, out, api_key_env="MY_KEY")
        assert "set the variable to the key alone" in line
    page = tmp_path / "page.html"
    assert main.main(["report", str(out), "--out", str(page)]) == 0
    everything = out.read_text() + page.read_text() + line + "".join(capsys.readouterr())
    assert "sk-secret" not in everything
    assert {row.path for row in read(out)} == {address}


def test_a_cut_prompt_is_told_and_counts_as_wrong(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(model, cut_at=300, window=WINDOW) as address:
        rows = evaluate(address, model, tmp_path / "rows.jsonl", PASSKEY | {"depths": [1.0]})
    by_length = {row.length: (row.value, row.cut) for row in rows if row.depth is None}
    assert by_length == {256: (1.0, 0), 512: (0.0, 2), 1024: (0.0, 2)}, "a key behind the cut is no proof"
    assert "the server cut a prompt of" in capsys.readouterr().err
    note = "cut by the server, and counted as wrong: 2 of 2 of passkey at 512 by tiny (served)"
    assert note in summary_table(rows)


def test_a_server_that_fails_now_and_then_loses_nothing(model: Path, tmp_path: Path) -> None:
    for fault in ("fail_every", "busy_every", "break_every"):
        with serving(model, window=WINDOW, **{fault: 5}) as address:
            rows = evaluate(address, model, tmp_path / f"{fault}.jsonl", concurrency=2)
        assert {row.value for row in rows} == {1.0}
        assert sum(row.n for row in rows if row.depth is not None) == 12


def test_a_server_that_dies_half_way_is_one_line_and_the_rest_is_measured_later(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skipwise.evals.served.client.RETRIES", 1)
    out, log = tmp_path / "rows.jsonl", tmp_path / "requests.jsonl"
    with serving(model, window=WINDOW, die_after=8) as address:
        line = refused(address, model, out, concurrency=1)
    assert "nothing answers" in line or "ended a connection" in line
    finished = {row.identity for row in read(out)}
    assert 0 < len(finished) < 9
    with serving(model, window=WINDOW, port=int(address.split(":")[2].split("/")[0]), log=str(log)) as again:
        assert again == address
        rows = evaluate(address, model, out)
    assert len(rows) == 9
    assert {row.value for row in rows} == {1.0}
    done = sum(row.n for row in rows if row.identity in finished and row.depth is not None)
    assert len(read_jsonl(log)) == 1 + 12 - done, "the trial, and the prompts of cells that were missing"


def test_two_hundred_requests_at_once(model: Path, tmp_path: Path) -> None:
    settings = PASSKEY | {"lengths": [256], "depths": [0.0], "trials": 300}
    with serving(model, window=WINDOW, seconds=1.0) as address:
        rows = evaluate(address, model, tmp_path / "rows.jsonl", settings, concurrency=200)
        with urllib.request.urlopen(address.removesuffix("v1") + "most_active") as answer:
            most = json.load(answer)["most_active"]
    assert {row.value for row in rows} == {1.0}
    assert 100 < most <= 200


def test_faults_before_anything_is_asked(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    assert f"nothing answers at {nobody}: connection refused" in refused(nobody, model, out)
    with serving(model, window=512) as address:
        root = address.removesuffix("/v1")
        assert "usually ends with /v1" in refused(root, model, out)
        assert f"{address} has no model 'tinny'; did you mean tiny?" in refused(address, model, out, model="tinny")
        assert f"{address} admits 512 tokens and 1k are asked for" in refused(address, model, out)
        with pytest.raises(SkipwiseError, match="harness needs the weights"):
            evaluate(address, model, out, PASSKEY | {"tasks": ["harness"], "lengths": [256]})
    assert not out.exists()


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ({"fail_every": 1}, "answered 500 to the same request 1 times: out of luck"),
        ({"busy_every": 1}, "answered 429 to the same request 1 times: too many requests"),
        ({"break_every": 1}, "ended a connection in the middle of an answer"),
        ({"window": 300, "tells_window": False}, "refuses a prompt (400): This model's maximum context length is 300"),
        ({"key": "sk-1"}, "asks for a key (401)"),
        ({"name": "tin"}, "has no model 'tiny'; did you mean tin?"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_fault_is_one_line_and_exit_2_and_finished_rows_stay(
    model: Path,
    tmp_path: Path,
    fault: dict[str, Any],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("skipwise.evals.served.client.RETRIES", 0)
    out = tmp_path / "rows.jsonl"
    options = ["--model", "tiny", "--tokenizer", str(model), "--tasks", "passkey", "--lengths", "256,512"]
    options += ["--set", "evaluation.trials=1", "--out", str(out), "--concurrency", "1", "--window", "1k"]
    with serving(model, **{"window": WINDOW, **fault}) as address:
        assert main.main(["eval", address, *options]) == 2
    printed = capsys.readouterr().err
    assert line in printed.splitlines()[-1]
    assert "Traceback" not in printed
    assert {row.length for row in (read(out) if out.exists() else [])} == ({256} if "window" in fault else set())


def test_another_tokenizer_is_refused_where_the_server_reads_text(model: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", layers=1, window=WINDOW)
    tiny_tokenizer(other, vocab=300)
    with serving(model, window=WINDOW, text_only=True) as address:
        assert "by the tokenizer of" in refused(address, other, tmp_path / "rows.jsonl")


def test_a_request_that_takes_too_long(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skipwise.evals.served.client.RETRIES", 0)
    with serving(model, window=WINDOW, seconds=30.0) as address:
        assert "gave no answer within" in refused(address, model, tmp_path / "rows.jsonl", timeout=1)


def test_ctrl_c_ends_at_once_and_keeps_finished_rows(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with serving(model, window=WINDOW, seconds=0.3) as address:
        options = ["--tokenizer", str(model), "--tasks", "passkey", "--lengths", "256,512,1024", "--out", str(out)]
        command = [sys.executable, "-m", "skipwise", "eval", address, *options, "--concurrency", "1"]
        # A shell gives SIGINT as ignored to what it runs in the background, and children inherit that.
        listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **listening) as process:
            deadline = time.monotonic() + 60
            while not (out.exists() and read(out)) and time.monotonic() < deadline:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=30) == 2
            assert process.stderr is not None
            assert "interrupted; finished rows are kept" in process.stderr.read().splitlines()[-1]
    assert read(out)


def test_prompts_that_begin_alike_wait_for_the_first_of_them() -> None:
    long = list(range(100))
    prompts = [[7, 7], [*long, 1], [5], [*long, 2], [*long, 0]]
    order, leaders = schedule(prompts)
    assert order == [4, 1, 3, 2, 0]
    assert leaders == {4: 4, 1: 4, 3: 4, 2: 2, 0: 0}
    assert schedule([]) == ([], {})


@pytest.mark.parametrize("protocol", ["prefix", "sliding"])
def test_perplexity_is_that_of_the_model_in_process(model: Path, tmp_path: Path, protocol: str) -> None:
    book = tmp_path / "book.txt"
    book.write_text(" ".join(f"The {i} rivers run to the sea." for i in range(200)), encoding="utf-8")
    settings = {"tasks": ["perplexity"], "lengths": [128, 256], "data": [str(book)], "protocol": protocol}
    settings |= {"stride": 64, "span": 400}
    local = skipwise.evaluate(ModelConfig(path=str(model), precision="float32"), settings, tmp_path / "rows.jsonl")
    with serving(model, generate=True, window=257) as address:
        served = evaluate(address, model, tmp_path / "rows.jsonl", settings)
        line = refused(address, model, tmp_path / "other.jsonl", settings | {"lengths": [257]})
    assert "admits 257 tokens and 258 are asked for" in line
    assert line.endswith("or give --lengths up to 256")
    for one, other in zip(served, local, strict=True):
        assert (one.task, one.length, one.data, one.counts) == (other.task, other.length, other.data, other.counts)
        assert one.value == pytest.approx(other.value, rel=1e-4)
    assert len(list(paired_change.pairs(local, served))) == len(local)


def test_perplexity_without_log_probabilities_is_refused_and_through_echo_it_works(model: Path, tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text(" ".join(f"The {i} rivers run to the sea." for i in range(200)), encoding="utf-8")
    settings = {"tasks": ["perplexity"], "lengths": [256], "data": [str(book)]}
    with serving(model, window=WINDOW, logprobs="none") as address:
        both, out = settings | {"tasks": ["passkey", "perplexity"]}, tmp_path / "rows.jsonl"
        assert "gives no log-probabilities of prompts" in refused(address, model, out, both)
        assert not out.exists(), "refused before anything is measured"
    with serving(model, window=WINDOW, logprobs="echo") as address:
        rows = evaluate(address, model, tmp_path / "rows.jsonl", settings)
    assert [row.value for row in rows] == [pytest.approx(math.exp(2.0))]


def test_scalings_are_for_models_in_process(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(model, window=WINDOW) as address:
        command = ["eval", address, "--tokenizer", str(model), "--tasks", "passkey", "--out", str(tmp_path / "rows")]
        assert main.main([*command, "--scaling", "dynamic:2"]) == 2
        assert "only servers are named" in capsys.readouterr().err
        assert main.main([*command, "--scaling", "dynamic"]) == 2
        assert "expected a method and a factor" in capsys.readouterr().err


def test_a_suite_leaves_out_what_a_server_cannot_do(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"suite": "quick", "lengths": [256], "trials": 1, "depths": [0.5]}
    with serving(model, window=WINDOW, logprobs="none") as address:
        rows = evaluate(address, model, tmp_path / "rows.jsonl", settings)
    assert {row.task for row in rows} == {"passkey", "key_value"}
    assert re.search("quick: perplexity is left out: .* gives no log-probabilities", capsys.readouterr().err)
    with serving(model, window=256) as address:
        rows = evaluate(address, model, tmp_path / "other.jsonl", settings)
    assert {row.task for row in rows} == {"passkey", "key_value"}
    assert re.search("quick: perplexity is left out: .* admits 256 tokens and 257", capsys.readouterr().err)


def test_the_preset_of_h2ogpt(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with serving(model, window=8192) as address:
        options = ["--tokenizer", str(model), "--preset", "h2ogpt", "--set", "evaluation.trials=1", "--out", str(out)]
        assert main.main(["eval", address, *options]) == 0
    cells = [row for row in read(out) if row.depth is not None]
    assert [(row.task, row.variant, row.length, row.depth) for row in cells] == [
        ("key_value", "lines", 5000, 0.2),
        ("key_value", "lines", 6000, 0.2),
    ]


def test_the_preset_of_papers_asks_for_titles_and_measures_dynamic_scaling_beside(model: Path, tmp_path: Path) -> None:
    papers, out = tmp_path / "papers", tmp_path / "rows.jsonl"
    papers.mkdir()
    for i, word in enumerate(["rivers", "hills", "winds"]):
        words = " ".join(f"Of {word} we count {j} in valley {j}." for j in range(400))
        (papers / f"{i}.txt").write_text(f"On the nature of {word}\n\nAda Number\n\n{words}\n", encoding="utf-8")
    options = ["--preset", "h2ogpt-papers", "--data", str(papers), "--lengths", "512", "--out", str(out)]
    with serving(model, generate=True, window=WINDOW) as address:
        options += ["--tokenizer", str(model), "--set", "model.precision=float32"]
        assert main.main(["eval", str(model), address, *options]) == 0
    rows = [row for row in read(out) if row.variant]
    assert [(row.model, row.window, row.variant, row.n) for row in rows] == [
        ("tiny", 1024, "title", 3),
        ("tiny (dynamic ×2)", 2048, "title", 3),
        ("tiny (dynamic ×4)", 4096, "title", 3),
        ("tiny (served)", 1024, "title", 3),
    ]
    assert len({row.data for row in rows}) == 1, "the same prompts"
    assert (rows[1].scaling or {})["method"] == "dynamic"
    assert len({row.fingerprint for row in rows[:3]}) == 3


def test_scalings_beside_are_read_from_the_command_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, line in {
        "dynamic": "--scaling dynamic: expected a method and a factor above 1",
        "dynamic:1": "--scaling dynamic:1: expected a method and a factor above 1",
        "power:2": "scaling.method",
    }.items():
        assert main.main(["eval", str(model), "--tasks", "passkey", "--scaling", text]) == 2
        assert line in capsys.readouterr().err
    assert main.main(["eval", str(model), "--preset", "h2ogpt-papers"]) == 2
    assert "give their folder with --data" in capsys.readouterr().err
