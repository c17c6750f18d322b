"""The passkey prompt's wording and length with several real tokenizers, and verdicts where the answers are known."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from skipwise.config import EvaluationConfig
from skipwise.errors import SkipwiseError
from skipwise.evals import task
from skipwise.evals.averages import overall
from skipwise.evals.longest_prompt import fit
from skipwise.evals.task import Cell, Inputs, Question
from skipwise.evals.tasks import passkey
from support.tiny import tiny_tokenizer
from support.tokenizers_of_kinds import Counting, bytes_tokenizer

LONGEST_SENTENCE = max(passkey.FILLER, key=len)


def test_wording() -> None:
    assert passkey.prompt_text("12345", 8, 0.25) == (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
        "I will quiz you about the important information there.\n"
        "The grass is green. The sky is blue.\n"
        "The pass key is 12345. Remember it. 12345 is the pass key.\n"
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
        "The grass is green.\n"
        "What is the pass key?"
    )
    assert passkey.LEAD == " The pass key is"


def test_ends_of_the_depth() -> None:
    start, end = (passkey.prompt_text("12345", 5, depth).split("\n") for depth in (0.0, 1.0))
    assert [start[0], start[1][:12]] == [passkey.DESCRIPTION, "The pass key"]
    assert [end[-1], end[-2][:12]] == [passkey.ASK, "The pass key"]
    assert start[2] == end[1] == " ".join(passkey.FILLER)


def inputs_of(tokenizer: Any, **settings: Any) -> Inputs:
    return Inputs(tokenizer, EvaluationConfig(**settings))


def prompt(tokenizer: Any, depth: float, length: int) -> list[int]:
    return passkey.question(inputs_of(tokenizer), Cell(length, 1, passkey.ANSWER_TOKENS, depth, 0), 0).ids


def key_of(length: int) -> str:
    return passkey.draw_key(0, Cell(length, 1, passkey.ANSWER_TOKENS, 0.5, 0), 0)


@pytest.mark.parametrize("length", [700, 1001, 5000])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_prompts_fill_their_length_and_are_whole(tokenizer: Any, length: int, depth: float) -> None:
    ids = prompt(tokenizer, depth, length)
    slack = len(tokenizer(" " + LONGEST_SENTENCE, add_special_tokens=False)["input_ids"])
    room = length - passkey.ANSWER_TOKENS
    assert room - slack < len(ids) <= room
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.startswith(passkey.DESCRIPTION)
    assert text.endswith(passkey.ASK + passkey.LEAD)
    assert text.count(key_of(length)) == 2
    assert ids == tokenizer(text)["input_ids"]  # what the tokenizer does by itself, BOS included


def test_one_sentence_more_would_be_too_long(tokenizer: Any) -> None:
    for length in range(700, 760, 3):
        text = tokenizer.decode(prompt(tokenizer, 0.3, length), skip_special_tokens=True)
        sentences = sum(text.count(sentence) for sentence in passkey.FILLER)
        assert text == passkey.prompt_text(key_of(length), sentences, 0.3) + passkey.LEAD
        longer = tokenizer(passkey.prompt_text(key_of(length), sentences + 1, 0.3) + passkey.LEAD)["input_ids"]
        assert len(longer) > length - passkey.ANSWER_TOKENS


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_key_stands_at_its_depth(bpe: Any, depth: float) -> None:
    lines = bpe.decode(prompt(bpe, depth, 4000)).split("\n")
    place = next(index for index, line in enumerate(lines) if key_of(4000) in line)
    before = sum(map(len, lines[1:place]))
    after = sum(map(len, lines[place + 1 : -1]))
    assert before / (before + after) == pytest.approx(depth, abs=0.01)


def test_the_shortest_prompt_and_shorter(tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer)
    minimum = passkey.minimum_length(inputs)
    assert [cell.depth for cell in passkey.cells(inputs, minimum)] == [0, 0.25, 0.5, 0.75, 1]
    with pytest.raises(SkipwiseError, match=rf"passkey prompt of {minimum - 1} tokens .* take {minimum}"):
        passkey.cells(inputs, minimum - 1)
    for depth in (0.0, 1.0):
        assert passkey.prompt_text(key_of(minimum), 0, depth) in tokenizer.decode(prompt(tokenizer, depth, minimum))


def test_a_chat_prompt_is_the_users_turn(bpe: Any) -> None:
    with pytest.raises(SkipwiseError, match="no chat template"):
        inputs_of(bpe, chat=True)
    bpe.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[reply]"
    cell = Cell(700, 1, passkey.ANSWER_TOKENS, 0.5, 0)
    text = bpe.decode(passkey.question(inputs_of(bpe, chat=True), cell, 0).ids)
    assert text.startswith("[user]" + passkey.DESCRIPTION)
    assert text.endswith(passkey.ASK + "[/][reply]The pass key is")
    bpe.chat_template = None


def test_building_is_linear_in_the_length(tokenizer: Any) -> None:
    for length in (2000, 8000, 32_000):
        counting = Counting(tokenizer)
        ids = prompt(counting, 0.5, length)
        assert counting.characters < 7 * len(tokenizer.decode(ids)) + 5000


def test_an_appended_eos_is_no_part_of_the_prompt() -> None:
    post = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)])
    tokenizer = bytes_tokenizer(post)
    assert tokenizer("a")["input_ids"][::2] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    ids = prompt(tokenizer, 0.5, 600)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids


@pytest.mark.parametrize("slope", [1, 7, 40])
@pytest.mark.parametrize("room", [5, 49, 50, 51, 1000])
@pytest.mark.parametrize("hint", [0, 3, 24, 2000])
def test_fit_finds_the_longest_that_fits(slope: int, room: int, hint: int) -> None:
    calls = []

    def make(n: int) -> list[int]:
        calls.append(n)
        return [0] * (10 + slope * n + n // 3)

    best, ids = fit(make, room, hint)
    fitting = [n for n in range(1001) if 10 + slope * n + n // 3 <= room]
    assert best == max(fitting, default=-1)
    assert len(ids) == (10 + slope * best + best // 3 if fitting else 0)
    assert len(calls) < 20


@pytest.mark.parametrize("most", [0, 1, 6, 30])
@pytest.mark.parametrize("hint", [0, 3, 50])
def test_fit_ends_where_there_is_no_more(most: int, hint: int) -> None:
    best, ids = fit(lambda n: [0] * (10 + 5 * min(n, most)), 60, hint, most=most)
    assert (best, len(ids)) == (min(most, 10), 10 + 5 * min(most, 10))


def test_a_draft_continues_the_lead(tokenizer: Any) -> None:
    inputs = inputs_of(tokenizer)
    ids = inputs.encode("Some text." + passkey.LEAD)
    assert tokenizer.decode(ids + inputs.draft(passkey.LEAD, " 12345."), skip_special_tokens=True).endswith("is 12345.")


def test_keys_have_five_digits_and_depend_on_every_part_of_the_seed() -> None:
    places = [(seed, Cell(n, 4, 16, 0.5, index)) for n in (512, 1024) for index in range(5) for seed in (0, 1)]
    keys = [passkey.draw_key(seed, cell, trial) for seed, cell in places for trial in range(4)]
    assert all(re.fullmatch("[1-9][0-9]{4}", key) for key in keys)
    assert len(set(keys)) > 75  # 80 draws of 90,000
    assert keys == [passkey.draw_key(seed, cell, trial) for seed, cell in places for trial in range(4)]


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 12345.", True),
        ("12345", True),
        (" 12345. Remember it. 54321", True),
        ("\nthe number 12345!", True),
        (" 123456", False),
        (" 1234", False),
        (" 12,345", False),
        (" 012345", False),
        (" 54321 or 12345", False),
        (" 1 12345", False),
        (" ١٢٣٤٥", False),
        ("", False),
        (" unknown", False),
    ],
)
def test_the_whole_first_number_is_judged(answer: str, right: bool) -> None:
    assert (passkey.first_number(answer) == "12345") is right


@pytest.mark.parametrize(
    ("answer", "ended"),
    [("", False), (" the", False), (" 1", False), (" 12345", False), (" 12345.", True), (" 1\n", True), ("a1 2", True)],
)
def test_decoding_goes_on_until_the_number_has_ended(answer: str, ended: bool) -> None:
    assert passkey.number_ended(answer) is ended


def knows(tokenizer: Any, good: Callable[[float], bool]) -> task.Answerer:
    """Answers right when the key's place, as the share of the characters before it, is good; else one digit short."""

    def answer(questions: Any, limit: int, ended: Any, advance: Any) -> Any:
        for i, question in enumerate(questions):
            text = tokenizer.decode(question.ids)
            found = re.search("key is ([0-9]+)", text)
            assert found is not None
            key = found.group(1)
            said = f" {key}." if good(found.start() / len(text)) else f" {key[:-1]}."
            advance(len(question.ids))
            yield i, tokenizer(said, add_special_tokens=False)["input_ids"]

    return answer


def grid(answer: task.Answerer, inputs: Inputs, cells: list[Cell], advance: Any = lambda n: None) -> list[Any]:
    questions = [[passkey.question(inputs, cell, trial) for trial in range(cell.n)] for cell in cells]
    heads = [task.header(passkey.TASK, inputs, *pair) for pair in zip(cells, questions, strict=True)]
    parts = list(zip(cells, heads, questions, strict=True))
    return [row for _, row in task.measure(passkey.TASK, inputs, parts, answer, advance)]


def test_right_answers_at_some_depths_fill_exactly_those_cells(bpe: Any) -> None:
    inputs = inputs_of(bpe, trials=3)
    cells = passkey.cells(inputs, 3000)
    rows = grid(knows(bpe, lambda place: 0.4 < place < 0.9), inputs, cells)
    assert [row.value for row in rows] == [0, 0, 1, 1, 0]
    assert [row.scores for row in rows] == [[0] * 3, [0] * 3, [1] * 3, [1] * 3, [0] * 3]
    assert [(row.depth, row.length, row.n) for row in rows] == [(cell.depth, 3000, 3) for cell in cells]
    [over_all] = overall(rows)
    assert (over_all.value, over_all.n, sum(over_all.scores), over_all.depth) == (0.4, 15, 6, None)
    # Clopper and Pearson, 6 of 15
    assert (over_all.low, over_all.high) == pytest.approx((0.16336, 0.67713), abs=1e-4)
    assert over_all.interval == rows[0].interval == "Clopper-Pearson, at least 95%"
    assert 2950 < over_all.tokens <= 3000 - passkey.ANSWER_TOKENS
    assert over_all.depths == [cell.depth for cell in cells]
    assert "answers" not in over_all


def test_a_row_says_what_was_asked_and_answered(bpe: Any) -> None:
    moved: list[int] = []
    inputs, cell = inputs_of(bpe, seed=7), Cell(500, 2, 16, 0.5, 2)
    [row] = grid(knows(bpe, lambda place: False), inputs, [cell], moved.append)
    keys = [passkey.draw_key(7, cell, trial) for trial in range(2)]
    assert row.answers == [[[key], f" {key[:-1]}."] for key in keys]
    assert (row.task, row.metric, row.seed, row.task_version) == ("passkey", "accuracy", 7, 2)
    assert (row.value, len(moved)) == (0.0, 2)


def test_prompts_are_the_same_for_every_model(tmp_path: Path) -> None:
    def prompts(folder: str) -> list[Question]:
        inputs = inputs_of(tiny_tokenizer(tmp_path / folder))
        cells = [Cell(400, 3, 16, 0.5, 1), Cell(800, 1, 16, 0.0, 0)]
        return [passkey.question(inputs, cell, trial) for cell in cells for trial in range(cell.n)]

    assert prompts("a") == prompts("b")
    assert len({tuple(question.ids) for question in prompts("a")}) == 4
