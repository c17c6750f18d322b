"""Counts of relative distances: against pairs counted one by one, exact enumerations and simulations."""

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skipwise.config.sampler_names import sampler_names
from skipwise.errors import SkipwiseError
from skipwise.positions.coverage import (
    distance_counts,
    examples_counted,
    examples_showing,
    examples_until_seen,
    examples_until_share,
    longest_distance_chance,
    seen_probability,
)
from skipwise.positions.coverage_summary import FEW_SEEDS, SEEDS, Number, _quantile, examples_needed, summary
from skipwise.positions.sampler import Sampler
from skipwise.report.coverage_view import number_text
from support.expected_counts import expected_counts

LEAST_OF_ONE = ("pose", "stratified", "randpos", "full", "original", "curriculum")


def pairs(positions, target):
    """Pairs of one example at each distance, one by one."""
    counts = [0] * target
    for query in positions:
        for key in positions:
            if query >= key:
                counts[query - key] += 1
    return counts


def pairs_seen(sampler, examples):
    rows = sampler.draw(0, np.arange(examples), sampler.document_length).position_ids.tolist()
    return np.sum([pairs(row, sampler.target_length) for row in rows], axis=0)


@st.composite
def samplers(draw):
    length = draw(st.integers(1, 40))
    return Sampler(
        draw(st.sampled_from(["pose", *(name for name in sampler_names() if length > 2 or name in LEAST_OF_ONE)])),
        train_length=length,
        target_length=length + draw(st.sampled_from([0, 1, 5, length, 100])),
        chunks=draw(st.integers(1, length)),
        text=draw(st.sampled_from(["skip", "contiguous", "aligned"])),
        seed=draw(st.integers(0, 1000)),
    )


@settings(max_examples=150, deadline=None)
@given(samplers(), st.integers(1, 6))
def test_counts_equal_pairs_counted_one_by_one(sampler, examples):
    counts = distance_counts(sampler, examples=examples)
    assert counts.dtype == np.float64
    np.testing.assert_array_equal(counts, pairs_seen(sampler, examples))
    rows = sampler.draw(0, np.arange(3, 3 + examples), sampler.document_length).position_ids.tolist()
    showing = np.sum([np.array(pairs(row, sampler.target_length)) > 0 for row in rows], axis=0)
    np.testing.assert_array_equal(examples_showing(sampler, examples=examples, first=3), showing)


@pytest.mark.parametrize("chunks", [2, 200])
def test_counts_over_many_batches_are_exact(chunks):
    # 300 tokens make batches of 218 examples; 200 chunks take the transform, 2 the edges.
    sampler = Sampler("pose", 300, 2000, chunks=chunks)
    counts = distance_counts(sampler, examples=450)
    expected = np.zeros(2000)
    for row in sampler.draw(0, np.arange(450), 300).position_ids:
        distances = row[:, None] - row
        expected += np.bincount(distances[distances >= 0], minlength=2000)
    np.testing.assert_array_equal(counts, expected)
    assert counts[0] == 450 * 300
    assert counts.sum() == 450 * 300 * 301 / 2


def test_counts_worked_out_by_hand():
    # Positions 0 1 2 only: three tokens with themselves, two neighbours, one pair at distance 2; twice.
    assert distance_counts(Sampler("original", 3, 5), examples=2).tolist() == [6, 4, 2, 0, 0]
    assert distance_counts(Sampler("full", 3, 5), examples=1).tolist() == [5, 4, 3, 2, 1]


def enumerated(sampler):
    """Mean pairs of an example over every layout, each with its exact chance."""
    length, target = sampler.train_length, sampler.target_length
    if sampler.name == "randpos":
        subsets = [[0, *rest] for rest in itertools.combinations(range(1, target), length - 1)]
        layouts = [(Fraction(1, len(subsets)), positions) for positions in subsets]
    else:
        layouts = []
        for border, skip in itertools.product(range(1, length), range(target - length + 1)):
            positions = [*range(border), *range(border + skip, length + skip)]
            layouts.append((Fraction(1, (length - 1) * (target - length + 1)), positions))
    mean = [Fraction(0)] * target
    for chance, positions in layouts:
        mean = [total + chance * count for total, count in zip(mean, pairs(positions, target), strict=True)]
    assert sum(chance for chance, _ in layouts) == 1
    return [float(value) for value in mean]


@pytest.mark.parametrize("name", ["pose", "randpos"])
@pytest.mark.parametrize(("length", "target"), [(2, 2), (2, 3), (2, 9), (5, 5), (5, 6), (4, 9), (7, 9), (6, 14)])
def test_expected_counts_equal_an_exact_enumeration(name, length, target):
    sampler = Sampler(name, length, target)
    np.testing.assert_allclose(expected_counts(sampler), enumerated(sampler), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "sampler",
    [
        Sampler("pose", 48, 400),
        Sampler("pose", 48, 60, text="aligned"),
        Sampler("randpos", 48, 200),
        Sampler("full", 48, 60),
        Sampler("original", 48, 60),
        Sampler("pose", 48, 60, chunks=1),
        Sampler("pose", 1, 60, chunks=1),
        Sampler("randpos", 1, 60),
        Sampler("pose", 48, 400, chunks=3),
    ],
)
def test_expected_counts_are_the_mean_of_many_examples(sampler):
    examples, batches = 4000, 20
    rows = []
    for seed in range(batches):
        other = Sampler(sampler.name, sampler.train_length, sampler.target_length, sampler.chunks, seed=seed + 1)
        rows.append(distance_counts(other, examples=examples // batches) * batches / examples)
    mean, error = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(batches)
    expected = expected_counts(sampler, examples=20000)
    np.testing.assert_allclose(expected.sum(), mean.sum(), rtol=1e-9)
    close = np.abs(mean - expected) <= 5 * error + 0.01 * expected.max()
    assert close.all(), np.flatnonzero(~close)


def test_expected_counts_are_level_between_the_train_length_and_the_largest_skip():
    # L (L + 1) / (6 (T - L + 1)) = 16 * 17 / (6 * 85)
    np.testing.assert_allclose(expected_counts(Sampler("pose", 16, 100))[16:85], 272 / 510)


def seen_fraction(counts):
    return (counts > 0).mean()


def test_the_share_of_distances_that_plain_positions_show():
    assert seen_fraction(distance_counts(Sampler("original", 3, 12), examples=2)) == 0.25
    assert seen_fraction(distance_counts(Sampler("full", 3, 12), examples=1)) == 1


def union_bound_enumerated(length, target, examples):
    """Σ over distances of the chance that none of `examples` examples shows it, from every layout."""
    layouts = list(itertools.product(range(1, length), range(target - length + 1)))
    total = 0.0
    for distance in range(target):
        missing = 0
        for border, skip in layouts:
            positions = [*range(border), *range(border + skip, length + skip)]
            missing += pairs(positions, target)[distance] == 0
        total += (missing / len(layouts)) ** examples
    return total


@pytest.mark.parametrize(("length", "target"), [(2, 3), (2, 8), (5, 6), (5, 13), (8, 12)])
@pytest.mark.parametrize("probability", [0.5, 0.9, 0.999])
def test_examples_until_seen_is_the_smallest_number_within_the_union_bound(length, target, probability):
    n = examples_until_seen(Sampler("pose", length, target), probability)
    assert union_bound_enumerated(length, target, n) <= 1 - probability + 1e-12
    assert union_bound_enumerated(length, target, n - 1) > 1 - probability - 1e-12


def test_examples_until_seen_agrees_with_a_simulation():
    n = examples_until_seen(Sampler("pose", 8, 40), 0.9)
    complete = [
        seen_fraction(distance_counts(Sampler("pose", 8, 40, seed=seed), examples=n)) == 1 for seed in range(400)
    ]
    # Never too few; and close to what was asked, for the largest distance decides almost alone.
    assert 0.87 < np.mean(complete) < 0.96


def test_examples_until_seen_worked_out_by_hand():
    # L = 2, T = 3: distance 2 needs u = 1, distance 1 needs u = 0, so n examples miss one with 2 · 2^-n.
    assert examples_until_seen(Sampler("pose", 2, 3), 0.9) == 5
    assert examples_until_seen(Sampler("full", 2, 3), 0.9) == 1
    assert examples_until_seen(Sampler("pose", 3, 3), 0.9) == 1
    assert examples_until_seen(Sampler("original", 3, 3), 0.9) == 1


@pytest.mark.parametrize(
    ("sampler", "probability", "message"),
    [
        (Sampler("endprompt", 9, 50), 0.9, "'endprompt' never shows some distances"),
        (Sampler("original", 3, 5), 0.9, "'original' never shows a distance of 3 or more"),
        (Sampler("pose", 3, 5, chunks=1), 0.9, "'pose' never shows a distance of 3 or more"),
        (Sampler("randpos", 1, 5), 0.9, "'randpos' never shows a distance of 1 or more"),
        (Sampler("randpos", 3, 5), 0.9, "no formula for sampler 'randpos'"),
        (Sampler("pose", 3, 5), 1.0, "probability 1.0"),
        (Sampler("pose", 3, 5), 0.0, "probability 0.0"),
    ],
)
def test_unanswerable_questions_are_refused(sampler, probability, message):
    with pytest.raises(SkipwiseError, match=message):
        examples_until_seen(sampler, probability)


def test_wrong_arguments_are_named():
    with pytest.raises(SkipwiseError, match="examples 0"):
        distance_counts(Sampler("pose", 4, 8), examples=0)
    with pytest.raises(SkipwiseError, match="a document of 3 tokens"):
        distance_counts(Sampler("pose", 4, 8), examples=1, n_doc=3)


def test_the_chance_of_the_longest_distance():
    assert longest_distance_chance(Sampler("pose", 10, 59)) == pytest.approx(1 / 50)
    harmonic = sum(1 / k for k in range(1, 51))
    three = Sampler("pose", 10, 59, chunks=3)
    assert longest_distance_chance(three) == pytest.approx(harmonic / 50)
    last = three.draw(0, np.arange(20_000), 10).position_ids[:, -1]
    assert (last == 58).mean() == pytest.approx(harmonic / 50, abs=0.006)  # 4 standard deviations
    assert longest_distance_chance(Sampler("pose", 10, 59, chunks=1)) == 0


def shares_seen(sampler, examples):
    """Share of `examples` examples that show each distance, counted one by one."""
    return np.mean(
        [
            np.array(pairs(row, sampler.target_length)) > 0
            for row in sampler.draw(0, np.arange(examples), sampler.document_length).position_ids.tolist()
        ],
        axis=0,
    )


@pytest.mark.parametrize("chunks", [1, 2, 3, 4, 7])
def test_chances_to_be_seen_beside_a_simulation(chunks):
    sampler = Sampler("pose", 12, 50, chunks=chunks)
    chances, counted = seen_probability(sampler), shares_seen(sampler, 4000)
    error = 5 * np.sqrt(0.25 / 4000) + (0.03 if chunks > 2 else 0)  # the lengths of many chunks are a sample too
    assert (chances <= counted + error).all(), "never more than is seen"
    if chunks <= 2:
        assert (chances >= counted - error).all()
    assert chances[-1] == pytest.approx(longest_distance_chance(sampler))
    assert chances[:4] == pytest.approx(np.ones(4)) if chunks < 4 else chances[0] == 1


@pytest.mark.parametrize("chunks", [3, 5])
def test_enough_examples_of_many_chunks_show_every_distance(chunks):
    n = examples_until_seen(Sampler("pose", 8, 40, chunks=chunks), 0.9)
    assert n < examples_until_seen(Sampler("pose", 8, 40), 0.9)
    complete = [
        seen_fraction(distance_counts(Sampler("pose", 8, 40, chunks=chunks, seed=seed), examples=n)) == 1
        for seed in range(200)
    ]
    assert np.mean(complete) > 0.87


def test_examples_until_a_share_is_seen():
    sampler = Sampler("pose", 8, 40)
    n = examples_until_share(sampler, 0.95)
    seen = [seen_fraction(distance_counts(Sampler("pose", 8, 40, seed=seed), examples=n)) for seed in range(200)]
    fewer = [seen_fraction(distance_counts(Sampler("pose", 8, 40, seed=s), examples=n - 2)) for s in range(200)]
    assert np.mean(seen) > 0.945 > np.mean(fewer)
    assert examples_until_share(Sampler("full", 8, 40), 0.95) == 1
    assert examples_until_share(sampler, 0.99) > n
    with pytest.raises(SkipwiseError, match="share 1"):
        examples_until_share(sampler, 1)


@pytest.mark.parametrize("name", sampler_names())
@pytest.mark.parametrize(("length", "target", "chunks"), [(12, 50, 2), (31, 90, 1), (24, 96, 3), (24, 36, 2)])
def test_exact_chances_agree_with_many_examples(name, length, target, chunks):
    try:
        chances = seen_probability(Sampler(name, length, target, chunks=chunks), exact=True)
    except SkipwiseError:
        assert name in ("curriculum", "randpos") or (name in ("pose", "skipalign", "stratified") and chunks == 3)
        return
    seeds, each = (
        (2000, 2) if name == "stratified" else (20, 200)
    )  # its examples are independent of one another by seed
    times = sum(
        examples_showing(Sampler(name, length, target, chunks=chunks, seed=s), examples=each) for s in range(seeds)
    )
    n = seeds * each
    error = np.sqrt(np.maximum(chances * (1 - chances), 1 / n) / n)
    assert (np.abs(times / n - chances) <= 5 * error).all()


def test_a_sampled_summary_agrees_with_the_exact_one(monkeypatch):
    """What is sampled where a formula is missing has intervals that hold what the formula says."""
    sampler = Sampler("pose", 16, 100)
    exact = summary(sampler)
    assert (exact.origin, exact.error) == ("exact", None)
    declared = sampler.method
    monkeypatch.setattr(
        "skipwise.positions.sampler.method", lambda name: dataclasses.replace(declared, chances=None, lower_bound=None)
    )
    seen_probability.cache_clear()
    sampled = summary(sampler)
    seen_probability.cache_clear()
    assert sampled.origin == "sampled"
    outside = np.abs(sampled.chances - exact.chances) > sampled.error
    assert outside.mean() < 0.15, "95 % intervals, and neighbours are outside together"
    assert sampled.most_seen.low * 0.8 <= exact.most_seen.value <= sampled.most_seen.high * 1.6  # median and mean
    assert sampled.all_seen.low <= exact.all_seen.value <= sampled.all_seen.high
    assert (sampled.least, sampled.most) == (exact.least, exact.most)


@pytest.mark.parametrize(("probability", "seeds"), [(0.95, SEEDS), (0.5, SEEDS), (0.95, FEW_SEEDS), (0.5, FEW_SEEDS)])
def test_the_interval_of_a_quantile_covers_it(probability, seeds):
    """Runs that take 1 to 1,000 examples, each as likely: the quantile is 1,000 times the probability."""
    rng = np.random.default_rng(0)
    numbers = [_quantile(rng.integers(1, 1001, seeds).tolist(), probability, 10**6) for _ in range(4000)]
    held = np.mean([number.low <= 1000 * probability <= number.high for number in numbers])
    assert held > 0.945
    assert math.isinf(numbers[0].high) == (seeds == FEW_SEEDS)
    if seeds == SEEDS:
        assert held < 0.98, "no wider than it must be"


def test_a_run_that_did_not_end_leaves_the_interval_open():
    runs = [*range(1, 72), None]
    assert _quantile(runs, 0.95, 100) == Number(69, 64, math.inf)
    assert number_text(Number(69, 65, math.inf)) == "69 (65 or more)"


def test_examples_counted_are_the_fewest():
    sampler = Sampler("stratified", 16, 200, seed=4)
    half, every = examples_counted(sampler, [0.5, 1.0], most=1000)
    for n, share in [(half, 0.5), (every, 1.0)]:
        assert seen_fraction(distance_counts(sampler, examples=n)) >= share
        assert seen_fraction(distance_counts(sampler, examples=n - 1)) < share
    assert examples_counted(sampler, [0.5, 1.0], most=half) == [half, None]
    assert examples_counted(Sampler("original", 16, 200), [0.01, 1.0], most=99) == [1, None]


def test_numbers_of_samplers_that_never_show_a_distance():
    for name in ("original", "endprompt"):
        assert [number.value for number in examples_needed(Sampler(name, 16, 200))] == [np.inf, np.inf]
    # 99 % need no more than the distances that it shows: 186 of 187, all but distance 15.
    assert examples_needed(Sampler("endprompt", 16, 31))[0].value == np.inf
    assert examples_until_share(Sampler("endprompt", 16, 17), 0.9) == 1
