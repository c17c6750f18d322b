"""Evolve lists of RoPE factors towards a lower score, for `jobs.search`.

This is LongRoPE's search (arXiv 2402.13753, algorithm 1) without its number of unscaled start tokens, which no loader
supports. A list never decreases: slower pairs are stretched at least as much as faster ones. Candidate i of generation
g depends only on (seed, g, i) and the scores before it, so a search that is resumed with its old scores gives the same
result.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from skipwise.config import SearchConfig

Factors = tuple[float, ...]
Score = Callable[[Factors], float]
"""Lower is better; infinite where a list does not work at all."""

_TRIES = 20
"""Draws until a child is new and never decreases; the published code's number for crossovers."""


class Tried(NamedTuple):
    """A list of factors with its score."""

    factors: Factors
    value: float


def evolve(seeds: Sequence[Factors], settings: SearchConfig, most: float, score: Score) -> list[Tried]:
    """Search lists of factors. No list is scored twice.

    Args:
        seeds: Lists to start from, one factor a pair of dimensions, ascending.
        settings: Size of the population, number of generations, chance and step of a change, seed.
        most: Upper bound of a factor. The lower bound is 1.
        score: Gives the value of a list; lower is better.

    Returns:
        Every list that was scored, by rising value.
    """
    known: dict[Factors, float] = {}

    def scored(candidates: list[Factors]) -> list[Tried]:
        for candidate in candidates:
            if candidate not in known:
                known[candidate] = score(candidate)
        return [Tried(candidate, known[candidate]) for candidate in candidates]

    population = scored(_first(seeds, settings, most))
    for generation in range(1, settings.generations + 1):
        parents = sorted(dict.fromkeys(population), key=lambda tried: tried.value)[: settings.parents]
        population = parents + scored(_children([parent.factors for parent in parents], generation, settings, most))
    return sorted((Tried(*item) for item in known.items()), key=lambda tried: tried.value)


def count(settings: SearchConfig) -> int:
    """How many candidates a search scores at most."""
    return settings.population + settings.generations * (settings.mutations + settings.crossovers)


def _first(seeds: Sequence[Factors], settings: SearchConfig, most: float) -> list[Factors]:
    """The seeds, and mutations of them in turn up to the size of the population."""
    population = dict.fromkeys(seeds)
    for i in range(max(settings.population - len(population), 0)):
        rng = np.random.default_rng([settings.seed, 0, i])
        population.setdefault(_new(rng, seeds[i % len(seeds)], settings, most, set(population)))
    return list(population)


def _children(parents: list[Factors], generation: int, settings: SearchConfig, most: float) -> list[Factors]:
    children: dict[Factors, None] = {}
    for i in range(settings.mutations + settings.crossovers):
        rng = np.random.default_rng([settings.seed, generation, i])
        child = None
        if i >= settings.mutations and len(parents) > 1:
            one, other = rng.choice(len(parents), size=2, replace=False)
            child = crossed(rng, parents[one], parents[other], settings.chance)
        taken = {*parents, *children}
        if child is None or child in taken:
            child = _new(rng, parents[rng.integers(len(parents))], settings, most, taken)
        children.setdefault(child)
    return list(children)


def _new(
    rng: np.random.Generator, factors: Factors, settings: SearchConfig, most: float, taken: set[Factors]
) -> Factors:
    """A mutation that is not `taken`; after `_TRIES` tries the last one, taken or not."""
    child = factors
    for _ in range(_TRIES):
        child = mutated(rng, child, most, settings.chance, settings.step)
        if child not in taken:
            break
    return child


def mutated(rng: np.random.Generator, factors: Factors, most: float, chance: float, step: float) -> Factors:
    """Draw some factors anew, each between its neighbours, so that the list still never decreases.

    Args:
        rng: Where every draw comes from.
        factors: The list.
        most: Upper bound of the last factor. The lower bound of the first one is 1.
        chance: Chance of each factor to be drawn anew.
        step: Distance between the values that are drawn.
    """
    child = list(factors)
    for i in np.flatnonzero(rng.random(len(child)) < chance):
        low = child[i - 1] if i else 1.0
        high = child[i + 1] if i + 1 < len(child) else most
        steps = int((high - low) / step + 1e-9)
        child[i] = round(low + step * int(rng.integers(0, steps + 1)), 6)
    return tuple(child)


def crossed(rng: np.random.Generator, one: Factors, other: Factors, chance: float) -> Factors | None:
    """`one` with each factor replaced by that of `other` with `chance`; None if every such list decreases somewhere."""
    for _ in range(_TRIES):
        taken = rng.random(len(one)) < chance
        child = np.where(taken, other, one)
        if (np.diff(child) >= 0).all() and not np.array_equal(child, one):
            return tuple(child.tolist())
    return None
