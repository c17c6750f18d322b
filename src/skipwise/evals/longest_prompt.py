"""Find the longest prompt that a number of tokens holds."""

import math
from collections.abc import Callable


def fit(
    make: Callable[[int], list[int]], room: int, hint: int = 0, most: int | None = None, slack: int = 0
) -> tuple[int, list[int]]:
    """Find the largest prompt that has at most `room` tokens.

    It takes secant steps, so the time is linear in the length: a few calls, and fewer with a good `hint` or a `slack`.

    Args:
        make: Gives the prompt of size n, as token ids. It must not shrink as n grows.
        room: Most tokens.
        hint: A size to start from.
        most: Largest size; none when absent.
        slack: How many tokens fewer than `room` are enough.

    Returns:
        (n, make(n)); (-1, []) if even size 0 has too many tokens.
    """
    best, longest = -1, list[int]()
    above: int | None = None  # the smallest n known to be too many
    last: tuple[int, int] | None = None
    n = max(hint, 0)
    while True:
        n = n if most is None else min(n, most)
        ids = make(n)
        if len(ids) <= room:
            best, longest = n, ids
        else:
            above = n
        if above == 0 or best == most or above == best + 1 or (best >= 0 and room - len(longest) <= slack):
            return best, longest
        slope = len(ids) / max(n, 1) if last is None else (len(ids) - last[1]) / (n - last[0])
        last = n, len(ids)
        step = math.floor((room - len(ids)) / slope) if slope > 0 else n
        n = max(n + step, best + 1)
        if above is not None:
            n = min(n, above - 1)
