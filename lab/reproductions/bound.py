"""PI's theorem 2.1: interpolated attention scores stay bounded where extrapolated ones may not.

An attention score at relative distance s is a(s) = Re Σ_j h_j·exp(i·s·θ_j) over the d/2 pairs, θ_j = c^(−2j/d). Between
two whole distances interpolation errs by at most d·max|h|/(32·ln c) (theorem 2.1 with s in the middle). Beyond the
trained window the best bound known for RoPE is 2·max|h|·B(s), where B(s) = Σ_k |A_k(s)| and A_k(s) is the sum of the
first k of the exp(i·s·θ_j) (RoFormer, eq. 35–37). Their ratio is 64·ln c · B(s)/d; where B(s) >= d it is
2·32·ln c = 2·294.73 for c = 10,000.

The paper's figure 2 fits a(s) to random scores inside the window and looks at it beyond.
"""

import math

import numpy as np

from lab.bench import Bench
from lab.findings import Claim, Verdict
from lab.tables import Chart, Line, Result, Table
from skipwise.evals.intervals import share_interval

TITLE = "attention scores of interpolated and extrapolated positions"
SOURCE = "Position Interpolation, arXiv 2306.15595, theorem 2.1 and figure 2"
DIM, BASE, WINDOW = 128, 10_000.0, 2048
PAPER_RATIO = 2 * 294.73
TIMES = 10


def angles() -> np.ndarray:
    """θ_j, (d/2,)."""
    return np.power(BASE, -2 * np.arange(DIM // 2) / DIM)


def extrapolation_bound(distances: np.ndarray) -> np.ndarray:
    """B(s)/d for distances (S,)."""
    terms = np.exp(1j * distances[:, None] * angles())  # (S, d/2)
    sums: np.ndarray = np.abs(np.cumsum(terms, axis=1)).sum(axis=1)
    return sums / DIM


def basis(distances: np.ndarray) -> np.ndarray:
    """(S, d): cos and sin of every pair at every distance."""
    phases = distances[:, None] * angles()
    return np.concatenate([np.cos(phases), np.sin(phases)], axis=1)


def fitted(rng: np.random.Generator, ridge: float) -> np.ndarray:
    """Coefficients (d,) of a curve fitted to normal scores at all distances; `ridge` penalises their squares."""
    rows, scores = basis(np.arange(WINDOW).astype(float)), rng.standard_normal(WINDOW)
    if not ridge:
        coefficients: np.ndarray = np.linalg.lstsq(rows, scores, rcond=None)[0]
        return coefficients
    penalised: np.ndarray = np.linalg.solve(rows.T @ rows + ridge * np.eye(DIM), rows.T @ scores)
    return penalised


def explodes(name: str, larger: int, curves: int, *, expected: bool) -> Claim:
    """Claim that most curves reach ten times more in the next window than between positions, or that few do."""
    ends = share_interval(larger, curves)
    low, high = ends.low or 0.0, 1.0 if ends.high is None else ends.high
    verdict: Verdict = "undecided"
    if low > 0.5 or high < 0.5:
        verdict = "yes" if (low > 0.5) == expected else "no"
    statement = f"{'most' if expected else 'few'} {name} reach {TIMES} times higher in the next window than inside"
    return Claim(statement, verdict, f"{larger} of {curves}, [{100 * low:.0f} %, {100 * high:.0f} %]")


def run(bench: Bench) -> Result:
    distances = np.arange(1, 32 * 1024 + 1)
    ratio = np.concatenate([extrapolation_bound(part) for part in np.array_split(distances, 64)])
    beyond = ratio[WINDOW:]
    least = 2 * 32 * math.log(BASE) * float(beyond.min())
    curves = 20 if bench.quick else 200
    rows, larger = [], {}
    far, between = np.arange(WINDOW, 2 * WINDOW).astype(float), np.arange(WINDOW * 4) / 4
    for name, ridge in (("least squares", 0.0), ("ridge, λ = 0.1", 0.1), ("ridge, λ = 10", 10.0)):
        rng = np.random.default_rng(0)
        coefficients = np.stack([fitted(rng, ridge) for _ in range(curves)])  # (C, d)
        inside = np.abs(coefficients @ basis(np.arange(WINDOW).astype(float)).T).max(axis=1)
        outside = np.abs(coefficients @ basis(far).T).max(axis=1)
        middle = np.abs(coefficients @ basis(between).T).max(axis=1)
        larger[name] = int((outside > TIMES * middle).sum())
        rows.append(
            [name, *(f"{np.median(value):,.3g}" for value in (inside, middle, outside)), f"{outside.max():,.3g}"]
        )
    claims = [
        Claim(
            f"the bound of interpolation is at least {PAPER_RATIO:.0f} times smaller than that of extrapolation beyond "
            "the window: B(s) >= d",
            "yes" if beyond.min() >= 1 else "no",
            f"at {100 * np.mean(beyond >= 1):.1f} % of the distances up to {distances[-1]:,}; ×{least:,.0f} where "
            f"B(s)/d is smallest, {beyond.min():.2f}",
        ),
        explodes("curves fitted by least squares", larger["least squares"], curves, expected=True),
        explodes("curves fitted with λ = 10", larger["ridge, λ = 10"], curves, expected=False),
    ]
    lines = [
        Line("B(s)/d", [(float(s), float(b)) for s, b in zip(distances[::64], ratio[::64], strict=True)]),
        Line("1", [(1.0, 1.0), (float(distances[-1]), 1.0)]),
    ]
    columns = ["fit", "in the window", "between its positions", "in the next window", "largest of all there"]
    return Result(
        claims,
        [Table(f"Largest |a(s)|, median over {curves} fitted curves", columns, rows)],
        [Chart("Bound of extrapolation by distance", "distance, tokens", "B(s)/d", lines)],
        Table("The paper", ["quantity", "value"], [["ratio of the bounds, at least", "2 · 294.73 ≈ 600"]]),
        remark="The bounds are computed, not measured. The paper states B(s) >= d from a plot over these distances.",
    )
