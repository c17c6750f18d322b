"""Summaries: prompts cut to a budget, ROUGE worked out by hand, one answer for three scores."""

import json
from pathlib import Path
from typing import Any

import pytest

from skipwise.config import EvaluationConfig, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import task
from skipwise.evals.runner import evaluate
from skipwise.evals.task import Inputs, Question, TooShortError
from skipwise.evals.tasks import summarize
from skipwise.models.load import load
from support.tiny import tiny_llama, tiny_tokenizer

REFERENCE = "The cat sat on the mat."


@pytest.mark.parametrize(
    ("answer", "scores"),
    [
        # 6 of 6 words; bigrams the-cat, on-the, the-mat of 5 and 5; longest common subsequence the cat on the mat
        ("the cat on the mat sat", (1.0, 3 / 5, 5 / 6)),
        # precision 1, recall 2/6 → F 1/2; bigrams 1 of 1 and 1 of 5 → 1/3; subsequence 2 → 1/2
        ("The CAT!", (1 / 2, 1 / 3, 1 / 2)),
        # words that occur twice count at most as often as in the reference: the, the of four
        ("the the the the", (2 * (2 / 4) * (2 / 6) / (2 / 4 + 2 / 6), 0.0, 2 * (2 / 4) * (2 / 6) / (2 / 4 + 2 / 6))),
        ("cats sitting", (0.0, 0.0, 0.0)),  # no stemming
        ("", (0.0, 0.0, 0.0)),
        (REFERENCE, (1.0, 1.0, 1.0)),
    ],
)
def test_rouge_by_hand(answer: str, scores: tuple[float, ...]) -> None:
    questions = [Question([], [], [REFERENCE], measure) for measure in summarize.MEASURES]
    assert [summarize.score(answer, question) for question in questions] == pytest.approx(scores)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


DOCUMENTS = [" ".join(f"word{i}x{j}" for j in range(count)) for i, count in enumerate((600, 20, 400))]


@pytest.fixture
def data(tmp_path: Path) -> str:
    rows = [{"report": text, "short": f"summary {i}"} for i, text in enumerate(DOCUMENTS)]
    rows.insert(1, {"report": "no summary", "short": ""})
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(tmp_path / "d.jsonl")


def config_of(data: str, **more: Any) -> EvaluationConfig:
    known = {"data": [data], "document_field": "report", "summary_field": "short", "output_tokens": 30}
    return EvaluationConfig.model_validate({"tasks": ["summarize"], "summarize": known | more})


def prompts(inputs: Inputs, length: int) -> list[str]:
    cell = summarize.cells(inputs, length)[0]
    return [inputs.decode(summarize.question(inputs, cell, trial).ids) for trial in range(cell.n)]


@pytest.mark.parametrize("length", [300, 1001, 4000])
def test_documents_are_cut_to_what_the_length_leaves(tokenizer: Any, data: str, length: int) -> None:
    inputs = Inputs(tokenizer, config_of(data))
    for text, whole in zip(prompts(inputs, length), DOCUMENTS, strict=True):
        head, document, *end = text.split("\n")
        assert [head, *end] == [summarize.DESCRIPTION, summarize.ASK, "Summary:"]
        assert whole.startswith(document)
        used = len(tokenizer(text)["input_ids"])
        assert used <= length - 30
        following = whole[len(document) :].split()[:1]
        if following:  # one word more would be too long
            longer = text.replace(document, f"{document} {following[0]}")
            assert len(tokenizer(longer)["input_ids"]) > length - 30
    assert len(prompts(inputs, 4000)[1].split("\n")[1].split()) == 20


def test_a_budget_for_documents_alone(tokenizer: Any, data: str) -> None:
    inputs = Inputs(tokenizer, config_of(data, document_tokens=100))
    first, second, _ = prompts(inputs, 2000)
    assert first == prompts(inputs, 4000)[0]
    assert 90 < inputs.count(first.split("\n")[1]) <= 101
    assert second.split("\n")[1] == " ".join(DOCUMENTS[1].split()[: len(second.split("\n")[1].split())])


def test_one_answer_is_scored_three_ways(tokenizer: Any, data: str) -> None:
    asked = []

    def answer(questions: Any, limit: int, ended: Any, advance: Any) -> Any:
        asked.extend(questions)
        for i, question in enumerate(questions):
            yield i, tokenizer(question.truth[0] + " and more", add_special_tokens=False)["input_ids"]

    inputs = Inputs(tokenizer, config_of(data))
    cells = summarize.cells(inputs, 1000)
    questions = [[summarize.question(inputs, cell, trial) for trial in range(cell.n)] for cell in cells]
    heads = [task.header(summarize.TASK, inputs, *pair) for pair in zip(cells, questions, strict=True)]
    parts = list(zip(cells, heads, questions, strict=True))
    rows = [row for _, row in task.measure(summarize.TASK, inputs, parts, answer)]
    assert len(asked) == 3
    assert {row.variant: row.value for row in rows} == pytest.approx(
        {"rouge1": 2 / 3, "rouge2": 2 * (1 / 3) / (1 / 3 + 1), "rougeL": 2 / 3}
    )
    # Three scores that are all alike show no spread, so their interval is not Student's t.
    assert [(row.n, row.interval, row.answer_tokens) for row in rows] == [(3, "Gaffke, at least 95%", 30)] * 3
    assert rows[0].answers[2] == [["summary 2"], "summary 2 and more"]


def test_rows_of_a_real_model(tmp_path: Path, data: str) -> None:
    loaded = load(ModelConfig(path=str(tiny_llama(tmp_path / "m", layers=1, window=512)), device="cpu"))
    config, out = config_of(data, output_tokens=4, document_tokens=40), tmp_path / "results.jsonl"
    rows = evaluate(loaded, config, [], label="m", out=out, lengths=[40, 256])
    assert [(row.length, row.variant, row.n) for row in rows] == [(256, measure, 3) for measure in summarize.MEASURES]
    written = out.read_bytes()
    assert evaluate(loaded, config, [], label="m", out=out, lengths=[40, 256]) == rows
    assert out.read_bytes() == written
    # The prompts stay the same with another room for the answer; the answers need not.
    longer = config_of(data, output_tokens=5, document_tokens=40)
    evaluate(loaded, longer, [], label="m", out=out, lengths=[256])
    assert len(out.read_bytes().splitlines()) == 6


def test_what_is_wrong_is_said(tokenizer: Any, data: str, tmp_path: Path) -> None:
    with pytest.raises(SkipwiseError, match=r"name a \.jsonl file in evaluation\.summarize\.data"):
        summarize.cells(Inputs(tokenizer, EvaluationConfig()), 2000)
    with pytest.raises(SkipwiseError, match="has no field 'text'; its fields: 'report', 'short'"):
        summarize.cells(Inputs(tokenizer, config_of(data, document_field="text")), 2000)
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(SkipwiseError, match=r"a\.txt is plain text"):
        summarize.cells(Inputs(tokenizer, config_of(str(tmp_path / "a.txt"))), 2000)
    with pytest.raises(TooShortError, match=r"summarize at 60 tokens: .* the summary up to 30"):
        summarize.cells(Inputs(tokenizer, config_of(data)), 60)
