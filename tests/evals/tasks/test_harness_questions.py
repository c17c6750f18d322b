"""Multiple-choice questions in files: the forms of an answer, BIG-bench's tasks, what is wrong with a file."""

import json
from pathlib import Path
from typing import Any

import pytest

from skipwise.config import HarnessConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.tasks.harness.questions import Choice, read_questions


def written(folder: Path, *rows: Any, name: str = "q.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("choices", "answer", "place"),
    [
        (["x", "y", "z"], 0, 0),
        (["x", "y", "z"], 2, 2),
        (["x", "y", "z"], "y", 1),
        (["x", "y", "z"], "C", 2),
        (["B", "A"], "A", 1),  # a text before a label
        ({"text": ["x", "y"], "label": ["1", "2"]}, "2", 1),
        ({"text": ["x", "y"], "label": ["A", "B"]}, "A", 0),
        (["1", "0"], "0", 1),
    ],
)
def test_an_answer_is_a_place_a_text_or_a_label(tmp_path: Path, choices: Any, answer: Any, place: int) -> None:
    path = written(tmp_path, {"question": "Why {so}?", "choices": choices, "answer": answer})
    texts = choices["text"] if isinstance(choices, dict) else choices
    assert read_questions(path, HarnessConfig()) == [Choice("Question: Why {so}?\nAnswer:", texts, place)]


def test_fields_and_prompt_can_be_set(tmp_path: Path) -> None:
    settings = HarnessConfig(question_field="q", choices_field="c", answer_field="a", prompt="{question} So:")
    path = written(tmp_path, {"q": "Why?", "c": ["x", "y"], "a": 1})
    assert read_questions(path, settings) == [Choice("Why? So:", ["x", "y"], 1)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "q", "choices": ["x", "y"]}, r"q\.jsonl:1 has no field 'answer'; its fields: 'question'"),
        ({"question": "q", "choices": ["x", "y"], "answer": 2}, "answer 2 is none of the 2 choices"),
        ({"question": "q", "choices": ["x", "y"], "answer": -1}, "answer -1 is none"),
        ({"question": "q", "choices": ["x", "y"], "answer": "C"}, "answer 'C' is none"),
        ({"question": "q", "choices": ["x"], "answer": 0}, "must be a list of two or more texts"),
        ({"question": "q", "choices": "x", "answer": 0}, "must be a list of two or more texts"),
        ({"question": 1, "choices": ["x", "y"], "answer": 0}, "'question' holds int, expected text"),
        (["no object"], "is not a JSON object"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(SkipwiseError, match=message):
        read_questions(written(tmp_path, row), HarnessConfig())


def test_a_task_of_big_bench(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    examples = [
        {"input": "one", "target_scores": {"a": 0, "b": 1}},
        {"input": "two right", "target_scores": {"a": 1, "b": 1}},
        {"input": "three", "target_scores": {"a": 1, "b": 0, "c": 0}},
    ]
    path = written(tmp_path, {"examples": examples}, name="task.json")
    found = read_questions(path, HarnessConfig(prompt="{question}"))
    assert found == [Choice("one", ["a", "b"], 1), Choice("three", ["a", "b", "c"], 0)]
    assert "1 questions with several right choices are left out" in capfd.readouterr().err
    with pytest.raises(SkipwiseError, match="expected a BIG-bench task"):
        read_questions(written(tmp_path, {"examples": [{"input": "x", "target": "y"}]}, name="b.json"), HarnessConfig())
    broken = written(tmp_path, {"examples": [{"input": "x", "target_scores": [1, 0]}]}, name="c.json")
    with pytest.raises(SkipwiseError, match="expected a BIG-bench task"):
        read_questions(broken, HarnessConfig())


def test_files_of_another_form_are_refused(tmp_path: Path) -> None:
    row = {"question": "q", "choices": ["x", "y"], "answer": 0}
    for name in ("q.txt", "q.csv", "q.parquet"):
        with pytest.raises(SkipwiseError, match=rf"{name} is no \.jsonl file of questions"):
            read_questions(written(tmp_path, row, name=name), HarnessConfig())
    labels = written(tmp_path, row | {"choices": {"text": ["x", "y"], "label": 5}, "answer": "B"})
    assert read_questions(labels, HarnessConfig())[0].answer == 1, "labels that are no list are A, B …"
