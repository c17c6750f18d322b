"""Intervals against scipy, against numbers worked out by hand, and their identity cases."""

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats

from skipwise.evals import intervals


def interval_of(losses: Any, seed: list[int]) -> intervals.Interval:
    return intervals.perplexity_interval(intervals.units(losses), seed)


def documents(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.gamma(2.0, 1.5, length).astype(np.float32) for length in lengths]


@pytest.mark.parametrize(("right", "n"), [(0, 10), (1, 2), (3, 7), (10, 10), (0, 1), (250, 1000)])
def test_wilson_equals_scipy(right: int, n: int) -> None:
    expected = scipy.stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
    low, high, name = intervals.wilson(right, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert name == "wilson 95%"


def test_wilson_by_hand() -> None:
    # 0 of 10: the upper end is z²/(n + z²) = 3.8415 / 13.8415; 5 of 10: 0.5 ± z·√(0.025 + z²/400)/(1 + z²/10).
    assert intervals.wilson(0, 10)[:2] == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert intervals.wilson(5, 10)[:2] == (pytest.approx(0.23659, abs=1e-5), pytest.approx(0.76341, abs=1e-5))


def test_wilson_holds_0_and_1_whatever_rounding_does() -> None:
    assert {intervals.wilson(0, n).low for n in range(1, 500)} == {0.0}
    assert {intervals.wilson(n, n).high for n in range(1, 500)} == {1.0}


@pytest.mark.parametrize(("right", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_proportion(right: int, n: int) -> None:
    with pytest.raises(ValueError, match="right answers"):
        intervals.wilson(right, n)


def test_perplexity_weighs_tokens_not_documents() -> None:
    # 3 tokens at ln 2 and 1 token at ln 32: exp((3·ln 2 + 5·ln 2) / 4) = 4; the mean of document perplexities is 17.
    losses = [np.full(3, math.log(2), np.float32), np.full(1, math.log(32), np.float32)]
    assert intervals.perplexity(losses) == pytest.approx(4, rel=1e-6)
    with pytest.raises(ValueError, match="no tokens"):
        intervals.perplexity([np.zeros(0, np.float32)])


def test_documents_are_resampled_as_scipy_does() -> None:
    losses = documents(40, 400, 120, 90, 250, 60, 500, 33)
    sums = [float(part.sum()) for part in losses]
    counts = [len(part) for part in losses]
    expected = scipy.stats.bootstrap(
        (sums, counts),
        lambda s, c, axis: np.exp(s.sum(axis) / c.sum(axis)),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    low, high, name = interval_of(losses, [0])
    width = expected.high - expected.low
    assert abs(low - expected.low) < 0.1 * width
    assert abs(high - expected.high) < 0.1 * width
    assert name == "bootstrap 95%"
    assert low < intervals.perplexity(losses) < high


def test_two_documents_by_hand() -> None:
    # Draws of two: (a, a), (a, b), (b, b) with chances 1/4, 1/2, 1/4, so the 95 % ends are the documents' own values.
    losses = [np.full(10, math.log(2), np.float32), np.full(10, math.log(8), np.float32)]
    assert interval_of(losses, [0])[:2] == pytest.approx((2, 8), rel=1e-5)


def test_one_document_resamples_blocks_and_says_so() -> None:
    low, high, name = interval_of(documents(4000), [0])
    assert name == "block bootstrap 95%"
    assert low < intervals.perplexity(documents(4000)) < high
    # Losses that come in runs vary more than a token-wise resampling would show: 125 blocks of 32 at ln 2 or ln 8.
    runs = np.repeat(np.where(np.random.default_rng(0).random(125) < 0.5, math.log(2), math.log(8)), 32)
    low, high, _ = interval_of([runs.astype(np.float32)], [0])
    mean = float(runs.mean())
    half = 1.96 * float(runs[::32].std()) / math.sqrt(125)
    assert (math.log(low), math.log(high)) == pytest.approx((mean - half, mean + half), abs=0.15 * half)


@pytest.mark.parametrize(("tokens", "size"), [(1, 1), (7, 1), (80, 10), (256, 32), (8192, 32), (32_767, 128)])
def test_block_sizes(tokens: int, size: int) -> None:
    assert intervals.block_size(tokens) == size


def test_blocks_cover_every_token_once() -> None:
    # 261 tokens: eight blocks of 32 and one of 5; an equal loss everywhere gives a point.
    assert interval_of([np.full(261, math.log(5), np.float32)], [0])[:2] == pytest.approx((5, 5))
    spike = np.zeros(261, np.float32)
    spike[-1] = 261.0
    assert interval_of([spike], [0]).high > math.exp(1)


def test_intervals_repeat_with_their_seed() -> None:
    losses = documents(*range(40, 60))
    assert interval_of(losses, [3, 8]) == interval_of(losses, [3, 8])
    assert interval_of(losses, [3, 8]) != interval_of(losses, [4, 8])
    assert interval_of(documents(4000), [1]) != interval_of(documents(4000), [2])


def test_equal_documents_give_a_point() -> None:
    losses = [np.full(50, math.log(7), np.float32)] * 4
    assert interval_of(losses, [0])[:2] == pytest.approx((7, 7), rel=1e-5)
