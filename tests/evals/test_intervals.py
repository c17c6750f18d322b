"""Intervals against scipy, against numbers worked out by hand, identity cases, and their coverage by simulation."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.stats

from skipwise.evals import intervals

DRAWS = 2000
LEVELS = np.array([0, 0.25, 0.5, 0.75, 1])


def interval_of(losses: Any) -> intervals.Interval:
    return intervals.perplexity_interval(intervals.units(losses))


def documents(*lengths: int, seed: int = 0) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    return [generator.gamma(2.0, 1.5, length).astype(np.float32) for length in lengths]


def holds(interval: intervals.Interval, truth: float) -> bool:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low - 1e-9 <= truth <= interval.high + 1e-9


@pytest.mark.parametrize(("right", "n"), [(0, 10), (1, 2), (3, 7), (10, 10), (0, 1), (250, 1000), (5021, 10_042)])
def test_clopper_pearson_equals_scipy(right: int, n: int) -> None:
    expected = scipy.stats.binomtest(right, n).proportion_ci(0.95, method="exact")
    low, high, name = intervals.share_interval(right, n)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-10)
    assert name == "Clopper-Pearson, at least 95%"


def test_clopper_pearson_by_hand() -> None:
    # 0 of 10: the upper end p has (1 - p)^10 = 0.025; 1 of 1: the lower end is 0.025 itself.
    assert intervals.share_interval(0, 10)[:2] == (0.0, pytest.approx(1 - 0.025**0.1, abs=1e-10))
    assert intervals.share_interval(1, 1)[:2] == (pytest.approx(0.025, abs=1e-10), 1.0)
    assert intervals.share_interval(1, 1, tail=0.1).low == pytest.approx(0.1, abs=1e-10)


def test_shares_hold_0_and_1_whatever_rounding_does() -> None:
    assert {intervals.share_interval(0, n).low for n in range(1, 40)} == {0.0}
    assert {intervals.share_interval(n, n).high for n in range(1, 40)} == {1.0}


@pytest.mark.parametrize(("right", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_what_is_no_share_is_refused(right: int, n: int) -> None:
    with pytest.raises(ValueError, match="right answers"):
        intervals.share_interval(right, n)


@pytest.mark.parametrize("n", [3, 10, 20, 100])
def test_coverage_of_shares(n: int) -> None:
    """Exact, over the binomial distribution; Wilson's interval falls to 83 % here."""
    ends = [intervals.share_interval(k, n)[:2] for k in range(n + 1)]
    shares = np.linspace(0.01, 0.99, 99)[:, None]
    chances = scipy.stats.binom.pmf(np.arange(n + 1), n, shares)
    coverage = (chances * np.array([[low <= p <= high for low, high in ends] for p in shares[:, 0]])).sum(axis=1)
    assert coverage.min() >= 0.95


def test_mean_scores_by_hand() -> None:
    # One score of 0.5: its weight and that of the end are uniform, so the ends are 0.5 · 0.025 and 1 - 0.5 · 0.025.
    assert intervals.mean_interval([0.5])[:2] == pytest.approx((0.0125, 0.9875), abs=2e-3)
    # Of scores that are 0 or 1 it is the exact interval, and one score between changes next to nothing.
    assert intervals.mean_interval([1.0] * 19 + [0.0]) == intervals.share_interval(19, 20)
    near = intervals.mean_interval([1.0] * 19 + [0.001])
    assert near[:2] == pytest.approx(intervals.share_interval(19, 20)[:2], abs=5e-3)
    assert near.name == "Gaffke, at least 95%"
    with pytest.raises(ValueError, match="no scores"):
        intervals.mean_interval([])


def test_mean_scores_mirrored_and_repeated() -> None:
    scores = np.random.default_rng(0).beta(2, 3, 40)
    interval, mirror = intervals.mean_interval(list(scores)), intervals.mean_interval(list(1 - scores))
    assert (interval.low, interval.high) == pytest.approx((1 - mirror.high, 1 - mirror.low), abs=5e-3)  # type: ignore[operator]
    assert interval == intervals.mean_interval(list(scores[::-1]))


def compositions(n: int, parts: int) -> Iterator[list[int]]:
    """All ways to share `n` among `parts`."""
    for bars in itertools.combinations(range(n + parts - 1), parts - 1):
        edges = [-1, *bars, n + parts - 1]
        yield [b - a - 1 for a, b in itertools.pairwise(edges)]


SCORES = [
    [0.05, 0.0, 0.0, 0.9, 0.05],  # a rare failure among scores that are alike
    [0.01, 0.01, 0.01, 0.01, 0.96],
    [0.3, 0.2, 0.2, 0.2, 0.1],
    [0.02, 0.03, 0.05, 0.1, 0.8],
]


@functools.cache
def interval_of_counts(counts: tuple[int, ...]) -> intervals.Interval:
    return intervals.mean_interval(list(np.repeat(LEVELS, counts)))


@pytest.mark.parametrize("n", [3, 5])
def test_coverage_of_scores_with_several_references(n: int) -> None:
    """Exact, over the multinomial distribution of scores 0, 1/4, … 1."""
    coverage = np.zeros(len(SCORES))
    for counts in compositions(n, 5):
        interval = interval_of_counts(tuple(counts))
        for i, chances in enumerate(SCORES):
            coverage[i] += scipy.stats.multinomial.pmf(counts, n, chances) * holds(interval, float(LEVELS @ chances))
    assert coverage.min() >= 0.95


@pytest.mark.parametrize("n", [20, 100])
@pytest.mark.parametrize("chances", SCORES[:2])
def test_coverage_of_scores_of_many_prompts(n: int, chances: list[float]) -> None:
    drawn = np.random.default_rng(n).multinomial(n, chances, size=200)
    inside = [holds(interval_of_counts(tuple(counts)), float(LEVELS @ chances)) for counts in drawn]
    assert np.mean(inside) >= 0.95


@pytest.mark.parametrize("n", [3, 5, 16, 100])
@pytest.mark.parametrize(("spread", "least"), [((18, 27), 0.935), ((10, 40), 0.935), ((2.5, 30), 0.915)])
def test_coverage_of_rouge(n: int, spread: tuple[float, float], least: float) -> None:
    """Shapes of ROUGE-1 (mean 0.4), ROUGE-L (0.2) and the skewed ROUGE-2 (0.08)."""
    drawn = np.random.default_rng(n).beta(*spread, size=(3 * DRAWS, n))
    truth = spread[0] / sum(spread)
    assert least <= np.mean([holds(intervals.t_interval(list(scores)), truth) for scores in drawn]) <= 0.965


def test_rouge_is_students_t() -> None:
    scores = [0.2, 0.25, 0.3, 0.33]
    expected = scipy.stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert intervals.t_interval(scores)[:2] == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert intervals.t_interval(scores).name == "Student t 95%"
    assert intervals.t_interval([0.0, 0.0, 0.0]) == intervals.mean_interval([0.0] * 3)
    assert intervals.t_interval([0.3]) == intervals.mean_interval([0.3])


def test_prompts_of_one_unit_count_once() -> None:
    assert intervals.by_unit([1.0, 0.0, 0.5, 1.0, 1.0], ["a", "b", "a", "b", "c"]) == [0.75, 0.5, 1.0]


@pytest.mark.parametrize("lists", [1, 3, 10])
@pytest.mark.parametrize("alike", [0.0, 0.5, 1.0])
def test_coverage_of_prompts_that_share_lists(lists: int, alike: float) -> None:
    """Ten prompts a list; with the chance `alike` a prompt fares as the list's first one does."""
    generator = np.random.default_rng(lists)
    answers = generator.random((300, lists, 10)) < 0.7
    answers = np.where(generator.random(answers.shape) < alike, answers[:, :, :1], answers)
    which = np.repeat(np.arange(lists), 10)
    inside = [
        holds(intervals.mean_interval(intervals.by_unit(list(row.ravel().astype(float)), list(which))), 0.7)
        for row in answers
    ]
    assert np.mean(inside) >= 0.95


@pytest.mark.parametrize("n", [3, 10, 20, 100])
@pytest.mark.parametrize(
    "shares", [[0.95] * 11, [0.99] * 11, [1.0] * 8 + [0.9, 0.0, 0.0], [1.0] * 5 + [0.9, 0.7, 0.5, 0.3, 0.1, 0.0]]
)
def test_coverage_of_the_average_over_tasks_of_unequal_difficulty(n: int, shares: list[float]) -> None:
    """RULER's average and rows over all depths: all prompts together."""
    right = np.random.default_rng(n).binomial(n, shares, size=(4000, len(shares))).sum(axis=1).tolist()
    inside = [holds(intervals.share_interval(count, n * len(shares)), float(np.mean(shares))) for count in right]
    assert np.mean(inside) >= 0.95


def test_perplexity_weighs_tokens_not_documents() -> None:
    # 3 tokens at ln 2 and 1 token at ln 32: exp((3·ln 2 + 5·ln 2) / 4) = 4; the mean of document perplexities is 17.
    losses = [np.full(3, math.log(2), np.float32), np.full(1, math.log(32), np.float32)]
    assert intervals.perplexity(losses) == pytest.approx(4, rel=1e-6)
    with pytest.raises(ValueError, match="no tokens"):
        intervals.perplexity([np.zeros(0, np.float32)])


def test_perplexities_of_equal_documents_are_students_t_of_their_logarithms() -> None:
    losses = documents(90, 90, 90, 90, 90)
    means = [float(part.mean(dtype=np.float64)) for part in losses]
    expected = scipy.stats.ttest_1samp(means, 0).confidence_interval(0.95)
    low, high, name = interval_of(losses)
    assert (math.log(low or 0), math.log(high or 0)) == pytest.approx((expected.low, expected.high), abs=1e-5)
    assert name == "Student t 95%"
    assert holds(intervals.Interval(low, high, name), intervals.perplexity(losses))


def test_two_documents_by_hand() -> None:
    # ln 2 and ln 8: mean ln 4, standard error ln 2, Student's t with one degree of freedom 12.7062.
    losses = [np.full(10, math.log(2), np.float32), np.full(10, math.log(8), np.float32)]
    wide = 12.7062 * math.log(2)
    assert interval_of(losses)[:2] == pytest.approx((4 * math.exp(-wide), 4 * math.exp(wide)), rel=1e-4)


def test_documents_of_unequal_length_by_hand() -> None:
    # Shares 1/4 and 3/4, means 1 and 2 nats a token: residuals ∓3/4 · 1/4 of the total, over 1 - share: 1/4 and 3/4
    # in size, so the error is √(1/2 · (1/16 + 9/16)); Kish's number of units is 1.6, so one degree of freedom.
    mean, half = intervals.ratio_of_sums(np.array([10.0, 60.0]), np.array([10.0, 30.0]))
    assert mean == pytest.approx(1.75)
    assert half == pytest.approx(12.7062 * math.sqrt((0.25**2 + 0.75**2) / 2), rel=1e-4)


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("n", [2, 3, 4, 8, 16, 100])
def test_coverage_of_perplexities(n: int, spread: float) -> None:
    """Documents with effects of their own and lengths that spread by exp(±`spread`)."""
    generator = np.random.default_rng(n)
    counts = np.exp(generator.normal(7, spread, (DRAWS, n)))
    sums = counts * generator.normal(3, 0.3, (DRAWS, n))
    found = [
        intervals.perplexity_interval(intervals.Units(s, c, blocks=False)) for s, c in zip(sums, counts, strict=True)
    ]
    coverage = np.mean([interval == intervals.NONE or holds(interval, math.exp(3)) for interval in found])
    assert 0.935 <= coverage <= (0.965 if spread == 0 else 0.985)


def ar1(correlation: float, tokens: int, draws: int) -> np.ndarray[Any, Any]:
    """Series around 3 with variance 1 and the correlation `correlation`^lag between tokens."""
    generator = np.random.default_rng(0)
    noise = generator.normal(size=(draws, tokens)) * math.sqrt(1 - correlation**2)
    noise[:, 0] /= math.sqrt(1 - correlation**2)
    for t in range(1, tokens):
        noise[:, t] += correlation * noise[:, t - 1]
    return noise + 3


def error_of_ar1(correlation: float, tokens: int) -> float:
    """Standard error of the mean of such a series: √(Σ_ij correlation^|i-j|) / tokens."""
    lags = np.arange(1, tokens)
    return math.sqrt(tokens + 2 * ((tokens - lags) * correlation**lags).sum()) / tokens


@pytest.mark.parametrize(("correlation", "tokens"), [(0.0, 256), (0.5, 256), (0.9, 2048), (0.95, 8192), (0.99, 32_768)])
def test_standard_error_over_blocks_of_a_known_series(correlation: float, tokens: int) -> None:
    """Within 6 % of the truth; blocks of 32 tokens gave 0.33 of it for 0.99."""
    errors, inside = [], []
    for series in ar1(correlation, tokens, 500).astype(np.float32):
        units = intervals.units([series])
        mean, half = intervals.ratio_of_sums(units.sums, units.counts.astype(np.float64))
        errors.append((half / intervals.student(len(units.sums) - 1)) ** 2)
        inside.append(abs(mean - 3) <= half)
    assert math.sqrt(np.mean(errors)) == pytest.approx(error_of_ar1(correlation, tokens), rel=0.06)
    assert 0.93 <= np.mean(inside) <= 0.97


def same_texts(texts: Any) -> intervals.Estimate:
    """The estimate from the blocks of several documents, token by token."""
    blocks = [intervals.document_blocks(text.astype(np.float32)) for text in texts]
    return intervals.same_texts_estimate(
        [part.sums for part in blocks], [part.counts.astype(np.float64) for part in blocks]
    )


@pytest.mark.parametrize(
    ("correlation", "tokens"), [(0.0, [64, 96]), (0.5, [256] * 3), (0.9, [1024, 4096]), (0.95, [1024] * 4)]
)
def test_coverage_of_the_same_texts(correlation: float, tokens: list[int]) -> None:
    """The truth is the mean of these texts, which differ by far more than their blocks do."""
    draws, levels = 1000, 10.0 * np.arange(len(tokens))
    series = ar1(correlation, sum(tokens) + 2000 * len(tokens), draws) - 3
    starts = np.cumsum([0, *(n + 2000 for n in tokens)])
    inside = []
    for one in series:
        texts = [one[start : start + n] + level for start, n, level in zip(starts, tokens, levels, strict=False)]
        estimate = same_texts(texts)
        inside.append(abs(estimate.mean - levels @ np.array(tokens) / sum(tokens)) <= estimate.half)
    assert 0.935 <= np.mean(inside) <= 0.975


def test_the_same_texts_by_hand() -> None:
    """Text 1: blocks 0 and 2, mean 1, variance of the sum 2 · 2 = 4; text 2 likewise around 11. Σ / 4 tokens."""
    parts = [np.array([0.0, 2.0]), np.array([10.0, 12.0])]
    estimate = intervals.same_texts_estimate(parts, [np.ones(2), np.ones(2)])
    assert estimate == pytest.approx((6.0, math.sqrt(4 + 4) / 4, 2.0))
    assert estimate.half == pytest.approx(scipy.stats.t.ppf(0.975, 2) * math.sqrt(8) / 4, rel=1e-3)
    sums, weights = np.array([3.0, 5.0, 4.0, 9.0]), np.array([1.0, 2.0, 1.0, 3.0])
    one = intervals.same_texts_estimate([sums], [weights])
    assert (one.mean, one.half) == pytest.approx(intervals.ratio_of_sums(sums, weights))
    assert intervals.same_texts_estimate([np.ones(1)], [np.ones(1)]).half == math.inf
    alike = intervals.same_texts_estimate([np.ones(4), np.ones(3)], [np.ones(4), np.ones(3)])
    assert (alike.mean, alike.half) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("tokens", "number"), [(1, 1), (3, 3), (80, 4), (1279, 4), (1280, 5), (2048, 8), (4096, 16), (32_767, 16)]
)
def test_block_counts(tokens: int, number: int) -> None:
    assert intervals.block_count(tokens) == number


def test_blocks_cover_every_token_once() -> None:
    units = intervals.units([np.arange(2001, dtype=np.float32)])
    assert len(units.sums) == 7
    assert (units.sums.sum(), units.counts.sum()) == (2_001_000, 2001)
    assert set(units.counts) == {285, 286}
    low, high, name = interval_of([np.full(261, math.log(5), np.float32)])
    assert (low, high) == pytest.approx((5, 5))  # an equal loss everywhere gives a point
    assert name == "Student t 95%, blocks of one document"


def test_short_blocks_of_earlier_versions_are_joined() -> None:
    sums, counts = intervals.joined(np.arange(256.0), np.full(256, 32.0))
    assert counts.tolist() == [512] * 16
    assert sums[:2].tolist() == [sum(range(16)), sum(range(16, 32))]
    few = (np.arange(4.0), np.full(4, 64.0))
    assert intervals.joined(*few) is not None
    assert intervals.joined(*few)[0] is few[0]


def test_a_single_unit_has_no_interval() -> None:
    assert interval_of([np.ones(1, np.float32)]) == intervals.NONE


def test_equal_documents_give_a_point() -> None:
    losses = [np.full(50, math.log(7), np.float32)] * 4
    assert interval_of(losses)[:2] == pytest.approx((7, 7), rel=1e-5)


@pytest.mark.parametrize("degrees", [1, 1.5, 2, 3, 4.7, 15, 100, 101, 5000])
def test_students_quantile(degrees: float) -> None:
    assert intervals.student(degrees, 0.2) == pytest.approx(scipy.stats.t.ppf(0.8, degrees), abs=2e-3)
    assert intervals.student(degrees) == pytest.approx(scipy.stats.t.ppf(0.975, degrees), abs=1e-3)


@pytest.mark.parametrize("method", [intervals.mean_interval, intervals.t_interval])
def test_intervals_are_functions_of_their_scores(method: Callable[[Any], intervals.Interval]) -> None:
    scores = [0.2, 0.7, 0.7, 1.0]
    assert method(scores) == method(list(scores))
