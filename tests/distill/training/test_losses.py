"""The losses are what the papers say: their gradients by hand, their limits, and their behaviour at the edges."""

from __future__ import annotations

import pytest
import torch

from distill.students.config import Loss
from distill.training.losses import centred_mse, distillation_loss, hard_cross_entropy, soft_kl

LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.3, 0.2, 2.0]], dtype=torch.float64)
TEACHER = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.05, 0.9]], dtype=torch.float64)


def gradient(temperature: float, hard: float = 0.0) -> torch.Tensor:
    logits = LOGITS.clone().requires_grad_()
    distillation_loss(logits, TEACHER, loss=Loss(temperature=temperature, hard=hard)).backward()
    assert logits.grad is not None
    return logits.grad


def softened(temperature: float) -> torch.Tensor:
    powers = TEACHER ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_the_gradient_is_the_one_by_hand(temperature):
    expected = temperature * (torch.softmax(LOGITS / temperature, 1) - softened(temperature)) / len(LOGITS)
    torch.testing.assert_close(gradient(temperature), expected)


def test_the_size_of_gradients_does_not_depend_on_the_temperature():
    norms = [float(gradient(temperature).norm()) for temperature in (20.0, 40.0, 80.0)]
    assert norms == pytest.approx([norms[0]] * 3, rel=0.05)


def test_kl_by_hand():
    student = torch.softmax(LOGITS / 2, 1)
    teacher = softened(2.0)
    expected = 4 * (teacher * (teacher / student).log()).sum(1).mean()
    torch.testing.assert_close(soft_kl(LOGITS, TEACHER, 2.0), expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_zero_exactly_for_a_student_that_agrees(temperature):
    assert float(soft_kl(TEACHER.log() + 3.0, TEACHER, temperature)) == pytest.approx(0, abs=1e-12)
    assert float(soft_kl(LOGITS, TEACHER, temperature)) > 1e-3


def test_at_high_temperature_it_is_half_the_squared_error_of_centred_logits():
    def centred(logits: torch.Tensor) -> torch.Tensor:
        return logits - logits.mean(1, keepdim=True)

    expected = 0.5 * ((centred(LOGITS) - centred(TEACHER.log())) ** 2).mean(1).mean()
    torch.testing.assert_close(soft_kl(LOGITS, TEACHER, 1e4), expected, rtol=1e-3, atol=0)
    torch.testing.assert_close(centred_mse(LOGITS, TEACHER), expected)


def test_the_squared_error_does_not_depend_on_what_the_softmax_ignores():
    torch.testing.assert_close(
        centred_mse(LOGITS + torch.tensor([[5.0], [-3.0]]), TEACHER), centred_mse(LOGITS, TEACHER)
    )
    assert float(centred_mse(TEACHER.log() + 3.0, TEACHER)) == pytest.approx(0, abs=1e-12)


def test_a_label_without_any_probability_counts_as_one_of_a_billionth():
    never, hardly = (torch.tensor([[one, 0.5, 0.5]], dtype=torch.float64) for one in (0.0, 1e-9))
    torch.testing.assert_close(centred_mse(LOGITS[:1], never), centred_mse(LOGITS[:1], hardly))


@pytest.mark.parametrize("kind", ["kl", "mse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_teacher_that_is_certain_stays_finite(dtype, kind):
    given = Loss(kind=kind, temperature=2.0, hard=0.5)
    logits = torch.tensor([[30.0, -30.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = distillation_loss(logits, torch.tensor([[0.0, 1.0, 0.0]], dtype=dtype), loss=given)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad[0, 1]) < 0  # towards the teacher's choice


def test_the_hard_term_is_cross_entropy_with_the_first_choice():
    expected = -(torch.log_softmax(LOGITS, 1)[0, 0] + torch.log_softmax(LOGITS, 1)[1, 2]) / 2
    torch.testing.assert_close(hard_cross_entropy(LOGITS, TEACHER), expected)
    torch.testing.assert_close(distillation_loss(LOGITS, TEACHER, loss=Loss(temperature=2.0, hard=1.0)), expected)


@pytest.mark.parametrize(
    ("kind", "soft"), [("kl", soft_kl(LOGITS, TEACHER, 2.0)), ("mse", centred_mse(LOGITS, TEACHER))]
)
def test_the_two_terms_are_mixed_by_their_weight(kind, soft):
    mixed = distillation_loss(LOGITS, TEACHER, loss=Loss(kind=kind, temperature=2.0, hard=0.3))
    parts = 0.7 * soft + 0.3 * hard_cross_entropy(LOGITS, TEACHER)
    torch.testing.assert_close(mixed, parts)


def test_a_batch_counts_as_the_mean_of_its_rows():
    rows = [soft_kl(LOGITS[row : row + 1], TEACHER[row : row + 1], 2.0) for row in range(2)]
    torch.testing.assert_close(soft_kl(LOGITS, TEACHER, 2.0), torch.stack(rows).mean())


@pytest.mark.parametrize(
    "configured",
    [
        *(Loss(kind=kind, hard=hard) for kind in ("kl", "mse") for hard in (0.0, 0.3)),
        Loss(hard=1.0),
    ],
)
def test_a_row_counts_by_its_weight(configured):

    def loss(rows: slice, weights: list[float] | None = None) -> torch.Tensor:
        given = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        return distillation_loss(LOGITS[rows], TEACHER[rows], given, loss=configured)

    both, first, second = slice(0, 2), slice(0, 1), slice(1, 2)
    torch.testing.assert_close(loss(both, [1.0, 1.0]), loss(both))
    torch.testing.assert_close(loss(both, [0.5, 1.5]), (0.5 * loss(first) + 1.5 * loss(second)) / 2)
