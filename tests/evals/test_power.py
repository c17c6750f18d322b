"""The detectable change: the power that it promises, by simulation, and against numbers worked out otherwise."""

import numpy as np
import pytest
import scipy.stats

from skipwise.evals import power
from skipwise.evals.paired_change import perplexity_ratio, score_difference

DRAWS = 1500


@pytest.mark.parametrize(("n", "against"), [(8, 0.0), (20, 0.0), (20, 0.1), (100, 0.05), (600, 0.1)])
def test_shares_that_differ_so_much_are_shown_four_times_in_five(n: int, against: float) -> None:
    share = power.detectable_share(n, against)
    assert share is not None
    chances = [against, 1 - share - 2 * against, share + against]
    changes = np.random.default_rng(n).choice([-1.0, 0.0, 1.0], p=chances, size=(DRAWS, n))
    shown = [score_difference(np.maximum(-c, 0), np.maximum(c, 0)).verdict == "better" for c in changes]
    assert 0.77 <= np.mean(shown) <= 0.84


def test_detectable_shares_by_hand() -> None:
    """Of five prompts all must change: (5 + 1) / 7 gained, 1 / 7 lost, middle 5 / 7, half 1.96 · 0.7 / √7 = 0.518."""
    middle, half = power.binary_half(5, np.array(5.0), np.array(0.0))
    assert (float(middle), float(half)) == pytest.approx((5 / 7, 1.959964 * np.sqrt((1 - 25 / 49) / 7)))
    assert float(power.binary_half(4, np.array(4.0), np.array(0.0))[0]) > 0
    # With n prompts and k the fewest that show a gain, the share is where a binomial reaches k with 80 %.
    for n in (10, 40):
        k = next(k for k in range(n + 1) if np.subtract(*power.binary_half(n, np.array(k), np.array(0.0))) > 0)
        share = power.detectable_share(n)
        assert share is not None
        assert scipy.stats.binom.sf(k - 1, n, share) == pytest.approx(0.8, abs=2e-3)
    assert power.detectable_share(2) is None
    shares = [power.detectable_share(n) or 1.0 for n in (5, 10, 20, 50, 200, 201, 1000)]
    assert shares == sorted(shares, reverse=True)
    assert shares[4] == pytest.approx(shares[5], rel=0.35)  # exact, and approximate


@pytest.mark.parametrize("n", [4, 8, 30])
def test_perplexities_that_differ_so_much_are_shown_four_times_in_five(n: int) -> None:
    """Documents of 100 tokens whose losses change by 0.05 nats a token, more or less."""
    effect = power.detectable(0.05 / np.sqrt(n), n - 1)
    rng = np.random.default_rng(n)
    changes = 100 * rng.normal(effect, 0.05, (DRAWS, n))
    verdicts = [perplexity_ratio(np.zeros(n), change, [100] * n).verdict == "worse" for change in changes]
    assert 0.74 <= np.mean(verdicts) <= 0.84


def test_the_detectable_change_of_a_comparison_is_that_of_its_spread() -> None:
    changes = np.array([4.0, 6.0, 5.0, 9.0])
    ratio = perplexity_ratio([0.0] * 4, changes.tolist(), [100] * 4)
    error = changes.std(ddof=1) / 100 / 2
    t = scipy.stats.t(3)
    assert ratio.detectable == pytest.approx(np.exp((t.ppf(0.975) + t.ppf(0.8)) * error), rel=1e-3)
    assert perplexity_ratio([1.0], [2.0], [100]).detectable is None
