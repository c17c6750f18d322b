"""`endprompt`: the text at 0.., and a short closing part at the last positions of the target (arXiv 2605.14589).

EndPrompt leaves a short text whole and appends a brief terminal prompt, whose positions are the last of the target
window. With L = train_length, T = target_length and a closing part of m tokens, the first L - m tokens have positions
0..L-m-1 and the last m have T-m..T-1. So an example shows the distances 0..L-m-1 and T-L+1..T-1 and none between them;
the paper's claim is that interpolation is smooth enough for the rest. The paper's prompt is a fixed instruction. A
corpus has none, so the closing part here is the text's own continuation, and no text skips: m = max(1, floor(L / 32)).
Nothing is drawn: all examples have the same positions.
"""

import numpy as np

from skipwise.positions.layouts import Chances, Draws, Layouts, Method, lay_out
from skipwise.positions.sampler import Sampler


def _draw(sampler: Sampler, draws: Draws) -> Layouts:
    length, batch = sampler.train_length, len(draws.index)
    closing = max(1, length // 32)
    lengths = np.tile([length - closing, closing], (batch, 1))
    skips = np.tile([0, sampler.target_length - length], (batch, 1))
    return lay_out(lengths, skips, np.zeros_like(skips), length)


def _chances(sampler: Sampler) -> Chances:
    length, target = sampler.train_length, sampler.target_length
    closing, distance = max(1, length // 32), np.arange(target)
    inside, between = distance < max(length - closing, closing), distance > target - length
    return (inside | between).astype(np.float64)


METHOD = Method(_draw, least_length=2, chances=_chances)
