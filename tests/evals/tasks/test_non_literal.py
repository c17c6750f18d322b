"""Needles without a common word: the items, the two variants side by side, lengths, verdicts, a whole run."""

import re
from pathlib import Path
from typing import Any

import pytest
from nltk.stem.porter import PorterStemmer

from skipwise.cli.main import main
from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals.rows import Row, read
from skipwise.evals.task import Cell, Inputs, Question, TooShortError
from skipwise.evals.tasks import non_literal as task
from support.known_answers import rows_of
from support.tiny import tiny_llama

PROSE = "The rain had stopped at noon. Nobody came by. She read on, page after page! Was it late? It was not.\n\n"
FUNCTION_WORDS = set(
    "a an and another at been before behind by comes for from good got has have in is it its of on one or out that the "
    "then to twice two until up was what wherever who whose with".split()
) - {"good", "comes", "got"}


@pytest.fixture(scope="module")
def book(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text(PROSE, encoding="utf-8")
    return str(path)


def inputs_of(tokenizer: Any, book: str, **settings: Any) -> Inputs:
    return Inputs(tokenizer, EvaluationConfig(non_literal={"filler": [book]}, **settings))


def stems(text: str) -> set[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return {PorterStemmer().stem(word) for word in words if word not in FUNCTION_WORDS}


@pytest.mark.parametrize("item", task.ITEMS)
def test_a_needle_shares_no_content_word_with_its_question(item: task.Item) -> None:
    asked = stems(item.question)
    assert asked
    assert not asked & stems(item.needle)
    assert asked <= stems(item.literal)
    assert not stems(task.ASK.format(question="") + task.LEAD) & stems(item.needle)


def test_no_needle_holds_the_words_of_another_question() -> None:
    for item in task.ITEMS:
        for other in task.ITEMS:
            if other is not item:
                assert not stems(item.question) <= stems(other.needle)
    assert len({item.question for item in task.ITEMS}) == len(task.ITEMS) >= 24


@pytest.mark.parametrize("length", [1500, 4001])
@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_variants_differ_in_one_sentence_and_fill_their_length(
    tokenizer: Any, book: str, length: int, depth: float
) -> None:
    inputs = inputs_of(tokenizer, book)
    longest = max(inputs.count(sentence) for sentence in PROSE.split(". ")) + 6
    cell = Cell(length, 2, task.ANSWER_TOKENS, depth, 1)
    both = [task.question(inputs, cell._replace(variant=variant), 0) for variant in task.VARIANTS]
    room = length - task.ANSWER_TOKENS
    assert room - longest < max(len(question.ids) for question in both) <= room
    drawn = task.draw(inputs, cell, 0)
    texts = [tokenizer.decode(question.ids) for question in both]
    item = task.ITEMS[drawn.item]
    literal, associated = (f"{drawn.name} {words}" for words in (item.literal, item.needle))
    assert texts[0].replace(literal, associated) == texts[1]
    assert (texts[0].count(literal), texts[1].count(associated)) == (1, 1)
    assert all(text.endswith(f"Question: {item.question} Answer with a name.\nAnswer:") for text in texts)
    assert all(sentence in text for _, sentence in drawn.others for text in texts)
    assert len({sentence.split()[0] for _, sentence in drawn.others} | {drawn.name}) == task.OTHERS + 1
    start, end = texts[0].index("Read it."), texts[0].index("Question:")
    place = (texts[0].index(literal) - start) / (end - start)
    assert abs(place - depth) < 0.3  # the four other sentences shift it in a short text
    assert [question.ids for question in both] == [
        task.question(inputs_of(tokenizer, book), cell._replace(variant=variant), 0).ids for variant in task.VARIANTS
    ]


def test_items_come_again_only_when_all_were_asked(bpe: Any, book: str) -> None:
    inputs = inputs_of(bpe, book)
    items = [task.draw(inputs, Cell(999, 7, 16, 0.5, depth), trial).item for depth in range(5) for trial in range(7)]
    assert len(set(items[: len(task.ITEMS)])) == len(task.ITEMS)


def test_names_in_the_prose_are_not_asked_for(bpe: Any, tmp_path: Path) -> None:
    text = tmp_path / "names.txt"
    text.write_text(PROSE + " ".join(f"Then came {name}." for name in task.NAMES[:12]))
    inputs = inputs_of(bpe, str(text))
    names = {task.draw(inputs, Cell(999, 2, 16, 0.5, 0), trial).name for trial in range(200)}
    assert names == set(task.NAMES[12:])
    text.write_text(PROSE + " ".join(f"Then came {name}." for name in task.NAMES[:16]))
    with pytest.raises(SkipwiseError, match=r"holds 16 of the 20 names"):
        task.draw(inputs_of(bpe, str(text)), Cell(999, 2, 16, 0.5, 0), 0)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" Greta.", True),
        (" It is Greta, not Hugo.", True),
        (" Hugo, or Greta.", False),
        (" greta", False),
        (" Gretas", False),
        ("", False),
    ],
)
def test_the_first_name_is_judged(answer: str, right: bool) -> None:
    assert task.score(answer, Question([], [], ["Greta", "Who?"])) == right


def test_the_difference_is_paired_over_items(bpe: Any, book: str) -> None:
    inputs = inputs_of(bpe, book, depths=[0.0, 1.0], trials=5)
    words = {item.question: item.literal for item in task.ITEMS}

    def by_words(question: Question) -> str:
        """A reader that finds the sentence that repeats the question's words, and nothing else."""
        text, (name, asked) = bpe.decode(question.ids), question.truth
        return f" {name}." if f"{name} {words[asked]}" in text else " Nobody."

    rows = rows_of(task.TASK, inputs, 2000, by_words)
    whole = {row.variant: row for row in rows if row.depth is None}
    assert {variant: row.value for variant, row in whole.items()} == {"literal": 1, "associated": 0, "difference": -1}
    assert whole["literal"].chance == 0.2
    difference = whole["difference"]
    assert difference.high is not None
    assert difference.high < 0
    assert difference.interval == "paired Bonett-Price 95% over 10 items"
    known = rows_of(task.TASK, inputs, 2000, lambda question: f" {question.truth[0]}.")
    assert {row.variant: row.value for row in known if row.depth is None} == {
        "literal": 1,
        "associated": 1,
        "difference": 0,
    }


def test_the_shortest_length(tokenizer: Any, book: str) -> None:
    inputs = inputs_of(tokenizer, book)
    with pytest.raises(TooShortError, match=r"a non_literal prompt of 100 tokens is too short") as error:
        task.cells(inputs, 100)
    needed = int(re.findall(r"take ([\d,k]+)", str(error.value))[0].replace(",", ""))
    assert needed > 100


def test_the_whole_on_a_tiny_model(tmp_path: Path, book: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = tiny_llama(tmp_path / "model"), tmp_path / "rows.jsonl"
    command = ["eval", str(model), "--tasks", "non_literal", "--lengths", "700", "--out", str(out)]
    command += ["--set", f"evaluation.non_literal.filler=[{book}]", "--set", "evaluation.trials=1"]
    assert main(command) == 0
    rows: list[Row] = read(out)
    assert {row.variant for row in rows if row.depth is None} == {"literal", "associated", "difference"}
    assert "difference" in capsys.readouterr().out
    written = out.read_bytes()
    assert main(command) == 0
    assert out.read_bytes() == written
