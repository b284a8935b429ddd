"""Distillation losses: pure functions of logits and soft labels, averaged over the batch.

With `weights` [B] each row's loss is multiplied by its weight before the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from distill.students.config import Loss

_LEAST = 1e-9


def soft_kl(logits: Tensor, probabilities: Tensor, temperature: float, weights: Tensor | None = None) -> Tensor:
    """Return T²·KL(teacher ‖ student), both softened by T (Hinton, Vinyals & Dean 2015, section 2).

    `logits` [B, K] are the student's, `probabilities` [B, K] the teacher's at T = 1. The factor T² makes the size of
    gradients independent of T.
    """
    teacher = functional.log_softmax(
        probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log() / temperature, -1
    )
    student = functional.log_softmax(logits / temperature, -1)
    rows = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return _mean(rows, weights) * temperature**2


def centred_mse(logits: Tensor, probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return half the squared error of logits, less their mean over the classes, averaged over the classes.

    The teacher's logits are the logarithms of its `probabilities` [B, K], of which those below 1e-9 count as that: a
    label that got no vote is unlikely, not impossible. It is the limit of `soft_kl` for T → ∞ (Hinton, Vinyals & Dean
    2015, section 2.1; Kim et al. 2021).
    """
    teacher = probabilities.clamp_min(_LEAST).log()
    difference = (logits - logits.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    return _mean(0.5 * difference.square().mean(-1), weights)


def hard_cross_entropy(logits: Tensor, probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy with the teacher's first choice."""
    return _mean(functional.cross_entropy(logits, probabilities.argmax(-1), reduction="none"), weights)


def soft_loss(logits: Tensor, probabilities: Tensor, weights: Tensor | None = None, *, loss: Loss) -> Tensor:
    """Return the loss on the soft labels that a student's configuration names."""
    if loss.kind == "mse":
        return centred_mse(logits, probabilities, weights)
    return soft_kl(logits, probabilities, loss.temperature, weights)


def distillation_loss(logits: Tensor, probabilities: Tensor, weights: Tensor | None = None, *, loss: Loss) -> Tensor:
    """Return (1 − `hard`)·soft loss + `hard`·cross-entropy."""
    if loss.hard == 0:
        return soft_loss(logits, probabilities, weights, loss=loss)
    soft = soft_loss(logits, probabilities, weights, loss=loss) if loss.hard < 1 else logits.new_zeros(())
    return (1 - loss.hard) * soft + loss.hard * hard_cross_entropy(logits, probabilities, weights)


def _mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows.mean() if weights is None else (weights * rows).mean()
