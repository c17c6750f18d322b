"""Perplexity on models whose probabilities are known, against slow plain implementations, and its refusals."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from skipwise.errors import SkipwiseError
from skipwise.evals.document_losses import Document, PerplexityVariant
from skipwise.evals.tasks import perplexity
from skipwise.models.chunked_reader import Reader
from skipwise.models.load import LoadedModel
from support.known import bigram_llama
from support.tiny import llama_config, tiny_model

VOCABULARY = 32


def measure(found, documents, lengths, variant=PerplexityVariant(), advance=lambda tokens: None):  # noqa: B008
    """Rows of whole lengths."""
    wanted = [(0, length) for length in lengths]
    return perplexity.measure(found, Reader(found.model), documents, wanted, variant, advance)


def measure_parts(found, documents, wanted, variant):
    return perplexity.measure(found, Reader(found.model), documents, wanted, variant)


def loaded(model: PreTrainedModel, window: int = 4096) -> LoadedModel:
    return LoadedModel(
        model=model,
        tokenizer=None,
        name="tiny",
        path="tiny",
        original_length=window,
        window=window,
        fingerprint="f",
        scaling=None,
        quantised_from=None,
    )


def random_llama(**more: Any) -> PreTrainedModel:
    return tiny_model(llama_config(vocab=VOCABULARY, **more))


def hand_model() -> PreTrainedModel:
    """After 0: 1 with 1/8; after 1: 2 with 1/2; after 2: 1 with 1/4."""
    chances = np.full((8, 8), 1 / 8)
    chances[1], chances[2] = 1 / 14, 3 / 28
    chances[1, 2], chances[2, 1] = 1 / 2, 1 / 4
    return bigram_llama(chances)


def text(*lengths: int, seed: int = 0) -> list[Document]:
    generator = np.random.default_rng(seed)
    return [(f"{i}.txt", generator.integers(2, VOCABULARY, n).astype(np.uint16)) for i, n in enumerate(lengths)]


def values(rows: Any) -> dict[int, float]:
    return {row.length: row.value for row in rows}


def plain_loss(model: PreTrainedModel, context: list[int], token: int) -> float:
    with torch.no_grad():
        return -float(torch.log_softmax(model(torch.tensor([context])).logits[0, -1].double(), -1)[token])


@pytest.mark.parametrize(
    "variant", [PerplexityVariant("prefix"), PerplexityVariant("sliding", stride=4, span=40, bos_id=0)]
)
def test_equal_chances_give_the_size_of_the_vocabulary(variant: PerplexityVariant) -> None:
    model = bigram_llama(np.full((VOCABULARY, VOCABULARY), 1 / VOCABULARY))
    rows = list(measure(loaded(model), text(40, 50), [8, 40], variant))
    assert values(rows) == pytest.approx({8: VOCABULARY, 40: VOCABULARY}, rel=1e-5)
    assert all(row.low == pytest.approx(VOCABULARY, rel=1e-5) == row.high for row in rows)


def test_prefix_by_hand() -> None:
    documents = [("a", np.array([1, 2, 1, 2, 1]))]
    rows = list(measure(loaded(hand_model()), documents, [3, 5], PerplexityVariant("prefix")))
    assert values(rows) == pytest.approx({3: 2**1.5, 5: 2**1.5}, rel=1e-5)  # 1 and 2 bits in turn
    assert [row.tokens for row in rows] == [2, 4]
    rows = list(measure(loaded(hand_model()), documents, [3, 5], PerplexityVariant("prefix", bos_id=0)))
    # The BOS takes a place: it predicts 1 with 3 bits, then 1, 2, 1 bits follow.
    assert values(rows) == pytest.approx({3: 2 ** (4 / 2), 5: 2 ** (7 / 4)}, rel=1e-5)
    assert [row.tokens for row in rows] == [2, 4]


def test_sliding_by_hand() -> None:
    documents = [("a", np.array([1, 2, 1, 2, 1]))]

    def bits(stride: int) -> float:
        variant = PerplexityVariant("sliding", stride=stride, span=5, bos_id=0)
        [row] = measure(loaded(hand_model()), documents, [3], variant)
        assert row.tokens == 4
        return math.log2(row.value) * 4

    # Windows BOS + 2 tokens over 1 2 1 2. Stride 1: 3 + 1, then the last token of each: 2, 1. Stride 2: 3 + 1, 3 + 1.
    assert bits(1) == pytest.approx(7, rel=1e-5)
    assert bits(2) == pytest.approx(8, rel=1e-5)


def test_documents_are_pooled_by_tokens() -> None:
    # Sliding without span limits: 4 tokens at 1, 2, 1, 2 bits and 8 tokens (of which 7 scored) at 3 bits each.
    documents = [("a", np.array([1, 2, 1, 2, 1])), ("b", np.array([0] * 9))]
    [row] = measure(loaded(hand_model()), documents, [5], PerplexityVariant("sliding", stride=5, span=9))
    assert row.tokens == 4 + 4 + 3  # the second window of b has no context for its first token
    assert math.log2(row.value) == pytest.approx((6 + 7 * 3) / 11, rel=1e-5)


@pytest.mark.parametrize("bos", [None, 0])
def test_prefix_equals_a_pass_for_every_length(bos: int | None) -> None:
    model, documents = random_llama(), text(48, 60, 51)
    rows = list(measure(loaded(model), documents, [2, 7, 32, 48], PerplexityVariant("prefix", bos_id=bos)))
    for row in rows:
        losses = []
        for _, tokens in documents:
            ids = [*([] if bos is None else [bos]), *tokens.tolist()][: row.length]
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, :-1]
            losses += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none").tolist()
        assert row.value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)
        assert row.tokens == len(losses) == 3 * (row.length - 1)
        assert row.low <= row.value <= row.high


@pytest.mark.parametrize(("window", "stride"), [(8, 3), (8, 1), (6, 5), (20, 4), (23, 3)])
@pytest.mark.parametrize("bos", [None, 0])
def test_sliding_equals_a_plain_implementation(window: int, stride: int, bos: int | None) -> None:
    model, documents, span = random_llama(), text(23, 30), 23
    variant = PerplexityVariant("sliding", stride=stride, span=span, bos_id=bos)
    [row] = measure(loaded(model), documents, [window], variant)
    losses = []
    start_token = [] if bos is None else [bos]
    for _, tokens in documents:
        ids = tokens[: span - len(start_token)].tolist()
        for place, token in enumerate(ids):
            held = window - len(start_token)
            first = max((place - held) // stride + 1, 0) * stride  # of the first window that holds this place
            context = start_token + ids[first:place]
            if context:
                losses.append(plain_loss(model, context, token))
    assert row.tokens == len(losses)
    assert row.value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)


@pytest.mark.parametrize("bos", [None, 0])
def test_a_sliding_window_as_long_as_the_text_is_the_prefix(bos: int | None) -> None:
    model, documents = loaded(random_llama()), text(47, 60)
    [prefix] = measure(model, documents, [47], PerplexityVariant("prefix", bos_id=bos))
    [sliding] = measure(model, documents, [47], PerplexityVariant("sliding", stride=5, span=47, bos_id=bos))
    assert sliding.value == pytest.approx(prefix.value, rel=1e-6)
    assert sliding.tokens == prefix.tokens


def test_frequencies_that_depend_on_the_length_get_a_pass_each() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}
    model, documents = random_llama(window=16, rope_parameters=rope), text(64)
    rows = values(measure(loaded(model), documents, [16, 64], PerplexityVariant("prefix")))
    fresh = random_llama(window=16, rope_parameters=rope)
    alone = values(measure(loaded(fresh), documents, [16], PerplexityVariant("prefix")))
    assert rows[16] == pytest.approx(alone[16], rel=1e-5)


def test_a_length_beyond_the_window_is_run_and_flagged() -> None:
    rows = list(measure(loaded(random_llama(window=16), 16), text(40), [16, 17, 40], PerplexityVariant("prefix")))
    assert [row.beyond_window for row in rows] == [False, True, True]
    assert [row.tokens for row in rows] == [15, 16, 39]


@pytest.mark.parametrize("bos", [None, 0])
@pytest.mark.parametrize("name", ["prefix", "sliding"])
def test_the_model_never_reads_more_than_the_length(name: Any, bos: int | None) -> None:
    found, seen = loaded(random_llama()), list[int]()
    reader = Reader(found.model, chunk=7)
    found.model.get_decoder().embed_tokens.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    variant = PerplexityVariant(name, stride=5, span=40, bos_id=bos)
    list(perplexity.measure(found, reader, text(60), [(0, 16)], variant))
    assert max(seen) == 16  # 16 is the least that a chunk holds


def test_stretches_between_lengths_are_scored_from_the_same_pass() -> None:
    found, documents = loaded(random_llama()), text(40, 50)
    variant = PerplexityVariant("prefix", bos_id=0)
    wanted = perplexity.parts([40, 8, 20], found.model, variant)
    assert wanted == [(0, 8), (0, 20), (0, 40), (8, 20), (20, 40)]
    rows = {(row.start, row.length): row for row in measure_parts(found, documents, wanted, variant)}
    assert {row.task for row in rows.values()} == {"perplexity", "perplexity_by_position"}
    for start, stop in ((0, 8), (8, 20), (20, 40)):
        assert rows[start, stop].tokens == 2 * (stop - max(start, 1))
    whole = [sum(rows[part].sums) for part in ((0, 8), (8, 20), (20, 40))]
    assert sum(whole) == pytest.approx(sum(rows[0, 40].sums), rel=1e-6)
    assert rows[8, 20].value == pytest.approx(math.exp(whole[1] / 24), rel=1e-5)


def test_stretches_are_of_one_way_of_reading() -> None:
    assert perplexity.parts([8, 20], random_llama(), PerplexityVariant("sliding")) == [(0, 8), (0, 20)]
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert perplexity.parts([8, 20], random_llama(rope_parameters=dynamic), PerplexityVariant()) == [(0, 8), (0, 20)]


def test_rows_say_how_they_were_measured() -> None:
    documents = text(20, 30)
    [row] = measure(loaded(random_llama()), documents, [20], PerplexityVariant("prefix", bos_id=0, seed=3))
    known = {"task": "perplexity", "variant": "prefix", "length": 20, "n": 2, "seed": 3, "bos": True, "depth": None}
    assert row.model_dump().items() >= known.items()
    assert row.documents == ["0.txt", "1.txt"]
    assert row.interval == "Student t 95%"
    variant = PerplexityVariant("sliding", stride=4, span=20)
    [row] = measure(loaded(random_llama()), documents[:1], [10], variant)
    assert row.model_dump().items() >= {"variant": "sliding", "stride": 4, "span": 20, "bos": False, "n": 1}.items()
    assert row.interval == "Student t 95%, blocks of one document"


def test_intervals_are_a_function_of_the_losses() -> None:
    model = loaded(random_llama())
    rows = [next(measure(model, text(80, 90), [80], PerplexityVariant(seed=seed))) for seed in (0, 1)]
    assert (rows[0].low, rows[0].high) == (rows[1].low, rows[1].high)


def test_the_digest_is_that_of_the_scored_text() -> None:
    documents, changed = text(20), text(20)
    changed[0][1][15] ^= 1

    def data(which: list[Document], length: int, variant: PerplexityVariant) -> str:
        return str(perplexity.header(which, 0, length, variant).data)

    prefix, sliding = PerplexityVariant("prefix"), PerplexityVariant("sliding", span=20)
    assert data(documents, 15, prefix) == data(changed, 15, prefix)
    assert data(documents, 16, prefix) != data(changed, 16, prefix)
    assert data(documents, 8, sliding) != data(changed, 8, sliding)
    wider = [(name, tokens.astype(np.int64)) for name, tokens in documents]
    assert data(documents, 16, prefix) == data(wider, 16, prefix)
    assert data(documents, 16, prefix) != data(documents, 16, PerplexityVariant("prefix", bos_id=0))


@pytest.mark.parametrize(
    "variant", [PerplexityVariant("prefix"), PerplexityVariant("sliding", stride=5, span=40, bos_id=0)]
)
def test_progress_ends_at_its_total(variant: PerplexityVariant) -> None:
    model, documents, moved = random_llama(), text(41, 60), []
    list(measure(loaded(model), documents, [8, 40], variant, moved.append))
    assert sum(moved) == perplexity.total_tokens(documents, [8, 40], model, variant)


def test_all_lengths_have_the_same_documents() -> None:
    documents = text(100, 90, 80, 40)
    assert perplexity.select(documents, [16, 80], PerplexityVariant(), 4) == documents[:3]
    assert perplexity.select(documents, [16, 80], PerplexityVariant(), 2) == documents[:2]
    assert perplexity.select(documents, [16, 81], PerplexityVariant(bos_id=0), 4) == documents[:3]
    assert perplexity.select(documents, [16, 81], PerplexityVariant(), 4) == documents[:2]


@pytest.mark.parametrize(
    ("lengths", "variant", "message"),
    [
        (
            [8, 101],
            PerplexityVariant(),
            r"at 101 tokens: no document .* longest is '0.txt' with 100 tokens; .* up to 100",
        ),
        ([8, 102], PerplexityVariant(bos_id=0), r"the longest is '0.txt' with 101 tokens"),
        ([1, 8], PerplexityVariant(), "at length 1: nothing to score"),
        ([8, 16], PerplexityVariant("sliding", stride=9, span=16), r"evaluation.stride = 9 .* expected at most 8"),
        (
            [8, 16],
            PerplexityVariant("sliding", stride=8, span=16, bos_id=0),
            r"evaluation.stride = 8 .* expected at most 7",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(lengths: list[int], variant: PerplexityVariant, message: str) -> None:
    with pytest.raises(SkipwiseError, match=message):
        perplexity.select(text(100, 90), lengths, variant, 4)


def test_no_documents_are_refused() -> None:
    with pytest.raises(SkipwiseError, match=r"evaluation\.data"):
        perplexity.select([], [8], PerplexityVariant(), 4)


def test_losses_that_are_no_numbers_are_refused() -> None:
    model = random_llama(tie_word_embeddings=False)
    with torch.no_grad():
        model.lm_head.weight[5] = float("nan")
    with pytest.raises(SkipwiseError, match=r"loss on '0.txt' is nan at scored token 0"):
        list(measure(loaded(model), text(20), [20], PerplexityVariant("prefix")))


class NoBos:
    bos_token_id = None


class Bos:
    bos_token_id = 7


def test_bos_where_there_is_one_and_it_is_wanted() -> None:
    assert [perplexity.bos_id(Bos(), True), perplexity.bos_id(Bos(), False)] == [7, None]
    assert perplexity.bos_id(NoBos(), True) is None
