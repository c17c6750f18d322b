"""`full`: T consecutive positions and tokens, as full-length training has them. T = target_length."""

import numpy as np

from skipwise.positions.layouts import Chances, Draws, Layouts, Method, continuous, plain
from skipwise.positions.sampler import Sampler


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    return continuous(plain(len(draws.index), sampler.target_length))


def _chances(sampler: Sampler) -> Chances:
    return np.ones(sampler.target_length)


METHOD = Method(_draw, whole_target=True, chances=_chances)
