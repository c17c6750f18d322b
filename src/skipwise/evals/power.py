"""The smallest change that a paired comparison could have shown: what an undecided verdict is worth.

A change is shown when its 95 % interval leaves out "no change". The detectable change is the smallest true one that
would be shown four times in five (a power of 80 %) with as many prompts or texts, which spread as these did.
"""

import functools
import math
import statistics

import numpy as np

from skipwise.evals.intervals import Z95, Floats, student

POWER = 0.8
EXACT = 200
"""Most prompts for which all outcomes are gone through. For more, a normal approximation is as good."""


def detectable(error: float, degrees: float) -> float:
    """The smallest shift of a mean that Student's t shows with a power of 80 %.

    Args:
        error: Standard error of the mean.
        degrees: Its degrees of freedom.

    Source: Cohen, Statistical Power Analysis, 1988, chapter 2, with t for z; at 3 degrees the power is 77 %.
    """
    return (student(degrees) + student(degrees, 1 - POWER)) * error


def binary_half(n: int, gained: Floats, lost: Floats) -> tuple[Floats, Floats]:
    """Middle and half width of Bonett and Price's interval where `gained` and `lost` of `n` prompts changed.

    Args:
        n: Prompts.
        gained: Prompts that only the later model answers, any shape.
        lost: Those that only the earlier one answers, of the same shape.
    """
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    return up - down, Z95 * np.sqrt((up + down - (up - down) ** 2) / (n + 2))


@functools.lru_cache(maxsize=4096)
def detectable_share(n: int, against: float = 0.0) -> float | None:
    """The smallest difference of two shares on the same prompts that is shown with a power of 80 %.

    Args:
        n: Prompts.
        against: Share of the prompts that change the other way; 0 is the best case.

    Returns:
        The difference; None where even the largest possible one is shown more rarely.
    """
    low, high = 0.0, 1.0 - 2 * against
    if high <= 0 or _chance(n, high + against, against) < POWER:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if _chance(n, middle + against, against) < POWER else (low, middle)
    return high


def _chance(n: int, up: float, down: float) -> float:
    """Probability that a gain is shown where a prompt is gained with chance `up` and lost with chance `down`."""
    if n > EXACT:
        error = math.sqrt(max(up + down - (up - down) ** 2, 1e-12) / n)
        return statistics.NormalDist().cdf((up - down) / error - Z95)
    gained, lost = np.meshgrid(np.arange(n + 1.0), np.arange(n + 1.0))
    possible = gained + lost <= n
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])  # ln 0!, ln 1!, … ln n!
    gained, lost = gained[possible], lost[possible]
    same = n - gained - lost
    terms = [(gained, up), (lost, down), (same, max(1 - up - down, 0.0))]
    with np.errstate(divide="ignore", invalid="ignore"):
        powers = sum(np.where(count > 0, count * np.log(chance), 0.0) for count, chance in terms)
    ways = logs[n] - sum(logs[count.astype(int)] for count, _ in terms)
    middle, half = binary_half(n, gained, lost)
    return float(np.exp(ways + powers)[middle > half].sum())
