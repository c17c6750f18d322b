"""Needles in prose: wording, places at sentence borders, lengths with several tokenizers, and known answers."""

import re
from pathlib import Path
from typing import Any

import pytest

from skipwise.assets import catalogue
from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import task
from skipwise.evals.averages import overall
from skipwise.evals.filler import Haystack, split
from skipwise.evals.task import Cell, Inputs, Question, TooShortError
from skipwise.evals.tasks import needle
from support.tokenizers_of_kinds import Counting

PROSE = (
    "It was a bright day in April. The clocks were striking twelve, and Mr. Brown came home! He did not stay; why "
    'should he?\n\n"Nobody knows," she said. "Ask Dr. Green (e.g. Tomorrow)." The rest is silence'
)


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(PROSE + "\n", encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKIPWISE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def inputs_of(tokenizer: Any, *paths: Path, **settings: Any) -> Inputs:
    haystack = {"needle": {"haystack": [str(path) for path in paths]}} if paths else {}
    return Inputs(tokenizer, EvaluationConfig(**settings, **haystack))


def cell_of(length: int, depth: float = 0.5, n: int = 1) -> Cell:
    return Cell(length, n, needle.ANSWER_TOKENS, depth, 0)


def test_sentences_end_where_they_do() -> None:
    ends = split(PROSE)
    parts = [PROSE[a:b] for a, b in zip([0, *ends], ends, strict=False)]
    assert parts == [
        "It was a bright day in April. ",
        "The clocks were striking twelve, and Mr. Brown came home! ",
        "He did not stay; why should he?\n\n",
        '"Nobody knows," she said. ',
        '"Ask Dr. Green (e.g. Tomorrow)." ',
        "The rest is silence",
    ]
    assert split("他来了。她走了。") == [4, 8]
    assert split("no end") == [6]


def test_wording_and_places() -> None:
    text = "One one. Two two. Three three. Four four.\n\n"
    hay = Haystack(text, split(text), 3.0)
    frame = needle.DESCRIPTION + "\n\n{}\n\nWhat is the secret number of Oslo?"
    said = "The secret number of Oslo is 123456."

    def prompt(sentences: int, depth: float) -> str:
        return needle.prompt_text(hay, sentences, depth, "Oslo", "123456")

    assert prompt(0, 0.5) == frame.format(said)
    assert prompt(3, 0.0) == frame.format(f"{said} One one. Two two. Three three.")
    assert prompt(3, 0.4) == frame.format(f"One one. {said} Two two. Three three.")
    assert prompt(3, 1.0) == frame.format(f"One one. Two two. Three three. {said}")
    # Repeated from its first sentence; a needle at the end of a paragraph begins the next one.
    assert prompt(6, 0.66) == frame.format(f"{text}{said} One one. Two two.")
    assert prompt(4, 1.0) == frame.format(f"{text.strip()} {said}")
    assert needle.LEAD.format(city="Oslo") == " The secret number of Oslo is"


def test_borders_of_the_repeated_text() -> None:
    hay = Haystack(PROSE + "\n\n", split(PROSE + "\n\n"), 3.0)
    many = (PROSE + "\n\n") * 4
    for sentences in range(20):
        assert hay.cut(sentences) == many[: hay.end(sentences)]
        assert hay.sentences(hay.end(sentences)) == sentences
        assert hay.sentences(hay.end(sentences) + 1) == sentences


@pytest.mark.parametrize("length", [400, 1001, 5000])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_prompts_fill_their_length_and_are_whole(tokenizer: Any, book: Path, length: int, depth: float) -> None:
    inputs = inputs_of(tokenizer, book)
    question = needle.question(inputs, cell_of(length, depth), 0)
    hay = needle.haystack(inputs)
    slack = max(inputs.count(" " + hay.text[a:b]) for a, b in zip([0, *hay.ends], hay.ends, strict=False))
    room = length - needle.ANSWER_TOKENS
    assert room - slack - 3 < len(question.ids) <= room
    text = tokenizer.decode(question.ids, skip_special_tokens=True)
    assert question.ids == tokenizer(text)["input_ids"]
    [number] = question.truth
    found = re.search(rf"The secret number of (\w+) is {number}\.", text)
    assert found is not None
    assert text.count(number) == 1
    assert text.startswith(needle.DESCRIPTION)
    assert text.endswith(f"What is the secret number of {found[1]}? The secret number of {found[1]} is")
    # Without its needle it is the beginning of the repeated text.
    body = text[len(needle.DESCRIPTION) : text.rindex("What is")].replace(found[0], "")
    assert " ".join((hay.text * 100).split()).startswith(" ".join(body.split()))
    before = text[: found.start()].rstrip()
    assert re.search(r"""[.!?]["”)]*$|silence$""", before), before[-30:]
    said = tokenizer.decode(question.ids + question.draft, skip_special_tokens=True)
    assert said == f"{text} {number}."


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_needle_stands_at_its_depth(bpe: Any, depth: float) -> None:
    question = needle.question(inputs_of(bpe), cell_of(8000, depth), 0)
    text = bpe.decode(question.ids)[len(needle.DESCRIPTION) :]
    place = text.index(question.truth[0])
    assert place / text.rindex("What is") == pytest.approx(depth, abs=0.02)


def test_numbers_cities_and_beginnings(bpe: Any) -> None:
    inputs = inputs_of(bpe, depths=[0.5, 1.0], trials=6)
    found = [[needle.question(inputs, cell, t) for t in range(cell.n)] for cell in needle.cells(inputs, 1500)]
    numbers = [question.truth[0] for row in found for question in row]
    assert all(re.fullmatch("[1-9][0-9]{5}", number) for number in numbers)
    assert len(set(numbers)) == 12
    texts = [bpe.decode(question.ids) for row in found for question in row]
    cities = {re.search(r"What is the secret number of (\w+)\?", text)[1] for text in texts}  # type: ignore[index]
    assert len(cities) > 4
    assert cities <= set(needle.CITIES)
    # What comes before the needles is the same text.
    assert all(text[:1000] == texts[0][:1000] for text in texts)
    assert len(set(needle.CITIES)) == len(needle.CITIES) == 40


def test_a_number_that_the_haystack_holds_is_not_drawn(bpe: Any) -> None:
    cell = cell_of(500)
    hay = Haystack("No number. None at all. ", [10, 24], 3.0)
    city, number = needle.draw(hay, 0, cell, 0)
    holding = hay._replace(text=f"Here is {number}. None at all. ")
    assert needle.draw(holding, 0, cell, 0)[0] == city
    assert needle.draw(holding, 0, cell, 0)[1] != number


def test_the_shortest_prompt_and_shorter(tokenizer: Any, book: Path) -> None:
    inputs = inputs_of(tokenizer, book)
    minimum = needle.minimum_length(inputs)
    assert [cell.depth for cell in needle.cells(inputs, minimum)] == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(TooShortError, match=rf"needle prompt of {minimum - 1} tokens .* take {minimum}"):
        needle.cells(inputs, minimum - 1)
    for depth in (0.0, 1.0):
        assert len(needle.question(inputs, cell_of(minimum, depth), 0).ids) <= minimum - needle.ANSWER_TOKENS


def test_texts_that_cannot_be(bpe: Any, tmp_path: Path) -> None:
    plain = tmp_path / "list.txt"
    plain.write_text("apples pears plums")
    with pytest.raises(SkipwiseError, match=r"no sentence ends in .*list\.txt"):
        needle.cells(inputs_of(bpe, plain), 500)
    with pytest.raises(SkipwiseError, match="no such file"):
        needle.cells(inputs_of(bpe, tmp_path / "missing.txt"), 500)
    with pytest.raises(SkipwiseError, match="haystack is empty"):
        needle.cells(Inputs(bpe, EvaluationConfig(needle={"haystack": []})), 500)


def test_the_default_text_is_english_prose_that_python_carries() -> None:
    text = (catalogue.get("python-reference")).read_text(encoding="utf-8")
    assert len(text) > 100_000
    assert {row.name: row.there for row in catalogue.describe()}["python-reference"]
    paragraphs = text.strip().split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs) > 300
    letters = sum(letter.isalpha() or letter.isspace() for letter in text)
    assert letters / len(text) > 0.9
    assert len(split(text)) > 1.5 * len(paragraphs)


def test_building_is_linear_in_the_length(tokenizer: Any, book: Path) -> None:
    for length in (2000, 16_000):
        counting = Counting(tokenizer)
        inputs = inputs_of(counting, book)
        needle.minimum_length(inputs)
        counting.characters = 0
        ids = needle.question(inputs, cell_of(length), 0).ids
        assert counting.characters < 9 * len(tokenizer.decode(ids)) + 5000


def test_a_chat_prompt_is_the_users_turn(bpe: Any, book: Path) -> None:
    bpe.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[reply]"
    question = needle.question(inputs_of(bpe, book, chat=True), cell_of(700), 0)
    text = bpe.decode(question.ids)
    bpe.chat_template = None
    assert text.startswith("[user]" + needle.DESCRIPTION)
    assert re.search(r"secret number of (\w+)\?\[/\]\[reply\]The secret number of \1 is$", text)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 123456.", True),
        ("123456", True),
        (" 1234567", False),
        (" 12345", False),
        (" 654321, 123456", False),
        ("", False),
    ],
)
def test_the_whole_number_is_judged(answer: str, right: bool) -> None:
    assert needle.TASK.score(answer, Question([], [], ["123456"])) == right


def test_right_answers_at_some_depths_fill_exactly_those_cells(bpe: Any, book: Path) -> None:
    inputs = inputs_of(bpe, book, trials=3)

    def answer(questions: Any, limit: int, ended: Any, advance: Any) -> Any:
        for i, question in enumerate(questions):
            text = bpe.decode(question.ids)
            [number] = question.truth
            good = 0.4 < text.index(number) / len(text) < 0.9
            yield i, bpe(f" {number if good else number[:-1]}.", add_special_tokens=False)["input_ids"]

    parts = []
    for cell in needle.cells(inputs, 3000):
        questions = [needle.question(inputs, cell, trial) for trial in range(cell.n)]
        parts.append((cell, task.header(needle.TASK, inputs, cell, questions), questions))
    rows = [row for _, row in task.measure(needle.TASK, inputs, parts, answer)]
    assert [(row.depth, row.value) for row in rows] == [(0, 0), (0.25, 0), (0.5, 1), (0.75, 1), (1, 0)]
    assert [row.value for row in overall(rows)] == [0.4]
