"""MRCR: conversations and their near misses, lengths, chat messages, the published score, whole runs."""

import random
import re
from pathlib import Path
from typing import Any

import pytest

from skipwise.cli.main import main
from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import read
from skipwise.evals.task import Cell, Inputs, Question, TooShortError
from skipwise.evals.tasks.mrcr import task
from skipwise.evals.tasks.mrcr.task import Conversation
from support.known_answers import rows_of
from support.tiny import tiny_llama

CHAT = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[reply]"


def inputs_of(tokenizer: Any, chat: bool = False, **mrcr: Any) -> Inputs:
    return Inputs(tokenizer, EvaluationConfig(mrcr=mrcr, chat=chat))


def turns_of(text: str) -> list[tuple[str, str]]:
    """(request, text) of every turn of a plain prompt, read from its text."""
    return re.findall(r"User: (Write .+?)\n\nAssistant: (.+?)(?=\n\nUser:)", text, re.S)


def test_conversations() -> None:
    for seed in range(40):
        needles = 2 + seed % 7
        talk = Conversation(random.Random(str(seed)), needles, 3)
        long, short = talk.turns(60), talk.turns(20)
        request = f"Write a {talk.form} about {talk.subject}"
        for turns in (long, short):
            assert [text for asked, text in turns if asked == request] == talk.needles
        assert [turn for turn in short if turn[0] != request] == [turn for turn in long if turn[0] != request][:20]
        assert len({text for _, text in long}) == 60 + needles
        near = [asked for asked, _ in long if talk.form in asked or talk.subject in asked]
        assert len(near) - needles >= 15
        assert sorted(talk.order) == list(range(needles))
        assert all(talk.subject in text.lower() for text in talk.needles)


@pytest.mark.parametrize("length", [3000, 6001])
def test_prompts_fill_their_length(tokenizer: Any, length: int) -> None:
    inputs = inputs_of(tokenizer, samples=4, conversations=2, needles=[2, 4])
    for cell in task.cells(inputs, length):
        room = length - cell.answer_tokens
        asked = [task.question(inputs, cell, trial) for trial in range(4)]
        assert [question.unit for question in asked] == ["conversation 0", "conversation 1"] * 2
        for question in asked:
            text = tokenizer.decode(question.ids)
            longest = max(inputs.count(f"\n\nUser: {a}\n\nAssistant: {b}") for a, b in turns_of(text + "\n\nUser:"))
            assert room - 1.5 * longest < len(question.ids) <= room
            assert inputs.count(" " + question.truth[0]) <= cell.answer_tokens
        for first, second in ((asked[0], asked[2]), (asked[1], asked[3])):
            texts = [tokenizer.decode(question.ids) for question in (first, second)]
            assert turns_of(texts[0]) == turns_of(texts[1])
            assert first.truth != second.truth
        again = task.question(inputs_of(tokenizer, samples=4, conversations=2, needles=[2, 4]), cell, 0)
        assert again.ids == asked[0].ids


def test_the_kth_one_is_the_right_one(bpe: Any) -> None:
    inputs = inputs_of(bpe, samples=8, conversations=1, needles=[8])
    [cell] = task.cells(inputs, 6000)
    places = set()
    for trial in range(8):
        question = task.question(inputs, cell, trial)
        text = bpe.decode(question.ids)
        last = text[text.rindex("User:") :]
        asked = re.match(
            r"User: Prepend (\w{10}) to the (\d)\w\w \(1 indexed\) (.+) about (\w+)\. Do not include", last
        )
        assert asked is not None
        prefix, place, form, subject = asked.groups()
        same = [written for request, written in turns_of(text) if request == f"Write a {form} about {subject}"]
        assert question.truth[0] == prefix + same[int(place) - 1]
        places.add(place)
    assert places == set("12345678")


def test_a_chat_prompt_is_made_of_messages(bpe: Any) -> None:
    bpe.chat_template = CHAT
    inputs = inputs_of(bpe, chat=True, samples=1, needles=[2])
    text = bpe.decode(task.question(inputs, task.cells(inputs, 3000)[0], 0).ids)
    bpe.chat_template = None
    assert re.match(r"\[user\]Write a [a-z ]+ about \w+\[/\]\[assistant\]", text)
    assert text.count("[user]") == text.count("[assistant]") + 1
    assert re.search(r"\[user\]Prepend .* in your response\.\[/\]\[reply\]$", text)


@pytest.mark.parametrize(
    ("answer", "value"),
    [
        ("PREFIXabcd", 1.0),
        (" PREFIXabcd\n\nUser: Write a poem", 1.0),
        ("abcd", 0.0),
        ("Here: PREFIXabcd", 0.0),
        ("PREFIXabxy", 0.5),  # 2 letters match: 2 * 2 / (4 + 4)
        ("PREFIXab", 2 / 3),  # 2 * 2 / (2 + 4)
        ("PREFIX", 0.0),
        ("", 0.0),
    ],
)
def test_the_published_score(answer: str, value: float) -> None:
    question = Question([], [], ["PREFIXabcd", "Prepend", "PREFIX"])
    assert task.score(answer, question) == pytest.approx(value)
    if task.ended(answer, question):
        assert task.score(answer + "more", question) == pytest.approx(value)


def test_right_and_wrong_answers(bpe: Any) -> None:
    inputs = inputs_of(bpe, samples=4, conversations=2)
    right = rows_of(task.TASK, inputs, 5000, lambda question: f" {question.truth[0]}\n\nUser: Write")
    assert [(row.variant, row.value) for row in right] == [("needles_2", 1), ("needles_4", 1), ("needles_8", 1)]
    assert all(row.interval == "Clopper-Pearson, at least 95% over 2 conversations" for row in right)
    assert {row.value for row in rows_of(task.TASK, inputs, 5000, lambda question: f" {question.truth[0][1:]}")} == {0}
    # Chance is what writing any of the needles scores: 1 for the right one, less for others.
    [two, four, eight] = [row.chance or 0 for row in right]
    assert 0.5 < two < 0.9
    assert 0.25 < four < two
    assert 0.125 < eight < four


def test_guesses_score_the_chance(bpe: Any) -> None:
    inputs = inputs_of(bpe, samples=4, conversations=1, needles=[4])
    [cell] = task.cells(inputs, 4000)
    talk = task.conversation(inputs, 4000, 4, 0)
    for trial in range(4):
        question = task.question(inputs, cell, trial)
        scores = [task.score(talk.prefix + text, question) for text in talk.needles]
        assert question.chance == pytest.approx(sum(scores) / 4, abs=1e-4)


def test_lengths_that_hold_few_needles_and_none(bpe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = inputs_of(bpe)
    with pytest.raises(TooShortError, match=r"200 tokens are too short for mrcr: .* 2 needles \(\d+ tokens\)"):
        task.cells(inputs, 200)
    assert [cell.variant for cell in task.cells(inputs, 1000)] == ["needles_2", "needles_4"]
    assert "mrcr: left out at 1,000 tokens: 8 needles" in capsys.readouterr().err
    with pytest.raises(SkipwiseError, match=r"mrcr\.needles is empty"):
        task.cells(inputs_of(bpe, needles=[]), 3000)
    assert isinstance(task.cells(inputs, 6000)[2], Cell)


def test_the_whole_on_a_tiny_model(tmp_path: Path) -> None:
    model, out = tiny_llama(tmp_path / "model"), tmp_path / "rows.jsonl"
    command = ["eval", str(model), "--tasks", "mrcr", "--lengths", "1k", "--out", str(out)]
    command += ["--set", "evaluation.mrcr.samples=2", "--set", "evaluation.mrcr.needles=[2]"]
    command += ["--set", "evaluation.mrcr.sentences=1"]
    assert main(command) == 0
    assert [(row.variant, row.n, row.metric) for row in read(out)] == [("needles_2", 2, "similarity")]
    written = out.read_bytes()
    assert main(command) == 0
    assert out.read_bytes() == written
