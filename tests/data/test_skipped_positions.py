"""Examples with skipped positions: what an item holds, what it depends on, and what is refused."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BatchEncoding, default_data_collator

from skipwise.config.sampler_names import sampler_names
from skipwise.data.labels import IGNORED
from skipwise.data.recall_documents import Recall
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.data.tokenising import leading_bos
from skipwise.errors import SkipwiseError
from skipwise.positions.sampler import Sampler
from support.tiny import tiny_tokenizer

L, T = 16, 128
DOCUMENTS = [np.arange(1000 * i, 1000 * i + n) for i, n in enumerate((40, 100, 7, 64))]


def dataset(**more: object) -> SkippedPositions:
    return SkippedPositions(DOCUMENTS, **{"target_length": T, "train_length": L, **more})


def test_an_item_is_a_short_text_with_positions_up_to_the_target() -> None:
    data = dataset(examples=200)
    for i in range(200):
        item = data[i]
        assert {tuple(value.shape) for value in item.values()} == {(L,)}
        positions, ids = item["position_ids"], item["input_ids"]
        assert positions[0] == 0
        assert bool((positions.diff() > 0).all())
        assert bool((item["attention_mask"] == 1).all())
        assert len(set((ids // 1000).tolist())) == 1, "one document"
    assert max(int(data[i]["position_ids"][-1]) for i in range(200)) > 0.9 * T


@pytest.mark.parametrize("name", sampler_names())
def test_flash_attention_reads_every_example_as_one_sequence(name: str) -> None:
    """A mask of ones does not reach it. It cuts a row where a position equals the smallest: only at the start."""
    from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

    lengths = {"target_length": T, "train_length": T if name == "full" else L}
    data = SkippedPositions([np.arange(2 * T)], sampler=name, examples=50, **lengths)
    for i in range(50):
        item = data[i]
        assert int(item["position_ids"][0]) == 0
        assert bool((item["attention_mask"] == 1).all())
        (borders, _), _ = prepare_fa_kwargs_from_position_ids(item["position_ids"][None])
        assert borders.tolist() == [0, len(item["position_ids"])]


def test_only_the_label_after_a_text_seam_is_masked() -> None:
    data = dataset(examples=100)
    masked = 0
    for i in range(100):
        item = data[i]
        seams = torch.nn.functional.pad(item["input_ids"].diff() != 1, (1, 0))
        assert torch.equal(item["labels"] == IGNORED, seams)
        assert torch.equal(item["labels"][~seams], item["input_ids"][~seams])
        masked += int(seams.sum())
    assert masked > 50
    plain = dataset(examples=100, mask_seams=False)
    assert all(torch.equal(plain[i]["labels"], plain[i]["input_ids"]) for i in range(100))


def test_documents_are_met_as_often_as_their_text_fills_examples() -> None:
    data = dataset()
    assert len(data) == 40 // L + 100 // L + 64 // L
    met = [int(data[i]["input_ids"][0]) // 1000 for i in range(len(data))]
    assert {document: met.count(document) for document in set(met)} == {0: 2, 1: 6, 3: 4}


def test_contiguous_text_covers_every_piece_of_a_long_document() -> None:
    data = SkippedPositions(DOCUMENTS[1:2], target_length=T, train_length=L, text="contiguous")
    starts = sorted(int(data[i]["input_ids"][0]) - 1000 for i in range(len(data)))
    assert starts == [0, 16, 32, 48, 64, 80]


def test_items_depend_on_seed_epoch_and_index_alone() -> None:
    def positions(data: SkippedPositions) -> torch.Tensor:
        return torch.stack([data[i]["position_ids"] for i in range(len(data))])

    first = positions(dataset())
    backwards = dataset()
    assert torch.equal(
        first, torch.stack([backwards[i]["position_ids"] for i in reversed(range(len(backwards)))]).flip(0)
    )
    assert not torch.equal(first, positions(dataset(seed=1)))
    second = dataset()
    second.set_epoch(1)
    assert not torch.equal(first, positions(second))
    longer = positions(dataset(examples=2 * len(first)))
    assert torch.equal(longer[: len(first)], first)
    again = longer[len(first) :]
    assert not any(torch.equal(row, other) for row in again for other in first), "a second pass has new positions"


def test_workers_change_nothing() -> None:
    data = dataset(examples=8)
    loaders = [torch.utils.data.DataLoader(data, batch_size=4, num_workers=workers) for workers in (0, 2)]
    batches = [torch.cat([batch["position_ids"] for batch in loader]) for loader in loaders]
    assert torch.equal(*batches)


def test_it_wraps_a_tokenised_hf_dataset_and_collates() -> None:
    wrapped = Dataset.from_dict({"input_ids": [document.tolist() for document in DOCUMENTS], "name": list("abcd")})
    data = SkippedPositions(wrapped, target_length=T, train_length=L)
    batch = default_data_collator([data[0], data[1]])
    assert batch["position_ids"].shape == (2, L)
    assert torch.equal(batch["input_ids"][0], dataset()[0]["input_ids"])


def test_bos_comes_first_where_the_tokenizer_puts_one(tmp_path) -> None:
    assert leading_bos(tiny_tokenizer(tmp_path / "a", adds_bos=True)) == 0
    assert leading_bos(tiny_tokenizer(tmp_path / "b")) is None
    data = dataset(bos=7)
    assert all(int(data[i]["input_ids"][0]) == 7 for i in range(len(data)))


def test_full_length_examples_are_as_long_as_the_target() -> None:
    data = SkippedPositions([np.arange(300)], target_length=T, train_length=L, sampler="full")
    assert data[0]["position_ids"].tolist() == list(range(T))
    assert len(data) == 2


def test_recall_documents_take_their_share_and_keep_the_positions(tmp_path) -> None:
    tokenizer = tiny_tokenizer(tmp_path)
    documents = [np.random.default_rng(0).integers(2, 500, size=5000)]
    options = {"target_length": 2048, "train_length": 256, "examples": 300}
    plain = SkippedPositions(documents, **options)
    mixed = SkippedPositions(documents, **options, recall=Recall(tokenizer), recall_share=0.4)
    differ = sum(not torch.equal(plain[i]["input_ids"], mixed[i]["input_ids"]) for i in range(300))
    assert 0.3 < differ / 300 < 0.5
    assert all(torch.equal(plain[i]["position_ids"], mixed[i]["position_ids"]) for i in range(300))
    assert torch.equal(mixed[5]["input_ids"], mixed[5]["input_ids"]), "drawn by index, not by call"


def test_plain_examples_take_their_share_beside_the_others(tmp_path) -> None:
    """Contiguous text at the first positions, all of it with labels; recall documents stay what they were."""
    documents = [np.arange(2, 502)]
    options = {"target_length": 2048, "train_length": 256, "examples": 400}
    recall = {"recall": Recall(tiny_tokenizer(tmp_path)), "recall_share": 0.3}
    without, mixed = (SkippedPositions(documents, **options, **recall, plain_share=share) for share in (0, 0.25))
    count = 0
    for i in range(400):
        item, before = mixed[i], without[i]
        if all(torch.equal(item[name], before[name]) for name in item):
            continue
        count += 1
        assert item["position_ids"].tolist() == list(range(256))
        assert bool((item["input_ids"].diff() == 1).all()), "one piece of text"
        assert torch.equal(item["labels"], item["input_ids"])
    assert 0.2 < count / 400 < 0.3
    everything = SkippedPositions(documents, **options, plain_share=1)
    assert all(int(everything[i]["position_ids"][-1]) == 255 for i in range(50))


def test_plain_text_covers_every_piece_of_a_long_document() -> None:
    data = SkippedPositions(DOCUMENTS[1:2], target_length=T, train_length=L, plain_share=1)
    assert sorted(int(data[i]["input_ids"][0]) - 1000 for i in range(len(data))) == [0, 16, 32, 48, 64, 80]


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([np.arange(10)], {}, "no document has the 16 tokens.*the longest of 1 has 10"),
        ([], {}, "no document"),
        (DOCUMENTS, {"target_length": 8}, "target_length 8"),
        (DOCUMENTS, {"target_length": "lots"}, "target_length lots: expected a number of tokens"),
        (DOCUMENTS, {"train_length": 0.5}, "train_length 0.5: expected a number of tokens"),
        (DOCUMENTS, {"seed": 0.5}, "seed 0.5: expected a whole number"),
        (DOCUMENTS, {"text": "aligned"}, "no document has the 128 tokens"),
        ([np.arange(300)], {"sampler": "full", "plain_share": 0.1}, "plain examples have train_length tokens"),
    ],
)
def test_refusals(documents, options, message) -> None:
    with pytest.raises(SkipwiseError, match=message):
        SkippedPositions(documents, **{"target_length": T, "train_length": L, **options})


def test_lengths_may_be_texts() -> None:
    assert dataset(target_length="32k").sampler.target_length == 32768
    assert dataset(target_length=np.int64(T)).sampler.target_length == T
    with pytest.raises(SkipwiseError, match="target_length '32k': expected a whole number"):
        Sampler("pose", train_length=L, target_length="32k")  # type: ignore[arg-type]


def test_a_sampler_made_once_is_taken_as_it_is() -> None:
    sampler = Sampler("pose", train_length=L, target_length=T, chunks=3, seed=5)
    made, named = SkippedPositions(DOCUMENTS, sampler=sampler), dataset(chunks=3, seed=5)
    assert all(torch.equal(made[i]["position_ids"], named[i]["position_ids"]) for i in range(len(made)))
    with pytest.raises(SkipwiseError, match="target_length, seed: the Sampler holds these already"):
        SkippedPositions(DOCUMENTS, sampler=sampler, target_length=T, seed=1)
    with pytest.raises(SkipwiseError, match="target_length missing: expected tokens, e"):
        SkippedPositions(DOCUMENTS, train_length=L)


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([{"text": "a book"}], "document 0 has no 'input_ids'; its fields: 'text'; tokenise the documents first"),
        (Dataset.from_dict({"text": ["a book"]}), "document 0 has no 'input_ids'"),
        (["a book"], "document 0 is text, not token ids; tokenise"),
        ([{"input_ids": "a book"}], "document 0 is text, not token ids; tokenise"),
        ([np.arange(40), {"input_ids": [[1, 2, 3]]}], r"document 1 holds a list of shape \(1, 3\); expected token ids"),
        ([{"input_ids": [[1, 2], [3]]}], "document 0 holds a list of shape"),
        ([[0.5] * 40], "document 0 holds values of float64"),
        ([None], "document 0 holds a NoneType of shape"),
    ],
)
def test_documents_that_are_not_tokenised(documents, message) -> None:
    with pytest.raises(SkipwiseError, match=message):
        SkippedPositions(documents, target_length=T, train_length=L)


def test_tensors_and_encodings_are_token_ids() -> None:
    tensors = [torch.from_numpy(document) for document in DOCUMENTS]
    encodings = [BatchEncoding({"input_ids": document.tolist()}) for document in DOCUMENTS]
    for documents in (tensors, encodings):
        data = SkippedPositions(documents, target_length=T, train_length=L)
        assert torch.equal(data[3]["input_ids"], dataset()[3]["input_ids"])
