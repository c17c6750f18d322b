"""Key/value prompts: wording, lengths with several tokenizers, places, and verdicts where the answers are known."""

import itertools
import json
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skipwise.config import EvaluationConfig, validate
from skipwise.errors import SkipwiseError
from skipwise.evals import speculative_decoding, task
from skipwise.evals.averages import overall
from skipwise.evals.task import Cell, Inputs, Question, TooShortError
from skipwise.evals.tasks import key_value
from skipwise.evals.tasks.key_value import VARIANTS, Pair
from support.tiny import tiny_tokenizer
from support.tokenizers_of_kinds import Counting


def inputs_of(tokenizer: Any, **settings: Any) -> Inputs:
    return Inputs(tokenizer, EvaluationConfig(**settings))


def asked(inputs: Inputs, length: int) -> list[tuple[Cell, list[Question]]]:
    found = key_value.cells(inputs, length)
    return [(cell, [key_value.question(inputs, cell, trial) for trial in range(cell.n)]) for cell in found]


def test_wording() -> None:
    pairs = [Pair("0a1b2c3d", "f00d"), Pair("99999999", "12ab")]
    lines, objects = VARIANTS["lines"], VARIANTS["json"]
    assert lines.show(pairs) + lines.ask.format(key="0a1b2c3d") + lines.lead.format(key="0a1b2c3d") == (
        "## UUID key/value pairs to remember:\n\n'0a1b2c3d' = 'f00d'\n'99999999' = '12ab'\n"
        "\n\nWhat is the value of the key '0a1b2c3d'?\n'0a1b2c3d' = '"
    )
    assert objects.show(pairs) + objects.ask.format(key="99999999") + objects.lead == (
        "Extract the value corresponding to the specified key in the JSON object below.\n\n"
        'JSON data:\n{"0a1b2c3d": "f00d",\n "99999999": "12ab"}\n\nKey: "99999999"\nCorresponding value:'
    )


@pytest.mark.parametrize("name", ["lines", "json"])
def test_pairs_are_unique_and_well_formed(name: str) -> None:
    pairs = list(itertools.islice(VARIANTS[name].draw(np.random.default_rng([1, 2])), 3000))
    assert len({pair.key for pair in pairs}) == len({pair.value for pair in pairs}) == 3000
    if name == "lines":
        assert all(re.fullmatch("[0-9a-f]{8}", key) and re.fullmatch("[0-9a-f]{4}", value) for key, value in pairs)
        assert all(re.search("[0-9]", value) for _, value in pairs)
        assert sum(1 for _ in key_value.hex_pairs(np.random.default_rng(0))) == 16**4 - 6**4
    else:
        assert all(str(uuid.UUID(part)) == part and uuid.UUID(part).version == 4 for pair in pairs for part in pair)
        assert json.loads(VARIANTS["json"].show(pairs).partition("JSON data:\n")[2]) == dict(pairs)


@pytest.mark.parametrize("name", ["lines", "json"])
@pytest.mark.parametrize("length", [901, 4000])
def test_prompts_are_whole_and_a_pair_more_would_be_too_long(tokenizer: Any, name: str, length: int) -> None:
    inputs, variant = inputs_of(tokenizer, key_value={"protocols": [name]}, trials=3), VARIANTS[name]
    found = asked(inputs, length)
    pairs = key_value.pairs_of(inputs, name, length, 0)
    room = length - variant.answer_tokens
    for cell, questions in found:
        assert (cell.length, cell.variant, cell.answer_tokens) == (length, name, variant.answer_tokens)
        for question in questions:
            value, key = question.truth
            assert dict(pairs)[key] == value
            text = tokenizer.decode(question.ids, skip_special_tokens=True)
            expected = variant.show(pairs) + variant.ask.format(key=key) + variant.lead.format(key=key)
            assert text == expected
            assert question.ids == tokenizer(text)["input_ids"]
            assert len(question.ids) <= room
            said = tokenizer.decode(question.ids + question.draft, skip_special_tokens=True)
            assert said == text + variant.answer.format(value=value)
            assert len(question.draft) < variant.answer_tokens
    more = VARIANTS[name].show([*pairs, Pair(*("0" * len(part) for part in pairs[0]))])
    assert len(tokenizer(more + variant.ask + variant.lead)["input_ids"]) > room - 40


def test_one_pair_more_would_not_fit(bpe: Any) -> None:
    for length in range(500, 530, 7):
        inputs = inputs_of(bpe, key_value={"protocols": ["lines"]}, trials=1)
        variant, n = VARIANTS["lines"], len(key_value.pairs_of(inputs, "lines", length, 0))
        source = variant.draw(np.random.default_rng([0, length, 0, 0]))
        pairs = list(itertools.islice(source, n + 1))
        sizes = [len(key_value.prompt(inputs, variant, pairs, pair.key)) for pair in pairs]
        assert max(sizes) > length - variant.answer_tokens


def test_the_whole_list_is_shared_and_the_places_are_those_of_the_depths(bpe: Any) -> None:
    inputs = inputs_of(bpe, depths=[0, 0.5, 1], trials=2)
    for name in ("lines", "json"):
        pairs = key_value.pairs_of(inputs, name, 3000, 0)
        order = [pair.key for pair in pairs]
        found = [(cell, questions) for cell, questions in asked(inputs, 3000) if cell.variant == name]
        middle = (len(pairs) - 1) // 2
        assert [[order.index(q.truth[1]) for q in questions] for _, questions in found] == [
            [0, 1],
            [middle - 1, middle],
            [len(pairs) - 2, len(pairs) - 1],
        ]
        ids = [q.ids for _, questions in found for q in questions]
        listed = len(bpe(VARIANTS[name].show(pairs))["input_ids"])
        assert all(a[: listed - 1] == b[: listed - 1] for a, b in itertools.pairwise(ids))


def test_places_of_the_paper() -> None:
    """Liu et al.'s gold indices for 75, 140 and 300 pairs."""
    assert [key_value.place(i / 3, 75, 0, 1) for i in range(4)] == [0, 24, 49, 74]
    assert [key_value.place(i / 4, 140, 0, 1) for i in range(5)] == [0, 34, 69, 104, 139]
    assert [key_value.place(i / 6, 300, 0, 1) for i in range(7)] == [0, 49, 99, 149, 199, 249, 299]


@given(st.floats(0, 1), st.integers(1, 50), st.integers(1, 50))
def test_neighbours_are_different_pairs_around_the_place(depth: float, pairs: int, together: int) -> None:
    together = min(together, pairs)
    places = [key_value.place(depth, pairs, trial, together) for trial in range(together)]
    assert places == list(range(places[0], places[0] + together))
    assert 0 <= places[0] <= key_value.place(depth, pairs, 0, 1) <= places[-1] < pairs


@pytest.mark.parametrize("name", ["lines", "json"])
def test_depth_by_token(bpe: Any, name: str) -> None:
    """The pair asked for is the first that begins at that token of the text, its neighbours where several are asked."""
    inputs = inputs_of(bpe, key_value={"protocols": [name], "depth": "token"})
    length = 6000
    pairs = key_value.pairs_of(inputs, name, length, 0)
    text = key_value.VARIANTS[name].show(pairs)
    begins = [inputs.count(text[: text.index(pair.key) - 1]) for pair in pairs]
    assert begins == sorted(begins)
    for cell in key_value.cells(inputs, length):
        asked = [key_value.question(inputs, cell, trial).truth for trial in range(cell.n)]
        place = [[pair.value, pair.key] for pair in pairs].index(asked[cell.n // 2])
        assert [p.key for p in pairs[place - cell.n // 2 :]][: cell.n] == [key for _, key in asked] or cell.depth == 0
        if 0 < (cell.depth or 0) < 1:
            assert begins[place - 1] < cell.depth * length <= begins[place]
        else:
            assert place == (len(pairs) - 1 if cell.depth else cell.n // 2)


def test_each_trial_can_have_a_list_of_its_own(bpe: Any) -> None:
    def lists(**settings: Any) -> list[list[str]]:
        inputs = inputs_of(bpe, depths=[0.5], trials=4, key_value={"protocols": ["json"], **settings})
        [(_, questions)] = asked(inputs, 2000)
        texts = [bpe.decode(question.ids).partition("\n\nKey")[0] for question in questions]
        assert len({question.truth[1] for question in questions}) == 4
        return [[str(texts.index(text))] for text in texts]

    assert lists() == [["0"]] * 4
    assert lists(lists=4) == [["0"], ["1"], ["2"], ["3"]]
    assert lists(lists=2) == [["0"], ["1"], ["0"], ["1"]]
    assert lists(lists=9) == [["0"], ["1"], ["2"], ["3"]]


def test_a_number_of_pairs_instead_of_a_full_length(bpe: Any) -> None:
    inputs = inputs_of(bpe, key_value={"protocols": ["json"], "pairs": 12}, depths=[0.0, 1.0], trials=1)
    found = asked(inputs, 4000)
    assert [len(key_value.pairs_of(inputs, "json", 4000, 0))] == [12]
    assert [bpe.decode(questions[0].ids).count('": "') for _, questions in found] == [12, 12]
    with pytest.raises(TooShortError, match=r"300 tokens are too short for key_value \(json\).* list of 12 pairs"):
        key_value.cells(inputs, 300)
    inputs = inputs_of(bpe, key_value={"pairs": 3}, trials=7)
    with pytest.raises(SkipwiseError, match=r"pairs = 3 gives no different pair to each of the 7 trials"):
        key_value.cells(inputs, 4000)


def test_the_shortest_length_and_shorter(tokenizer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TooShortError) as error:
        key_value.cells(inputs_of(tokenizer, key_value={"protocols": ["json"]}), 100)
    minimum = int(re.search(r"take (\d+);", str(error.value))[1])  # type: ignore[index]
    # Other lengths have other pairs, hence a few tokens more or less.
    assert len(key_value.cells(inputs_of(tokenizer, key_value={"protocols": ["json"]}), minimum + 60)) == 5
    with pytest.raises(TooShortError):
        key_value.cells(inputs_of(tokenizer, key_value={"protocols": ["json"]}), minimum - 60)
    found = key_value.cells(inputs_of(tokenizer), minimum - 60)
    assert {cell.variant for cell in found} == {"lines"}
    assert "left out" in capsys.readouterr().err


def test_settings_that_cannot_be(bpe: Any) -> None:
    with pytest.raises(SkipwiseError, match=r"key_value\.protocols is empty"):
        key_value.cells(inputs_of(bpe, key_value={"protocols": []}), 4000)
    with pytest.raises(SkipwiseError, match="depths is empty"):
        key_value.cells(inputs_of(bpe, depths=[]), 4000)
    with pytest.raises(SkipwiseError, match=r"'key_value\.pair'; did you mean 'pairs'"):
        validate(EvaluationConfig, {"key_value": {"pair": 4}})


def test_building_is_linear_in_the_length(tokenizer: Any) -> None:
    for length in (2000, 16_000):
        counting = Counting(tokenizer)
        inputs = inputs_of(counting, trials=1, depths=[0.5])
        characters = sum(len(tokenizer.decode(question.ids)) for _, [question] in asked(inputs, length))
        # The list is tokenised a few times to find its length, every key once more, and once for the prompt.
        assert counting.characters < 12 * characters + 5000


def test_a_chat_prompt_is_the_users_turn(bpe: Any) -> None:
    bpe.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[/]{% endfor %}[reply]"
    found = asked(inputs_of(bpe, chat=True, depths=[0.5], trials=1), 2000)
    bpe.chat_template = None
    texts = {cell.variant: bpe.decode(questions[0].ids) for cell, questions in found}
    keys = {cell.variant: questions[0].truth[1] for cell, questions in found}
    assert texts["lines"].startswith("[user]## UUID")
    assert texts["lines"].endswith(f"'{keys['lines']}'?[/][reply]'{keys['lines']}' = '")
    assert texts["json"].endswith(f'Key: "{keys["json"]}"[/][reply]Corresponding value:')
    assert all(len(questions[0].ids) <= 2000 - cell.answer_tokens for cell, questions in found)


VALUE, KEY = "f00d", "0a1b2c3d"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (" 'f00d'", True),
        ("f00d", True),
        (" F00D.", True),
        (" 'f00d'\n'11111111' = 'abc1'", True),
        (" The value of the key '0a1b2c3d' is 'f00d'.", True),
        (" The value of the key 0A1B2C3D is f00d.", True),
        (" 'abc1', 'f00d'", False),
        (" '11111111' = 'abc1'\n'0a1b2c3d' = 'f00d'", False),
        (" 'f00d1'", False),
        (" '1f00d'", False),
        (" 'f00'", False),
        (" f00d-1", False),
        (" f00d_1", False),
        (" 1. f00d", False),
        (" f00", False),
        (" unknown", False),
        ("", False),
    ],
)
def test_the_first_value_is_judged_whole(answer: str, right: bool) -> None:
    assert key_value.score(answer, Question([], [], [VALUE, KEY])) == right


def test_a_whole_uuid_is_judged() -> None:
    value, key = "1c2d8a4e-0000-4f6b-9d3a-5e6f7a8b9c0d", "ffffffff-0000-4f6b-9d3a-5e6f7a8b9c0d"
    asked = Question([], [], [value, key])
    for right in (f' "{value}"', f"{value}\n", f' "{key}": "{value}",', value.upper()):
        assert key_value.score(right, asked) == 1.0
    for wrong in (
        value[:-1],
        value + "a",
        value[9:],
        value + "-1",
        value.replace("-", ""),
        key,
        f"{value[:8]} {value}",
    ):
        assert key_value.score(wrong, asked) == 0.0


@pytest.mark.parametrize(
    ("answer", "ended"),
    [
        (" 'f00d", False),
        (" 'f00d'", True),
        (" f00d-", False),
        (" f00d-'", True),
        (" 'f00d1\n", True),
        (" '0a1b", False),
        (" '0a1b2c3d'", False),
        (" '0a1b2c3d' = 'f", False),
        (" the", False),
        (" 12 ", True),
        ("", False),
    ],
)
def test_an_answer_ends_with_its_first_value(answer: str, ended: bool) -> None:
    assert key_value.value_ended(answer, Question([], [], [VALUE, KEY])) is ended


@given(st.text(alphabet="0af-_' g=1", max_size=12), st.text(alphabet="0af-_' g=1", max_size=6))
def test_what_follows_an_ended_answer_cannot_change_its_score(answer: str, more: str) -> None:
    asked = Question([], [], ["0af1", "a0a0"])
    if key_value.value_ended(answer, asked):
        assert key_value.score(answer + more, asked) == key_value.score(answer, asked)


def test_right_answers_at_some_places_fill_exactly_those_cells(bpe: Any) -> None:
    """A table-driven model: right for keys in the second half of the list, else it names its neighbour's value."""
    inputs = inputs_of(bpe, depths=[0.0, 0.25, 0.75, 1.0], trials=3)

    def answer(questions: Any, limit: int, ended: Any, advance: Any) -> Any:
        for i, question in enumerate(questions):
            text = bpe.decode(question.ids)
            value, key = question.truth
            found = re.findall(r"""['"]([0-9a-f-]+)['"](?: =|:) ['"]([0-9a-f-]+)['"]""", text)
            index = [pair[0] for pair in found].index(key)
            assert found[index][1] == value
            said = value if index > len(found) / 2 else f"{found[index + 1][1]}, {value}"
            yield i, bpe(f" '{said}'", add_special_tokens=False)["input_ids"]

    parts = [(cell, task.header(key_value.TASK, inputs, cell, qs), qs) for cell, qs in asked(inputs, 3000)]
    rows = [row for _, row in task.measure(key_value.TASK, inputs, parts, answer)]
    assert [(row.variant, row.depth, row.value) for row in rows] == [
        (name, depth, value) for name in ("lines", "json") for depth, value in ((0, 0), (0.25, 0), (0.75, 1), (1, 1))
    ]
    over_all = overall(rows)
    assert [(row.variant, row.value, row.n) for row in over_all] == [("lines", 0.5, 12), ("json", 0.5, 12)]
    assert rows[0].answers[0][0] == [
        key_value.pairs_of(inputs, "lines", 3000, 0)[0].value,
        rows[0].answers[0][0][1],
    ]


def test_prompts_are_the_same_for_every_model_and_another_for_another_seed(tmp_path: Path) -> None:
    def ids(folder: str, seed: int) -> list[list[int]]:
        inputs = inputs_of(tiny_tokenizer(tmp_path / folder), seed=seed)
        return [question.ids for _, questions in asked(inputs, 1200) for question in questions]

    assert ids("a", 0) == ids("b", 0)
    assert ids("a", 0) != ids("a", 1)


def test_one_reading_a_list(bpe: Any) -> None:
    """All questions about a list cost little more than the list."""

    class Plain:
        whole = False

    inputs = inputs_of(bpe, key_value={"protocols": ["lines"]}, trials=4)
    prompts = [speculative_decoding.Prompt(q.ids, q.draft) for _, questions in asked(inputs, 8000) for q in questions]
    assert len(prompts) == 20
    assert speculative_decoding.tokens_to_read(Plain(), prompts) < 8000 + 20 * 80  # type: ignore[arg-type]
