"""Findings as claims: each has a verdict from an interval; together they make one generated sentence.

Over three seeds or more an effect is the mean of the differences between seeds in their order, with Student's t. It
speaks of other seeds on the same texts. Shares have prompts that were drawn too, the same for all seeds, so their
interval is the wider of that and the mean of the seeds' paired intervals over prompts: three seeds that all answer
everything have no spread, and forty prompts do not show that the next one is answered. With fewer seeds an effect is
that of the first seed, with the paired interval over prompts or, for perplexities, over blocks of the very texts that
were read. One model against several seeds, such as the original, is compared with each of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from skipwise.evals import intervals, power
from skipwise.evals.intervals import ratio_estimate, ratio_of_sums, share_interval
from skipwise.evals.paired_change import change, pairs, shared_unit, unit_name
from skipwise.evals.rows import Row
from skipwise.utils.text import count_text

Verdict = Literal["yes", "no", "undecided"]
Holds = Literal["yes", "in part", "not shown", "no", "undecided"]
TINY = 1e-9
"""Rounding of a difference of shares: 0.95 - 1 is below -0.05."""
FEWEST_SEEDS = 3
"""Seeds from which an effect is taken over seeds."""


@dataclass(frozen=True)
class Mean:
    """A figure over seeds, or of one model."""

    value: float
    half: float | None
    """Half of the 95 % interval over seeds (Student's t); None for one seed. Of a perplexity it is relative."""
    n: int
    perplexity: bool = False
    change: bool = False
    """A relative change of a loss."""
    each: tuple[float, ...] = ()
    """The figure of each seed."""

    @property
    def lower_is_better(self) -> bool:
        """True of perplexities and losses."""
        return self.perplexity or self.change

    def text(self) -> str:
        """`12.30 ± 0.4`, `61 % (0, 90, 92)`, `> 1,000` for a perplexity as the papers write it, `+1.2 %` for a change.

        Shares show those of all seeds: an interval of Student's t would reach beyond what a share can be.
        """
        if self.change:
            error = f" ± {100 * self.half:.1f}" if self.half is not None else ""
            return f"{100 * self.value:+.1f} %{error}"
        if self.perplexity:
            if self.value > 1000:
                return "> 1,000"
            error = f" ± {self.value * self.half:.2g}" if self.half is not None else ""
            return f"{self.value:.2f}{error}"
        seeds = f" ({', '.join(f'{100 * value:.0f}' for value in self.each)})" if len(self.each) > 1 else ""
        return f"{100 * self.value:.0f} %{seeds}"


def mean_over_seeds(rows: Sequence[Row]) -> Mean:
    """Mean of one figure over seeds; of perplexities the geometric mean."""
    perplexity = rows[0].metric == "perplexity"
    values = np.array([math.log(row.value) if perplexity else row.value for row in rows])
    middle, half = ratio_of_sums(values, np.ones(len(values)))
    value = math.exp(middle) if perplexity else float(middle)
    each = tuple(row.value for row in rows)
    return Mean(value, half if len(rows) > 1 else None, len(rows), perplexity, each=each)


@dataclass(frozen=True)
class Effect:
    """From one model to another: the ratio of their perplexities or costs, or the difference of their shares."""

    value: float
    low: float
    high: float
    ratio: bool
    over: str
    """What the interval is over, such as `3 seeds`."""
    detectable: float | None = None
    """Smallest true effect that would have been shown four times in five: a ratio above 1, or a difference."""

    @property
    def is_better(self) -> Verdict:
        """Whether the later model is better: its perplexity is lower, or its share is higher."""
        none = 1.0 if self.ratio else 0.0
        below, above = self.high < none, self.low > none
        if not below and not above:
            return "undecided"
        return "yes" if below == self.ratio else "no"

    @property
    def is_worse(self) -> Verdict:
        """Whether the later model is worse, or a later cost higher."""
        opposite: dict[Verdict, Verdict] = {"yes": "no", "no": "yes", "undecided": "undecided"}
        return opposite[self.is_better]

    def within(self, margin: float) -> Verdict:
        """Whether the effect is at most `margin`: 0.05 is a ratio of 1/1.05 to 1.05, or five points."""
        low, high = (math.log(self.low), math.log(self.high)) if self.ratio else (self.low, self.high)
        limit = (math.log1p(margin) if self.ratio else margin) + TINY
        if -limit <= low and high <= limit:
            return "yes"
        return "no" if low > limit or high < -limit else "undecided"

    def at_most(self, margin: float) -> Verdict:
        """Whether the later model is worse by at most `margin`, in the units of `within`; it may be better."""
        if self.ratio:
            limit = 1 + margin + TINY
            return "yes" if self.high <= limit else "no" if self.low > limit else "undecided"
        limit = margin + TINY
        return "yes" if self.low >= -limit else "no" if self.high < -limit else "undecided"

    def numbers(self) -> str:
        """`×0.430 [0.410, 0.450]` or `+12 points [+3, +20]`."""
        value, low, high = map(_ratio if self.ratio else _points, (self.value, self.low, self.high))
        return f"×{value} [{low}, {high}]" if self.ratio else f"{value} points [{low}, {high}]"

    def text(self) -> str:
        """The numbers, what the interval is over and, of an effect that is not shown, what would have been."""
        shown = ""
        if self.is_better == "undecided" and self.detectable and math.isfinite(self.detectable):
            points = f"{100 * self.detectable:.0f} points"
            shown = f"; {f'×{self.detectable:.3g} or its inverse' if self.ratio else points} would show"
        return f"{self.numbers()} over {self.over}{shown}"


def _ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}" if value >= 10 else f"{value:.3f}"


def _points(share: float) -> str:
    return f"{round(100 * share):+d}"


def effect(first: Sequence[Row], later: Sequence[Row]) -> Effect | None:
    """The effect from one model to another, one row a seed each; None where the rows hold nothing to compare."""
    n = max(len(first), len(later))
    if n >= FEWEST_SEEDS and {len(first), len(later)} <= {1, n}:
        over = count_text(n, "seed") + ("" if len(first) == len(later) else " against one model")
        first, later = (list(rows) * (n // len(rows)) for rows in (first, later))
        return _over_seeds(first, later, over)
    ratio = first[0].metric == "perplexity"
    paired = next((change(*pair) for pair in pairs(first[:1], later[:1])), None)
    if paired is None or (paired.few and not ratio):
        return None
    if paired.same_texts:
        return Effect(paired.value, paired.same_texts.low, paired.same_texts.high, True, "blocks of the texts")
    of_it = shared_unit(later[0]) or unit_name(later[0])
    unit = "blocks of the text" if ratio else count_text(paired.n, of_it)
    return Effect(paired.value, paired.low, paired.high, ratio, unit, paired.detectable)


def _over_seeds(first: Sequence[Row], later: Sequence[Row], over: str) -> Effect:
    """The effect over as many seeds of both; see the module."""
    ratio = first[0].metric == "perplexity"
    value = math.log if ratio else float
    differences = np.array([value(b.value) - value(a.value) for a, b in zip(first, later, strict=True)])
    middle, error, degrees = estimate = ratio_estimate(differences, np.ones(len(differences)))
    shown = power.detectable(error, degrees)
    if ratio:
        half = estimate.half
        return Effect(math.exp(middle), math.exp(middle - half), math.exp(middle + half), True, over, math.exp(shown))
    paired = [seen for pair in zip(first, later, strict=True) for seen in [change(*pair)] if seen]
    ends = [
        (x - seen.value + seen.low, x - seen.value + seen.high) for x, seen in zip(differences, paired, strict=False)
    ]
    _, low, high = intervals.over_seeds(differences.tolist(), ends, (-1.0, 1.0))
    if paired:
        over = f"{over}, {count_text(paired[0].n, shared_unit(later[0]) or unit_name(later[0]))}"
        of_prompts = [math.inf if seen.detectable is None else seen.detectable for seen in paired]
        shown = max(shown, sum(of_prompts) / len(paired))
    return Effect(middle, low, high, False, over, shown if shown < 1 else None)


@dataclass(frozen=True)
class Claim:
    """One statement of a paper, and whether it holds here."""

    statement: str
    """Such as `PoSE beats RandPos in perplexity of code at 2,048 tokens`."""
    verdict: Verdict
    evidence: str
    """The numbers that decide."""


def better(name: str, rows: Sequence[Row], other: str, others: Sequence[Row], what: str) -> Claim:
    """Claim that a model beats another one, one row a seed each."""
    seen = effect(others, rows)
    return Claim(
        f"{name} beats {other} in {what}", seen.is_better if seen else "undecided", _numbers(others, rows, seen)
    )


def alike(name: str, rows: Sequence[Row], other: str, others: Sequence[Row], what: str, margin: float) -> Claim:
    """Claim that two models differ by at most `margin`: a share of the perplexity, or a difference of shares."""
    seen = effect(others, rows)
    statement = f"{name} is within {_margin(rows, margin)} of {other} in {what}"
    return Claim(statement, seen.within(margin) if seen else "undecided", _numbers(others, rows, seen))


def no_worse(name: str, rows: Sequence[Row], other: str, others: Sequence[Row], what: str, margin: float) -> Claim:
    """Claim that a model is worse than another by at most `margin`, or better: see `alike`, which has two sides."""
    seen = effect(others, rows)
    statement = f"{name} loses at most {_margin(rows, margin)} to {other} in {what}"
    return Claim(statement, seen.at_most(margin) if seen else "undecided", _numbers(others, rows, seen))


def at_least(name: str, rows: Sequence[Row], share: float, what: str) -> Claim:
    """Claim that a model answers at least a share of the prompts.

    The interval is the wider of Student's t over seeds and the mean of the seeds' exact intervals over prompts.
    """
    mean, n = mean_over_seeds(rows), len(rows[0].scores)
    exact = [share_interval(round(sum(row.scores)), n) for row in rows]
    ends = [(of.low or 0.0, 1.0 if of.high is None else of.high) for of in exact]
    low, high = ends[0]
    if len(rows) > 1:
        _, low, high = intervals.over_seeds([row.value for row in rows], ends, (0.0, 1.0))
    verdict: Verdict = "yes" if low >= share else "no" if high < share else "undecided"
    of = f"{n} prompts" if len(rows) == 1 else f"{count_text(len(rows), 'seed')}, {n} prompts"
    evidence = f"{mean.text()}, [{100 * low:.0f} %, {100 * high:.0f} %] over {of}"
    return Claim(f"{name} answers {100 * share:.0f} % or more of the {what}", verdict, evidence)


def _margin(rows: Sequence[Row], margin: float) -> str:
    """`2 %` of a perplexity, `2 points` of shares."""
    return f"{100 * margin:g} {'%' if rows[0].metric == 'perplexity' else 'points'}"


def _numbers(first: Sequence[Row], later: Sequence[Row], seen: Effect | None) -> str:
    values = f"{mean_over_seeds(later).text()} against {mean_over_seeds(first).text()}"
    return f"{values}, {seen.text()}" if seen else f"{values}, too few prompts for an interval"


NAMED = 2
"""Most claims of one verdict that the sentence names."""
WORDS = {"yes": "shown", "no": "contradicted", "undecided": "undecided"}


def holds(claims: Sequence[Claim]) -> Holds:
    """Whether a finding holds, over all its claims.

    Returns:
        `yes` where all are shown and `no` where all are contradicted; `in part` where some are shown. Where none is:
        `not shown` if at least one is contradicted, `undecided` if the numbers decide none.
    """
    verdicts = {claim.verdict for claim in claims}
    if verdicts == {"yes"}:
        return "yes"
    if verdicts == {"no"}:
        return "no"
    if "yes" in verdicts:
        return "in part"
    return "not shown" if "no" in verdicts else "undecided"


def table_of(claims: Sequence[Claim]) -> list[list[str]]:
    """Rows of a table: statement, verdict and the numbers that decide."""
    return [[claim.statement, WORDS[claim.verdict], claim.evidence] for claim in claims]


def sentence(claims: Sequence[Claim]) -> str:
    """Say in one sentence whether a finding holds, how many claims are shown, and which are not."""
    parts = []
    for verdict, word in WORDS.items():
        of_it = [claim.statement for claim in claims if claim.verdict == verdict]
        if of_it:
            named = f" ({'; '.join(of_it)})" if len(of_it) <= NAMED else ""
            if len(of_it) == len(claims) > 1:
                return f"Holds here: {holds(claims)}; all {len(claims)} claims are {word}{named}."
            parts.append(f"{len(of_it)} {'is' if len(of_it) == 1 else 'are'} {word}{named}")
    return f"Holds here: {holds(claims)}; of {count_text(len(claims), 'claim')} {', '.join(parts)}."
