"""Questions about the start of a document: what is found there, what is asked, how prompts are cut, answers judged."""

import re
from pathlib import Path
from typing import Any

import pytest

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import task
from skipwise.evals.task import Inputs, Question, TooShortError
from skipwise.evals.tasks import document_qa
from support.tiny import tiny_tokenizer

GUTENBERG = "The Gutenberg EBook of Emma\n\nTitle: Emma, A Novel\n\nAuthor: Jane Austen\n\n*** START ***\n"
FRONT = '---\ntitle: "Long Windows: a study"\nauthor: Ada Lovelace\ntags: [x]\n---\n\n# Another heading\n\nText.\n'


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("emma.txt", GUTENBERG, {"title": "Emma, A Novel", "author": "Jane Austen"}),
        ("post.md", FRONT, {"title": "Long Windows: a study", "author": "Ada Lovelace"}),
        ("read.md", "\n# Some *Title*\n\nby Ada Byron\n\nText\n", {"title": "Some *Title*", "author": "Ada Byron"}),
        ("play.txt", "\n\nANTONY AND CLEOPATRA\n\nby William Shakespeare\n\nPERSONS\n",
         {"title": "ANTONY AND CLEOPATRA", "author": "William Shakespeare"}),
        ("play.txt", "COMUS\nWritten by: John Milton.\nA Mask\n", {"title": "COMUS", "author": "John Milton"}),
        ("play.txt", "COMUS\n\nby\n\nJohn Milton\n\nA Mask\n", {"title": "COMUS", "author": "John Milton"}),
        ("guide.rst", "A Guide to It\n=============\n\nText.\n", {"title": "A Guide to It"}),
        ("guide.rst", "=====\nGuide\n=====\n\nText.\n", {"title": "Guide"}),
        ("paper.tex", "\\documentclass{article}\n\\title{On Positions}\n\\author{R. Ope}\n",
         {"title": "On Positions", "author": "R. Ope"}),
        ("book.txt", "It was a bright cold day in April,\nand the clocks were striking thirteen.\n",
         {"first_line": "It was a bright cold day in April,"}),
        ("long.txt", " ".join(f"w{i}" for i in range(40)) + "\nmore\n",
         {"first_line": "w0 w1 w2 w3 w4 w5 w6 w7 w8 w9 w10 w11"}),
        ("sched.py", '"""A generally useful event scheduler class.\n\nby the way\n"""\n',
         {"first_line": '"""A generally useful event scheduler class.'}),
        ("tool.py", "#!/usr/bin/env python3\n# Title of nothing\n", {}),
        ("word.txt", "Too few words here\nand no gap below.\n", {}),
        ("nothing.txt", " \n\n", {}),
    ],
)  # fmt: skip
def test_what_a_document_says_of_itself(name: str, text: str, found: dict[str, str]) -> None:
    assert document_qa.document_facts(name, text) == found


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" Of Long Windows\n", 1),
        ("\n\n The title is 'OF LONG-WINDOWS'.\nby Ada", 1),
        (" of long windows", 1),
        (" Of Longer Windows", 0),
        (" Prof Long Windows", 0),
        (" I do not know.\nOf Long Windows", 0),
        ("", 0),
        ("\n", 0),
    ],
)
def test_the_first_line_of_the_answer_contains_the_right_one(answer: str, right: int) -> None:
    assert document_qa.score(answer, Question([], [], ["Of Long Windows"])) == right


def test_decoding_ends_with_the_first_line() -> None:
    question = Question([], [], [""])
    ended = [document_qa.TASK.ended(answer, question) for answer in ("", "\n", "\n\n a", " a b", " a\n", "\na\n")]
    assert ended == [False, False, False, False, True, True]


def book(title: str, author: str, sentences: int, *, tail: str = "") -> str:
    lines = [f"Line {i} of the text says that the number {i * i} is a square." for i in range(sentences)]
    return f"{title}\n\nby {author}\n\n" + "\n".join(lines) + f"\n{tail}"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def inputs_of(tokenizer: Any, folder: Path, **settings: Any) -> Inputs:
    known = {"document_qa": {"data": [str(folder)]}} | settings
    return Inputs(tokenizer, EvaluationConfig.model_validate(known))


@pytest.fixture
def library(tmp_path: Path) -> Path:
    names = ["Alpha Centauri", "Beta Decay", "Gamma Rays", "Delta of the Nile"]
    for i, name in enumerate(names):
        (tmp_path / f"{i}.txt").write_text(book(name, f"Author Number{i}", 400), encoding="utf-8")
    (tmp_path / "short.txt").write_text(book("Short Story", "Nobody", 3), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("length", [700, 1500, 4000])
def test_prompts_fill_their_length_and_end_at_a_line(tokenizer: Any, library: Path, length: int) -> None:
    inputs = inputs_of(tokenizer, library)
    cells = document_qa.cells(inputs, length)
    assert [(cell.variant, cell.n) for cell in cells] == [("title", 4), ("author", 4)]
    room = length - document_qa.ANSWER_TOKENS
    for cell in cells:
        for trial in range(cell.n):
            one = document_qa.question(inputs, cell, trial)
            text = tokenizer.decode(one.ids)
            assert room - 45 < len(one.ids) <= room
            assert re.search(r"is a square\.\n\n=== END ===\n\nQuestion: .*\?\nAnswer:$", text)
            assert one.truth[0] in text.split("\n\n=== BEGIN ===\n\n")[1][:60]
            assert one.ids == tokenizer(text)["input_ids"]


def test_a_model_that_finds_the_start_is_right(tokenizer: Any, library: Path) -> None:
    def answer(questions: Any, limit: int, ended: Any, advance: Any) -> Any:
        for i, question in enumerate(questions):
            shown = tokenizer.decode(question.ids).split("=== BEGIN ===\n\n")[1].split("\n")
            said = f" {shown[0]}\n" if "title" in tokenizer.decode(question.ids[-40:]) else " Author Number2\n"
            yield i, tokenizer(said, add_special_tokens=False)["input_ids"]

    inputs = inputs_of(tokenizer, library)
    cells = document_qa.cells(inputs, 1000)
    asked = [[document_qa.question(inputs, cell, trial) for trial in range(cell.n)] for cell in cells]
    heads = [task.header(document_qa.TASK, inputs, *pair) for pair in zip(cells, asked, strict=True)]
    parts = list(zip(cells, heads, asked, strict=True))
    rows = [row for _, row in task.measure(document_qa.TASK, inputs, parts, answer)]
    assert [(row.variant, row.value, row.n, row.interval) for row in rows] == [
        ("title", 1.0, 4, "Clopper-Pearson, at least 95%"),
        ("author", 0.25, 4, "Clopper-Pearson, at least 95%"),
    ]


def asked_of(tokenizer: Any, folder: Path, length: int = 1000, **settings: Any) -> dict[str, set[str]]:
    found = document_qa.questions(inputs_of(tokenizer, folder, **settings), length)
    return {kind: {one.truth[0] for one in questions} for kind, questions in found.items()}


def test_what_need_not_be_looked_up_is_not_asked(tokenizer: Any, tmp_path: Path) -> None:
    middle = book("Alpha Centauri", "Ann Onym", 15) + "This is ALPHA-CENTAURI again.\n" + book("x", "y", 300)
    (tmp_path / "again.txt").write_text(middle, encoding="utf-8")
    (tmp_path / "later.txt").write_text(book("Beta Decay", "Bob", 300, tail="Beta Decay"), encoding="utf-8")
    for name in ("one.txt", "two.txt"):
        (tmp_path / name).write_text(book("The Same Title", "Same Author", 300), encoding="utf-8")
    found = asked_of(tokenizer, tmp_path)
    # What stands behind the cut is no matter; a title of two documents is not asked, their author is.
    assert found == {"title": {"Beta Decay"}, "author": {"Ann Onym", "Bob", "Same Author"}}


def test_a_document_that_does_not_fill_the_length_is_left_out(tokenizer: Any, library: Path) -> None:
    text = book("Middle March", "Mary Ann", 80)
    (library / "middle.txt").write_text(text, encoding="utf-8")
    assert len(text) > 4000 > len(tokenizer(text)["input_ids"])
    assert "Middle March" in asked_of(tokenizer, library, 700)["title"]
    assert asked_of(tokenizer, library, 4000)["title"] >= {"Alpha Centauri"}
    assert "Middle March" not in asked_of(tokenizer, library, 4000)["title"]


def test_the_seed_draws_the_documents(tokenizer: Any, library: Path) -> None:
    def drawn(seed: int) -> frozenset[str]:
        settings = {"document_qa": {"data": [str(library)], "documents": 2}, "seed": seed}
        return frozenset(asked_of(tokenizer, library, **settings)["title"])

    assert {len(drawn(seed)) for seed in range(4)} == {2}
    assert len({drawn(seed) for seed in range(8)}) > 1
    assert drawn(3) == drawn(3)


def test_lengths_that_cannot_be_asked(tokenizer: Any, library: Path) -> None:
    inputs = inputs_of(tokenizer, library)
    with pytest.raises(TooShortError, match="document_qa at 80 tokens"):
        document_qa.cells(inputs, 80)
    with pytest.raises(SkipwiseError, match=r"no document of .* fills 100,000 tokens"):
        document_qa.cells(inputs, 100_000)


def test_long_lines_are_cut_between_sentences() -> None:
    line = "One sentence here. " * 30 + "\n"
    parts = document_qa.pieces("Short. Line.\n" + line)
    assert "".join(parts) == "Short. Line.\n" + line
    assert parts[:3] == ["Short. Line.\n", "One sentence here. ", "One sentence here. "]
