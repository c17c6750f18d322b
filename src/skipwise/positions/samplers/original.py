"""`original`: L consecutive positions and tokens, L = train_length. The control that has no skips."""

import numpy as np

from skipwise.positions.layouts import Chances, Draws, Layouts, Method, continuous, plain
from skipwise.positions.sampler import Sampler


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    return continuous(plain(len(draws.index), sampler.train_length))


def _chances(sampler: Sampler) -> Chances:
    return (np.arange(sampler.target_length) < sampler.train_length).astype(np.float64)


METHOD = Method(_draw, chances=_chances)
