"""The passkey prompt's wording and length with several real tokenizers, and verdicts where the answers are known."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from skipwise.errors import SkipwiseError
from skipwise.evals import passkey
from skipwise.evals.passkey import Cell
from tiny import tiny_tokenizer

LONGEST_SENTENCE = max(passkey.FILLER, key=len)


def bytes_tokenizer(post: processors.PostProcessor | None = None) -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if post is not None:
        tokenizer.post_processor = post
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Digits merge: a number may be one token, three, or anything between; so may words of the filler."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    numbers = (f" {number}" for number in range(0, 100_000, 7))
    tokenizer.train_from_iterator([" ".join(passkey.FILLER), passkey.TASK, *numbers], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module", params=["bpe", "bos", "bytes", "merging"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param in ("bpe", "bos"):
        return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"), adds_bos=request.param == "bos")
    return bytes_tokenizer() if request.param == "bytes" else merging_tokenizer()


@pytest.fixture(scope="module")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_wording() -> None:
    assert passkey.prompt_text("12345", 8, 0.25) == (
        "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
        "I will quiz you about the important information there.\n"
        "The grass is green. The sky is blue.\n"
        "The pass key is 12345. Remember it. 12345 is the pass key.\n"
        "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
        "The grass is green.\n"
        "What is the pass key? The pass key is"
    )


def test_ends_of_the_depth() -> None:
    start, end = (passkey.prompt_text("12345", 5, depth).split("\n") for depth in (0.0, 1.0))
    assert [start[0], start[1][:12]] == [passkey.TASK, "The pass key"]
    assert [end[-1], end[-2][:12]] == [passkey.QUESTION, "The pass key"]
    assert start[2] == end[1] == " ".join(passkey.FILLER)


@pytest.mark.parametrize("length", [700, 1001, 5000])
@pytest.mark.parametrize("depth", [0.0, 0.3, 1.0])
def test_prompts_fill_their_length_and_are_whole(tokenizer: Any, length: int, depth: float) -> None:
    ids = passkey.build(tokenizer, "90210", depth, length)
    slack = len(tokenizer(" " + LONGEST_SENTENCE, add_special_tokens=False)["input_ids"])
    room = length - passkey.ANSWER_TOKENS
    assert room - slack < len(ids) <= room
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert text.startswith(passkey.TASK)
    assert text.endswith(passkey.QUESTION)
    assert text.count("90210") == 2
    assert ids == tokenizer(text)["input_ids"]  # what the tokenizer does by itself, BOS included


def test_one_sentence_more_would_be_too_long(tokenizer: Any) -> None:
    for length in range(700, 760, 3):
        text = tokenizer.decode(passkey.build(tokenizer, "90210", 0.3, length), skip_special_tokens=True)
        sentences = sum(text.count(sentence) for sentence in passkey.FILLER)
        assert text == passkey.prompt_text("90210", sentences, 0.3)
        longer = tokenizer(passkey.prompt_text("90210", sentences + 1, 0.3))["input_ids"]
        assert len(longer) > length - passkey.ANSWER_TOKENS


@pytest.mark.parametrize("depth", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_the_key_stands_at_its_depth(bpe: Any, depth: float) -> None:
    lines = bpe.decode(passkey.build(bpe, "90210", depth, 4000)).split("\n")
    place = next(index for index, line in enumerate(lines) if "90210" in line)
    before = sum(map(len, lines[1:place]))
    after = sum(map(len, lines[place + 1 : -1]))
    assert before / (before + after) == pytest.approx(depth, abs=0.01)


def test_the_shortest_prompt_and_shorter(tokenizer: Any) -> None:
    fixed = len(passkey.encode(tokenizer, passkey.prompt_text("54321", 0, 0.5)))
    assert len(passkey.build(tokenizer, "54321", 0.5, fixed + passkey.ANSWER_TOKENS)) == fixed
    with pytest.raises(SkipwiseError, match=rf"passkey prompt of {fixed} tokens .* take {fixed + 16}"):
        passkey.build(tokenizer, "54321", 0.5, fixed)
    assert passkey.minimum_length(tokenizer) >= fixed + passkey.ANSWER_TOKENS


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.eos_token_id, self.characters = tokenizer, tokenizer.eos_token_id, 0

    def __call__(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self.tokenizer(text, **options)


def test_building_is_linear_in_the_length(tokenizer: Any) -> None:
    for length in (2000, 8000, 32_000):
        counting = Counting(tokenizer)
        ids = passkey.build(counting, "13579", 0.5, length)
        prompt = len(tokenizer.decode(ids))
        assert counting.characters < 6 * prompt + 5000


def test_an_appended_eos_is_no_part_of_the_prompt() -> None:
    post = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 256), ("</s>", 257)])
    tokenizer = bytes_tokenizer(post)
    assert tokenizer("a")["input_ids"][::2] == [tokenizer.bos_token_id, tokenizer.eos_token_id]
    ids = passkey.build(tokenizer, "24680", 0.5, 600)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in ids


def test_keys_have_five_digits_and_depend_on_every_part_of_the_seed() -> None:
    cells = [Cell(n, 0.5, index, 4, seed) for n in (512, 1024) for index in range(5) for seed in (0, 1)]
    keys = [cell.key(trial) for cell in cells for trial in range(4)]
    assert all(re.fullmatch("[1-9][0-9]{4}", key) for key in keys)
    assert len(set(keys)) > 75  # 80 draws of 90,000
    assert keys == [cell.key(trial) for cell in cells for trial in range(4)]


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


def knows(tokenizer: Any, good: Callable[[float], bool]) -> passkey.Answer:
    """Answers right when the key's place, as the share of the characters before it, is good; else one digit short."""

    def answer(ids: list[int]) -> str:
        text = tokenizer.decode(ids)
        found = re.search("key is ([0-9]+)", text)
        assert found is not None
        key = found.group(1)
        return f" {key}." if good(found.start() / len(text)) else f" {key[:-1]}."

    return answer


def grid(answer: passkey.Answer, tokenizer: Any, cells: Iterable[Cell]) -> list[dict[str, Any]]:
    return [passkey.measure(answer, tokenizer, cell) for cell in cells]


def test_right_answers_at_some_depths_fill_exactly_those_cells(bpe: Any) -> None:
    [cells] = passkey.cells([3000], [0.0, 0.25, 0.5, 0.75, 1.0], trials=3, seed=0)
    rows = grid(knows(bpe, lambda place: 0.4 < place < 0.9), bpe, cells)
    assert [row["value"] for row in rows] == [0, 0, 1, 1, 0]
    assert [row["right"] for row in rows] == [0, 0, 3, 3, 0]
    assert [(row["depth"], row["length"], row["n"]) for row in rows] == [(cell.depth, 3000, 3) for cell in cells]
    over_all = passkey.overall(rows)
    assert (over_all["value"], over_all["n"], over_all["right"], over_all["depth"]) == (0.4, 15, 6, None)
    # Wilson, 6 of 15
    assert (over_all["low"], over_all["high"]) == pytest.approx((0.19825, 0.64254), abs=1e-4)
    assert over_all["interval"] == rows[0]["interval"] == "wilson 95%"
    assert 2950 < over_all["tokens"] <= 3000 - passkey.ANSWER_TOKENS
    assert "depth_index" not in over_all
    assert "answers" not in over_all


def test_a_row_says_what_was_asked_and_answered(bpe: Any) -> None:
    moved = []
    row = passkey.measure(lambda ids: " 11111.", bpe, Cell(500, 0.5, 2, 2, seed=7), lambda: moved.append(1))
    cell = Cell(500, 0.5, 2, 2, seed=7)
    assert row["answers"] == [[cell.key(0), " 11111."], [cell.key(1), " 11111."]]
    assert (row["task"], row["metric"], row["seed"], row["task_version"]) == ("passkey", "accuracy", 7, 1)
    assert (row["value"], row["right"], len(moved)) == (0.0, 0, 2)


def test_prompts_are_the_same_for_every_model(tmp_path: Path) -> None:
    def prompts(folder: str) -> list[list[int]]:
        seen: list[list[int]] = []

        def answer(ids: list[int]) -> str:
            seen.append(ids)
            return ""

        grid(answer, tiny_tokenizer(tmp_path / folder), [Cell(400, 0.5, 1, 3, 0), Cell(800, 0.0, 0, 1, 0)])
        return seen

    assert prompts("a") == prompts("b")
    assert len({tuple(ids) for ids in prompts("a")}) == 4
