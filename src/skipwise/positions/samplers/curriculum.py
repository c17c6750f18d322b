"""`curriculum`: another sampler under a target that grows during training (Randomized YaRN, arXiv 2606.23687).

The paper's length curriculum trains on positions of a range that widens until it is the target. Here `base` names the
sampler that draws. With L = train_length, T = target_length and G = growth, example i of epoch 0 has the target
T_s = round(L·(T / L)^(s / 8)), where s = 1 + floor(8·i / G) and at most 8: eight steps, each longer than the one before
by the same factor. From example G on, and in later epochs, the target is T. A layout is a pure function of (seed,
epoch, index), so it does not depend on the step at which a worker draws it.
"""

import dataclasses

import numpy as np

from skipwise.positions.layouts import Draws, Layouts, Method
from skipwise.positions.sampler import Sampler

STAGES = 8
"""Targets that training passes through."""


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    final = sampler.final
    batch, size = len(draws.index), sampler.train_length
    layouts = Layouts(
        np.empty((batch, size), np.int64), np.empty((batch, size), np.int64), np.empty((batch, size), np.bool_)
    )
    stages = np.full(batch, STAGES)
    if draws.epoch == 0:
        grows = draws.index < sampler.growth  # before the product, which may exceed 64 bits
        stages[grows] = 1 + STAGES * draws.index[grows] // sampler.growth
    for stage in np.unique(stages):
        rows = stages == stage
        at_stage = dataclasses.replace(final, target_length=stage_target(sampler, int(stage)))
        borders = None if draws.borders is None else [draws.borders[row] for row in np.flatnonzero(rows).tolist()]
        drawn = at_stage.draw(draws.epoch, draws.index[rows], draws.n_doc[rows], borders)
        for whole, part in zip(layouts, drawn, strict=True):
            whole[rows] = part
    return layouts


def stage_target(sampler: Sampler, stage: int) -> int:
    """T_s of a stage 1..8, tokens."""
    if stage == STAGES:
        return sampler.target_length
    factor: float = (sampler.target_length / sampler.train_length) ** (stage / STAGES)
    return round(sampler.train_length * factor)


METHOD = Method(_draw, uses=frozenset({"base", "growth", "chunks", "text"}), independent=False)
