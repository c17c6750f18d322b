"""Recall documents: exact length, an answer that can be looked up, and nothing of the passkey evaluation."""

import re

import numpy as np
import pytest

from skipwise.data import recall_documents as recall_module
from skipwise.data.labels import IGNORED
from skipwise.data.recall_documents import Recall
from skipwise.errors import SkipwiseError
from skipwise.evals.tasks import passkey
from support.tiny import tiny_tokenizer


@pytest.fixture(scope="module")
def recall(tmp_path_factory) -> Recall:
    return Recall(tiny_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def labelled(recall: Recall, length: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    filler = np.asarray(recall.encode("It was a bright cold day in April, and the clocks were striking. " * 60))
    return [recall.document(rng, filler, length) for _ in range(count)]


def documents(recall: Recall, length: int, count: int) -> list[np.ndarray]:
    return [ids for ids, _ in labelled(recall, length, count)]


@pytest.mark.parametrize("length", [160, 256, 1000])
def test_exact_length(recall: Recall, length: int) -> None:
    assert {len(document) for document in documents(recall, length, 100)} == {length}


@pytest.mark.parametrize(("length", "what"), [(64, "a fact and a question about it, which take"), (17, "a passage")])
def test_examples_that_are_too_short_are_refused_before_a_training(recall: Recall, length: int, what: str) -> None:
    with pytest.raises(SkipwiseError, match=rf"data\.recall: an example of {length} tokens does not hold {what}"):
        recall.check(length)


def test_most_end_with_a_question_whose_answer_stands_before(recall: Recall) -> None:
    texts = [recall.tokenizer.decode(document) for document in documents(recall, 400, 200)]
    answers = [
        re.search(r"""(?:The [a-z ]+ (?:is|equals)|==|=|:|->) ['"]?([\w]+)['"]?[.,]?$""", text) for text in texts
    ]
    found = [text.count(match[1]) >= 2 for text, match in zip(texts, answers, strict=True) if match]
    assert all(found)
    assert len(found) > 0.6 * len(texts)  # a quarter holds a repeated passage instead


def test_only_the_answers_are_learned(recall: Recall) -> None:
    repeats = 0
    for ids, labels in labelled(recall, 400, 200):
        learned = labels != IGNORED
        assert (labels[learned] == ids[learned]).all()
        assert learned[-1], "a document ends with an answer or with the passage that it repeats"
        if learned.all():
            repeats += 1
            continue
        for answer in np.split(np.flatnonzero(learned), np.flatnonzero(np.diff(np.flatnonzero(learned)) > 1) + 1):
            text = recall.tokenizer.decode(ids[answer])
            value = re.fullmatch(r""" ?['"]?(\w+)['"]?[.,]?""", text)
            assert value, text
            assert value[1] in recall.tokenizer.decode(ids[: answer[0]]), "it stands in the text before"
    assert 30 < repeats < 70  # every fourth


def test_a_list_names_each_key_once_before_it_asks(recall: Recall) -> None:
    """Every value asked for stands on the line of its key, and the list has rivals for it."""
    rng = np.random.default_rng(0)
    filler = np.asarray(recall.encode("It was a bright cold day in April, and the clocks were striking. " * 60))
    rivals = []
    for _ in range(60):
        listed = recall._list(rng, filler, 600)
        if listed is None:
            continue
        ids, labels = listed
        start = int(np.argmax(labels != IGNORED))
        before = recall.tokenizer.decode(ids[:start])
        key = re.search(r"""\b([0-9a-f]{4,8})['"]?(?: =|:| ->) ?['"]?$""", before)
        assert key, before[-40:]
        value = re.match(r"\W*([0-9a-f]{3,6})", recall.tokenizer.decode(ids[start:]))
        assert value
        lines = [line for line in before.split("\n") if re.match(rf"""['"]?{key[1]}\b""", line)]
        assert re.search(rf"""\W{value[1]}['"]?,?$""", lines[0]), lines
        rivals.append(before.count("\n") - 3)
    assert len(rivals) == 60
    assert np.mean(rivals) > 5


@pytest.mark.parametrize("length", [20, 100, 256])
def test_a_length_that_holds_no_list_gets_none(recall: Recall, length: int) -> None:
    filler = np.arange(400) % 77 + 300
    listed = [recall._list(np.random.default_rng(seed), filler, length) for seed in range(50)]
    assert {len(document[0]) for document in listed if document} <= {length}
    assert (length > 20) == any(listed)
    assert length < 256 or all(listed)


def test_without_lists_the_other_documents_are_those_of_before(recall: Recall) -> None:
    """Pre-training asks for no lists; a document of another kind must not depend on their share."""
    filler = np.arange(400) % 77 + 300
    without = Recall(recall.tokenizer, lists=0)
    same = 0
    for seed in range(60):
        (one, _), (other, _) = (r.document(np.random.default_rng(seed), filler, 400) for r in (recall, without))
        same += np.array_equal(one, other)
    assert 35 <= same < 60


def test_every_second_number_repeats_its_digits() -> None:
    rng = np.random.default_rng(0)
    drawn = [recall_module._decimal(rng, 8) for _ in range(1000)]
    assert {len(number) for number in drawn} == {8}
    few = sum(len(set(number)) <= 4 for number in drawn)
    assert 500 < few < 650  # of ten digits, eight random ones are four or fewer different in about a tenth of the draws


def test_nothing_of_the_passkey_evaluation(recall: Recall) -> None:
    text = "\n".join(recall.tokenizer.decode(document) for document in documents(recall, 256, 400)).lower()
    assert "pass key" not in text
    for sentence in ("the grass is green", "there and back again", "important info hidden"):
        assert sentence not in text
    assert "remember it" in text, "the wording around the key is trained, with other keys"


def test_the_passkey_prompt_still_says_what_is_kept_out() -> None:
    source = open(passkey.__file__, encoding="utf-8").read().lower()  # noqa: SIM115, PTH123
    assert "pass key" in source
    assert "the grass is green" in source
