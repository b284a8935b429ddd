"""Distillation losses: pure functions of logits and soft labels, averaged over the batch.

With `weights` [B] each row's loss is multiplied by its weight before the mean.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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


def hard_cross_entropy(logits: Tensor, probabilities: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy with the teacher's first choice."""
    return _mean(functional.cross_entropy(logits, probabilities.argmax(-1), reduction="none"), weights)


def distillation_loss(
    logits: Tensor, probabilities: Tensor, weights: Tensor | None = None, *, temperature: float, hard: float
) -> Tensor:
    """Return (1 − `hard`)·soft KL + `hard`·cross-entropy."""
    if hard == 0:
        return soft_kl(logits, probabilities, temperature, weights)
    soft = soft_kl(logits, probabilities, temperature, weights) if hard < 1 else logits.new_zeros(())
    return (1 - hard) * soft + hard * hard_cross_entropy(logits, probabilities, weights)


def _mean(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows.mean() if weights is None else (weights * rows).mean()
