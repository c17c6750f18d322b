"""k_max worked out by hand, its prompts with several tokenizers, and its row where the answers are known."""

import re
from typing import Any

import numpy as np
import pytest

from skipwise.config import EvaluationConfig
from skipwise.evals import speculative_decoding, task
from skipwise.evals.averages import overall
from skipwise.evals.task import Cell, Inputs, Question, TooShortError
from skipwise.evals.tasks import k_max, passkey
from support.tiny import tiny_tokenizer
from support.tokenizers_of_kinds import bytes_tokenizer


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def inputs_of(tokenizer: Any, **settings: Any) -> Inputs:
    return Inputs(tokenizer, EvaluationConfig(k_max=settings))


def asked(inputs: Inputs, length: int) -> list[tuple[Cell, list[Question]]]:
    found = k_max.cells(inputs, length)
    return [(cell, [k_max.question(inputs, cell, trial) for trial in range(cell.n)]) for cell in found]


def test_distances_of_the_paper() -> None:
    """For a target of 8,192 the paper's table holds 1,792, 2,048, 2,304 and 2,560: multiples of 256."""
    assert k_max.distances(8192, 32) == [256 * i for i in range(1, 33)]
    assert k_max.distances(1000, 3) == [333, 667, 1000]
    assert k_max.distances(4, 32) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("right", "expected"),
    [
        ([10, 10, 10, 10], 400),
        ([2, 2, 2, 2], 400),  # 20 % is enough
        ([10, 10, 1, 10], 200),  # what is found again behind a gap does not count
        ([10, 2, 1, 0], 200),
        ([1, 10, 10, 10], 0),
        ([0, 0, 0, 0], 0),
        ([3, 1, 1, 1], 100),
    ],
)
def test_k_max_by_hand(right: list[int], expected: int) -> None:
    assert k_max.k_max(np.array(right) / 10, [100, 200, 300, 400]) == expected


def test_interval_by_hand() -> None:
    spaced = [100, 200, 300]
    sure = np.array([[1] * 40, [1] * 40, [0] * 40], dtype=np.float64)
    assert k_max.interval(sure, spaced) == (200, 200, "exact tests, at least 95%")
    # Ten keys: 6 right of 10 prove more than 20 % (chance 0.6 % at 20 %), 5 do not (3.3 %); none right proves no less
    # (10.7 %), so the upper end stays open.
    assert k_max.interval(sure[:, :10], spaced)[:2] == (200, 300)
    rows = np.array([[1] * 6 + [0] * 4, [1] * 5 + [0] * 5, [1] * 10], dtype=np.float64)
    assert k_max.interval(rows, spaced)[:2] == (100, 300)
    # 17 keys would exclude 20 % at one distance (0.8^17 = 2.3 %), three distances need 22 (0.8^22 < 2.5 % / 3 <
    # 0.8^21).
    for keys, high in ((21, 300), (22, 200)):
        assert k_max.interval(np.array([[1] * keys, [1] * keys, [0] * keys], dtype=np.float64), spaced).high == high


@pytest.mark.parametrize("keys", [3, 10, 40, 100])
@pytest.mark.parametrize("steepness", [0.3, 3.0])
@pytest.mark.parametrize("shared", [False, True])
def test_coverage(keys: int, steepness: float, shared: bool) -> None:
    """Shares that fall slowly or at once, keys that fare alike at all distances or independently."""
    generator, spaced = np.random.default_rng(keys), list(range(100, 1300, 100))
    shares = 1 / (1 + np.exp((np.arange(12) - 5) / steepness))
    truth = k_max.k_max(shares, spaced)
    inside = []
    for _ in range(200):
        draws = generator.random((1 if shared else 12, keys))
        interval = k_max.interval((draws < shares[:, None]).astype(np.float64), spaced)
        inside.append(interval.low <= truth <= interval.high)  # type: ignore[operator]
    assert np.mean(inside) >= 0.95


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_prompts_are_as_long_as_their_distance_and_whole(tmp_path: Any, kind: str, adds_bos: bool) -> None:
    tokenizer = tiny_tokenizer(tmp_path, adds_bos=adds_bos) if kind == "bpe" else bytes_tokenizer()
    sentence = max(len(tokenizer(" " + text, add_special_tokens=False)["input_ids"]) for text in passkey.FILLER)
    for cell, questions in asked(inputs_of(tokenizer, distances=4, trials=2), 2400):
        k = round((1 - cell.depth) * 2400)
        assert (cell.distance, cell.length, cell.n) == (k, 2400, 2)
        for question in questions:
            text = tokenizer.decode(question.ids, skip_special_tokens=True)
            room = k - passkey.ANSWER_TOKENS
            assert room - sentence < len(question.ids) <= room
            assert question.ids == tokenizer(text)["input_ids"]
            lines = text.split("\n")
            assert lines[0] == passkey.DESCRIPTION
            assert lines[1] == passkey.NEEDLE.format(key=question.truth[0])
            assert lines[-1] == passkey.ASK + passkey.LEAD


def test_keys_are_random_for_every_distance_and_shared_over_distances(bpe: Any) -> None:
    found = asked(inputs_of(bpe, distances=4, trials=10), 1200)
    keys = [[question.truth[0] for question in questions] for _, questions in found]
    assert len(set(keys[0])) == 10
    assert all(row == keys[0] for row in keys)
    assert all(re.fullmatch("[1-9][0-9]{4}", key) for key in keys[0])
    other = Inputs(bpe, EvaluationConfig(k_max={"distances": 4, "trials": 10}, seed=1))
    assert [question.truth[0] for question in asked(other, 1200)[0][1]] != keys[0]


def test_all_distances_cost_one_reading_a_key(bpe: Any) -> None:
    class Plain:
        whole = False

    found = asked(inputs_of(bpe, distances=32, trials=3), 8000)
    prompts = [speculative_decoding.Prompt(q.ids, q.draft) for _, questions in found for q in questions]
    assert len(prompts) == 96
    assert speculative_decoding.tokens_to_read(Plain(), prompts) < 3 * 8000 + 96 * 40  # type: ignore[arg-type]


def test_distances_too_short_for_a_prompt_are_left_out_and_said(bpe: Any, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = inputs_of(bpe, distances=10)
    minimum = passkey.minimum_length(inputs)
    found = k_max.cells(inputs, 4 * minimum)
    assert [cell.distance for cell in found] == [round(i * 4 * minimum / 10) for i in range(3, 11)]
    assert f"under {minimum} tokens cannot hold a prompt; {found[0].distance} is" in capsys.readouterr().err
    assert [cell.distance for cell in k_max.cells(inputs, minimum)] == [minimum]
    with pytest.raises(TooShortError):
        k_max.cells(inputs, minimum - 1)


def test_a_model_that_sees_so_far_has_exactly_that_k_max(bpe: Any) -> None:
    """Table-driven: a key is found where the prompt has at most 1,100 tokens, and one of the three up to 1,700."""
    inputs = inputs_of(bpe, distances=8, trials=3)

    def answer(questions: Any, limit: int, ended: Any, advance: Any) -> Any:
        for i, question in enumerate(questions):
            reach = 1700 if i % 3 == 0 else 1100
            said = f" {question.truth[0]}." if len(question.ids) <= reach else " 1."
            yield i, bpe(said, add_special_tokens=False)["input_ids"]

    parts = [(cell, task.header(k_max.TASK, inputs, cell, qs), qs) for cell, qs in asked(inputs, 2400)]
    rows: list[Any] = [None for _ in parts]
    for i, row in task.measure(k_max.TASK, inputs, parts, answer):
        rows[i] = row.replace(model="m", beyond_window=True)
    assert [row.value for row in rows] == [1, 1, 1, pytest.approx(1 / 3), pytest.approx(1 / 3), 0, 0, 0]
    over_all = overall(rows)
    [found] = k_max.summarise(inputs, [*reversed(rows), *over_all])
    assert (found.metric, found.value, found.length, found.depth) == ("k_max", 1500, 2400, None)
    # Three of three keys prove more than 20 % (lower end 29 %), one of three does not; none of three excludes nothing.
    assert (found.low, found.high, found.interval) == (900, 2400, "exact tests, at least 95%")
    assert (found.n, found.distances) == (24, [300, 600, 900, 1200, 1500, 1800, 2100, 2400])
    assert "scores" not in found
    assert found.data == over_all[0].data
