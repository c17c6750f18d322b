"""The loss of taught tokens, held against torch's own divergence over whole logits, by hand, and where it must be 0."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Gemma2Config

from skipwise.models import sliced_loss
from skipwise.models.forward import hidden_states
from skipwise.models.sliced_loss import IGNORED, linear_mean_nll, mean_nll
from skipwise.models.teaching import TaughtSlice, Teaching
from support.tiny import llama_config, tiny_model

N, H, V = 23, 8, 50


def parts(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, labels, the teacher's hidden states, and for each token its row there or -1."""
    torch.manual_seed(seed)
    hidden, head = torch.randn(N, H), torch.randn(V, H)
    labels = torch.randint(0, V, (N,))
    labels[::7] = IGNORED
    places = torch.where((labels != IGNORED) & (torch.arange(N) % 2 == 0), torch.arange(N).flip(0), -1)
    return hidden, head, labels, torch.randn(N, H), places


def whole(logits: Tensor, teacher: Tensor, labels: Tensor, places: Tensor, weight: float, count: int) -> Tensor:
    """The same over whole logits, with torch's own functions."""
    rows = places >= 0
    ordinary = F.cross_entropy(logits[~rows], labels[~rows], ignore_index=IGNORED, reduction="sum")
    nll = F.cross_entropy(logits[rows], labels[rows], reduction="sum")
    divergence = F.kl_div(
        logits[rows].log_softmax(-1), teacher[places[rows]].log_softmax(-1), reduction="sum", log_target=True
    )
    return (ordinary + (1 - weight) * nll + weight * divergence) / count


@pytest.mark.parametrize("size", [1, 5, 23, 100])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_losses_and_gradients_are_those_over_whole_logits(size: int, weight: float, with_bias: bool) -> None:
    hidden, head, labels, taught, places = parts()
    bias = torch.randn(V) if with_bias else None
    teacher = torch.randn(V, H)
    variables = [hidden.requires_grad_(), head.requires_grad_(), *([bias.requires_grad_()] if bias is not None else [])]
    teaching = Teaching(taught, places, lambda h: h @ teacher.T, weight)
    ours = linear_mean_nll(hidden, head, labels, size, bias=bias, count=17, teaching=teaching)
    gradients = torch.autograd.grad(3 * ours, variables)
    theirs = whole(F.linear(hidden, head, bias), taught @ teacher.T, labels, places, weight, 17)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for gradient, expected in zip(gradients, torch.autograd.grad(3 * theirs, variables), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=2e-6)


def test_a_head_that_caps_its_logits() -> None:
    values = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma2Config(**values, num_key_value_heads=1, head_dim=16, vocab_size=64, final_logit_softcapping=5.0)
    student, teacher = tiny_model(config), tiny_model(config, seed=1)
    ids = torch.randint(0, 64, (2, 12))
    places = torch.arange(24).where(torch.arange(24) % 3 > 0, -1)
    states = hidden_states(teacher, ids).flatten(0, 1).detach()
    teaching = Teaching(states, places, lambda h: sliced_loss.logits(teacher, h), 0.6)
    hidden, labels = hidden_states(student, ids).flatten(0, 1), ids.roll(-1, 1).flatten()
    ours = mean_nll(student, hidden, labels, 5, teaching=teaching)
    logits = [model(input_ids=ids).logits.float().flatten(0, 1) for model in (student, teacher)]
    theirs = whole(logits[0], logits[1], labels, places, 0.6, 24)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    weight = student.get_input_embeddings().weight
    gradients = [torch.autograd.grad(value, weight)[0] for value in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_a_student_that_agrees_has_no_loss_and_no_gradient() -> None:
    """Exactly none, not to rounding: a model that has not changed is not moved."""
    hidden, head, labels, _, _ = parts()
    hidden.requires_grad_()
    places = torch.arange(N).where(labels != IGNORED, -1)
    labels = labels.clone()
    teaching = Teaching(hidden.detach(), places, lambda h: h @ head.T, 1.0)
    loss = linear_mean_nll(hidden, head, labels, N, count=N, teaching=teaching)
    (gradient,) = torch.autograd.grad(loss, hidden)
    assert float(loss) == 0
    assert not gradient.any()


def test_by_hand() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2): KL = 3/4 ln 3/2 + 1/4 ln 1/2 = 0.13081, -log q = ln 2 = 0.69315; y = 0.

    With w = 1/2 the gradient is q - onehot / 2 - p / 2 = (1/2 - 1/2 - 3/8, 1/2 - 1/8).
    """
    log_p = torch.tensor([[3 / 4, 1 / 4]]).log()
    for weight, loss, slope in ((1.0, 0.130812, 0.25), (0.0, 0.693147, 0.5), (0.5, 0.411980, 0.375)):
        scores = torch.zeros(1, 2)
        value = TaughtSlice(torch.tensor([0]), log_p.clone(), weight).to_gradient(scores, torch.tensor([0]), 1)
        assert float(value) == pytest.approx(loss, abs=1e-6)
        assert scores[0].tolist() == pytest.approx([-slope, slope])


def test_a_small_divergence_is_not_lost_in_rounding() -> None:
    """Logits that differ by 1e-2: the divergence is about 5e-5, a difference of two sums of about 4."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(1, 2000)
    other = logits + 1e-2 * torch.randn(1, 2000)
    exact = F.kl_div(other.double().log_softmax(-1), logits.double().log_softmax(-1), log_target=True, reduction="sum")
    teaching = TaughtSlice(torch.tensor([0]), logits.log_softmax(-1), 1.0)
    value = teaching.to_gradient(other.clone(), torch.tensor([0]), 1)
    assert float(value) == pytest.approx(float(exact), abs=1e-6)


def test_training_in_bf16_stays_near_fp32() -> None:
    model, teacher = tiny_model(llama_config()), tiny_model(llama_config(), seed=1).bfloat16()
    ids = torch.randint(0, 512, (1, 32))
    states = hidden_states(teacher, ids).flatten(0, 1).detach()
    teaching = Teaching(states, torch.arange(32), lambda h: sliced_loss.logits(teacher, h), 1.0)
    values = []
    for enabled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            hidden = hidden_states(model, ids).flatten(0, 1)
            values.append(mean_nll(model, hidden, ids.flatten(), teaching=teaching))
    assert values[0].dtype == torch.float32
    torch.testing.assert_close(*values, rtol=0.02, atol=0)
