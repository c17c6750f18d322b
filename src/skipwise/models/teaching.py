"""The loss of tokens that another model teaches: a mixture of cross-entropy and KL divergence, slice by slice.

With p the teacher's distribution of the next token, q the student's, y the token that follows and w a weight, a taught
token costs (1 - w)·(-log q_y) + w·Σ p·(log p - log q), which has the gradient q - (1 - w)·onehot(y) - w·p at the
student's logits (Hinton et al., arXiv 1503.02531, at temperature 1). All of it is fp32 over the whole vocabulary:
the teacher's logits have to be made anyway, and the largest few of them would cost another pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Teaching:
    """What a teacher says about a batch of N tokens.

    Attributes:
        hidden: The teacher's hidden states of the sequences that it read, (R, H).
        places: Row of `hidden` for each token of the batch, (N,) int64; -1 where the token is not taught.
        head: Makes fp32 logits (…, V) of hidden states (…, H).
        weight: w, from 0 to 1.
    """

    hidden: Tensor
    places: Tensor
    head: Callable[[Tensor], Tensor]
    weight: float

    def of(self, start: int, stop: int) -> "TaughtSlice | None":
        """Return what is said about the tokens `start` to `stop`; None where it is nothing."""
        places = self.places[start:stop]
        rows = torch.nonzero(places >= 0)[:, 0]
        if not len(rows):
            return None
        with torch.no_grad(), torch.autocast(self.hidden.device.type, enabled=False):
            return TaughtSlice(rows, log_softmax_(self.head(self.hidden[places[rows]])), self.weight)


@dataclass(frozen=True)
class TaughtSlice:
    """What a teacher says about a slice of S tokens.

    Attributes:
        rows: The R taught tokens among them, (R,).
        log_p: Log-probabilities of their next tokens, (R, V) fp32.
        weight: w.
    """

    rows: Tensor
    log_p: Tensor
    weight: float

    def to_gradient(self, scores: Tensor, labels: Tensor, count: int) -> Tensor:
        """Return the summed losses; `scores` become in place the gradient of that sum divided by `count`.

        Args:
            scores: The student's logits of the taught tokens, (R, V) fp32.
            labels: The tokens that follow, (R,).
            count: What the sum is divided by.
        """
        log_q, log_p, w = log_softmax_(scores), self.log_p, self.weight
        target = labels[:, None]
        nll = -log_q.gather(1, target).sum()
        p = log_p.exp()
        divergence = torch.dot(p.flatten(), log_p.sub_(log_q).flatten())  # log_p is not needed after this
        log_q.exp_().sub_(p, alpha=w)
        log_q.scatter_add_(1, target, torch.full_like(target, w - 1, dtype=log_q.dtype))
        log_q /= count
        return (1 - w) * nll + w * divergence

    def loss(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the summed losses of the student's logits (R, V), differentiable, for heads of any kind."""
        nll = F.cross_entropy(scores, labels, reduction="sum")
        divergence = F.kl_div(scores.log_softmax(-1), self.log_p, reduction="sum", log_target=True)
        return (1 - self.weight) * nll + self.weight * divergence


def log_softmax_(scores: Tensor) -> Tensor:
    """Turn logits (…, V) into log-probabilities in place, in the same operations for teacher and student."""
    scores -= scores.amax(dim=-1, keepdim=True)
    scores -= scores.exp().sum(dim=-1, keepdim=True).log_()
    return scores
