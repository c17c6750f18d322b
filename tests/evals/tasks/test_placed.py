"""Placed questions: files and places, likelihoods against a plain forward pass, letters when served, whole runs."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from skipwise.cli.main import main
from skipwise.config import EvaluationConfig, ModelConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.choice_likelihood import ChoicePrompt, log_likelihoods
from skipwise.evals.rows import read
from skipwise.evals.task import Inputs, Question, TooShortError
from skipwise.evals.tasks.placed import task
from skipwise.evals.tasks.placed.plain_questions import QUESTIONS
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import load
from support.known_answers import rows_of
from support.openai_server import serving
from support.tiny import tiny_llama

PROSE = "The rain had stopped at noon. Nobody came by. She read on, page after page! Was it late? It was not.\n\n"


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(PROSE, encoding="utf-8")
    return str(path)


def inputs_of(tokenizer: Any, book: str, **placed: Any) -> Inputs:
    return Inputs(tokenizer, EvaluationConfig(placed={"filler": [book], **placed}))


def test_the_packaged_questions_are_fair() -> None:
    assert 20 <= len(QUESTIONS) == len({one.prompt for one in QUESTIONS})
    assert set(Counter(one.answer for one in QUESTIONS).values()) == {len(QUESTIONS) // 4}
    assert all(len(set(one.choices)) == 4 for one in QUESTIONS)


@pytest.mark.parametrize("length", [700, 3001])
@pytest.mark.parametrize("kind", ["likelihood", "letter"])
def test_places_and_lengths(tokenizer: Any, book: str, length: int, kind: str) -> None:
    inputs = inputs_of(tokenizer, book, limit=3, answer=kind)
    cells = task.TASK.cells(inputs, length)
    assert [(cell.variant, cell.depth) for cell in cells] == [
        (f"{kind}, no filler", None),
        *((kind, depth) for depth in (0.0, 0.5, 1.0)),
    ]
    longest = max(inputs.count(sentence) for sentence in PROSE.split(". ")) + 6
    for cell in cells:
        room = length - cell.answer_tokens
        for trial in range(3):
            asked = task.TASK.question(inputs, cell, trial)
            text, shown = tokenizer.decode(asked.ids), task.question_text(QUESTIONS[trial], kind)
            assert text.count(shown) == 1
            assert text.endswith(task.LEADS[kind])
            before, after = text.split(shown)
            share = len(before) / (len(before) + len(after))
            if cell.depth is None:
                assert PROSE[:20] not in text
                continue
            assert room - longest < len(asked.ids) <= room
            assert abs(share - cell.depth) < 0.2
            assert asked.ids == task.TASK.question(inputs_of(tokenizer, book, limit=3, answer=kind), cell, trial).ids


def test_right_and_wrong_answers(bpe: Any, book: str) -> None:
    inputs = inputs_of(bpe, book)
    right = rows_of(task.TASK, inputs, 800, lambda question: f" {question.truth[0]}")
    assert [(row.variant, row.depth, row.n) for row in right] == [
        ("likelihood, no filler", None, 24),
        *(("likelihood", depth, 24) for depth in (0.0, 0.5, 1.0)),
        ("likelihood", None, 72),
    ]
    assert {row.value for row in right} == {1.0}
    assert {row.chance for row in right} == {0.25}
    assert right[-1].interval is not None
    assert right[-1].interval.endswith("over 24 questions")
    assert {row.value for row in rows_of(task.TASK, inputs, 800, lambda question: " none")} == {0.0}
    letters = inputs_of(bpe, book, answer="letter")
    assert {row.value for row in rows_of(task.TASK, letters, 900, lambda question: f" {question.truth[0]}.")} == {1.0}
    always = rows_of(task.TASK, letters, 900, lambda question: " A.")
    assert {row.value for row in always} == {0.25}


@pytest.mark.parametrize(
    ("answer", "right"),
    [(" B.", True), (" (B) honey", True), (" A or B", False), (" Bees", False), (" I say B", True), ("", False)],
)
def test_the_first_letter_is_judged(answer: str, right: bool) -> None:
    assert task.letter_score(answer, Question([], [], ["B", "?"], "ABCD")) == right


@pytest.mark.parametrize("scaling", [None, {"rope_type": "dynamic", "factor": 2.0}])
def test_likelihoods_are_those_of_one_pass(tmp_path: Path, scaling: dict[str, Any] | None) -> None:
    more = {"rope_parameters": {"rope_theta": 10000.0, **scaling}} if scaling else {}
    loaded = load(ModelConfig(path=str(tiny_llama(tmp_path, window=64, **more)), precision="float32"))
    reader = Reader(loaded.model, chunk=32)
    assert reader.whole == bool(scaling)
    base = torch.randint(3, 500, (90,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [ChoicePrompt(base[:n], [[5], [7, 8, 9], [11, 5]]) for n in (60, 90, 1, 61)]
    prompts.append(ChoicePrompt([*base[:40], 3, 4], [[5, 6], [9]]))
    values = dict(log_likelihoods(reader, prompts))
    for i, prompt in enumerate(prompts):
        for choice, value in zip(prompt.choices, values[i], strict=True):
            reader.reset()
            with torch.no_grad():
                logits = loaded.model(torch.tensor([[*prompt.ids, *choice]])).logits[0].log_softmax(-1)
            wanted = sum(float(logits[len(prompt.ids) - 1 + j, token]) for j, token in enumerate(choice))
            assert value == pytest.approx(wanted, abs=2e-3)


def test_files_of_questions(bpe: Any, book: str, tmp_path: Path) -> None:
    path = tmp_path / "quiz.jsonl"
    path.write_text(json.dumps({"q": "One and one?", "choices": ["two", "six"], "answer": "two"}) + "\n")
    settings = EvaluationConfig(
        placed={"filler": [book], "questions": str(path), "answer": "letter"}, harness={"question_field": "q"}
    )
    inputs = Inputs(bpe, settings)
    asked = task.TASK.question(inputs, task.TASK.cells(inputs, 900)[-1], 0)
    assert "Question: One and one?\nA. two\nB. six" in bpe.decode(asked.ids)
    assert (asked.truth, asked.chance) == (["A", "One and one?"], 0.5)
    with pytest.raises(SkipwiseError, match=r"evaluation\.placed\.questions: .*no\.jsonl: no such file"):
        task.check(EvaluationConfig(placed={"questions": "no.jsonl"}))
    with pytest.raises(SkipwiseError, match=r"evaluation\.placed\.depths is empty"):
        task.check(EvaluationConfig(placed={"depths": []}))
    with pytest.raises(TooShortError, match=r"a placed prompt of 60 tokens is too short: .* take \d+"):
        task.TASK.cells(inputs, 60)


def test_the_whole_on_a_tiny_model_in_process_and_served(
    tmp_path: Path, book: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_llama(tmp_path / "model")
    common = ["--tasks", "placed", "--lengths", "400", "--set", f"evaluation.placed.filler=[{book}]"]
    common += ["--set", "evaluation.placed.limit=3", "--set", "evaluation.placed.depths=[0.5]"]
    for answer in ("likelihood", "letter"):
        out = tmp_path / f"{answer}.jsonl"
        command = ["eval", str(model), *common, "--set", f"evaluation.placed.answer={answer}", "--out", str(out)]
        assert main(command) == 0
        written = out.read_bytes()
        assert main(command) == 0
        assert out.read_bytes() == written
    variants = sorted(str(row.variant) for row in read(tmp_path / "likelihood.jsonl"))
    assert variants == ["likelihood", "likelihood", "likelihood, no filler"]
    with serving(model, generate=True) as address:
        out = tmp_path / "served.jsonl"
        assert main(["eval", address, "--tokenizer", str(model), *common, "--out", str(out)]) == 0
    served, local = ({row.setup(): row.scores for row in read(path)} for path in (out, tmp_path / "letter.jsonl"))
    assert served == local
    assert re.search(r"^placed, guessing 25%, value \[", capsys.readouterr().out, re.M)
