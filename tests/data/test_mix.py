"""Mixtures: the shares that sources get, what an item depends on, and what is refused."""

import pickle
import random
import time

import numpy as np
import pytest
import torch

from skipwise.data.mix import Mixture, floor_sum, source_seed
from skipwise.data.skipped_positions import SkippedPositions
from skipwise.errors import SkipwiseError

L, T = 16, 128


def source(first: int, seed: int = 0, train_length: int = L) -> SkippedPositions:
    """Examples of a text whose tokens begin with `first`."""
    text = np.arange(first, first + 400)
    return SkippedPositions([text], target_length=T, train_length=train_length, examples=10**9, seed=seed)


def mixture(*weights: float, examples: int = 400, seed: int = 0) -> Mixture:
    sources = [source(10_000 * k, source_seed(seed, k)) for k in range(len(weights))]
    return Mixture(sources, weights, examples=examples, seed=seed)


def places(mix: Mixture, count: int) -> list[tuple[int, int]]:
    return [mix.place(i) for i in range(count)]


def test_floor_sum_counts_like_a_loop() -> None:
    draw = random.Random(0)
    for _ in range(500):
        count, divisor, step, start = (draw.randrange(a, b) for a, b in ((0, 40), (1, 50), (0, 120), (0, 120)))
        assert floor_sum(count, divisor, step, start) == sum((start + i * step) // divisor for i in range(count))


def test_three_to_one() -> None:
    """The worked number: of 400 examples 300 come from the first source, to within one."""
    counts = np.bincount([k for k, _ in places(mixture(3, 1), 400)])
    assert abs(counts[0] - 300) <= 1
    assert counts.sum() == 400


@pytest.mark.parametrize("weights", [(1,), (3, 1), (0.5, 0.2, 0.3), (0, 1, 1e-3), (1e-9, 7)])
def test_every_source_has_its_share_in_every_part(weights: tuple[float, ...]) -> None:
    shares = np.array(weights) / sum(weights)
    for seed in (0, 1, 2**64 - 1):
        chosen = np.array([k for k, _ in places(mixture(*weights, seed=seed), 2000)])
        for start, stop in ((0, 2000), (0, 100), (700, 1000)):
            counts = np.bincount(chosen[start:stop], minlength=len(weights))
            assert np.abs(counts - shares * (stop - start)).max() <= 4


def test_a_source_is_gone_through_in_its_own_order() -> None:
    """The item's number is that of the earlier examples from its source, counted one by one."""
    met = [0, 0, 0]
    for k, item in places(mixture(2, 5, 0.7, seed=3), 3000):
        assert item == met[k]
        met[k] += 1
    mix = mixture(3, 1)
    alone = source(0, source_seed(0, 0))
    firsts = [i for i in range(40) if mix.place(i)[0] == 0]
    for number, i in enumerate(firsts):
        assert all(torch.equal(mix[i][name], alone[number][name]) for name in alone[0])


def test_an_item_depends_on_seed_and_index_alone() -> None:
    mix = mixture(3, 1)
    forwards = [mix[i]["input_ids"] for i in range(50)]
    fresh = pickle.loads(pickle.dumps(mixture(3, 1, examples=10**6)))
    assert all(torch.equal(fresh[i]["input_ids"], forwards[i]) for i in reversed(range(50)))
    assert places(mix, 50) != places(mixture(3, 1, seed=1), 50)
    loaders = [torch.utils.data.DataLoader(mix, batch_size=4, num_workers=workers) for workers in (0, 2)]
    ids = [torch.cat([batch["input_ids"] for batch in loader]) for loader in loaders]
    assert torch.equal(*ids)


def test_sources_have_positions_of_their_own() -> None:
    first, second = mixture(1, 1).sources
    same = sum(torch.equal(first[i]["position_ids"], second[i]["position_ids"]) for i in range(60))
    assert same < 6


def test_an_epoch_draws_other_examples() -> None:
    mix = mixture(1, 1)
    first = mix[7]["position_ids"]
    mix.set_epoch(1)
    assert not torch.equal(mix[7]["position_ids"], first)


def test_the_millionth_example_costs_no_more_than_the_first() -> None:
    mix = mixture(3, 1, 2, examples=10**15)
    started = time.perf_counter()
    for i in range(10**14, 10**14 + 200):
        mix.place(i)
    assert (time.perf_counter() - started) / 200 < 0.005


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1,), "one weight for each source, and there are 1 for 2 sources"),
        ((0, 0), "sum to nothing"),
        ((1, -1), "0 or more"),
        ((1, float("nan")), "0 or more"),
        ((1, float("inf")), "0 or more"),
    ],
)
def test_refusals(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(SkipwiseError, match=message):
        Mixture([source(0), source(1000)], weights, examples=10)


def test_examples_of_two_lengths_are_refused() -> None:
    with pytest.raises(SkipwiseError, match="examples of 8 and 16 tokens"):
        Mixture([source(0), source(1000, train_length=8)], (1, 1), examples=10)
