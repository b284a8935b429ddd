"""Distillation losses: pure functions of logits and soft labels, averaged over the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soft_kl(logits: Tensor, probabilities: Tensor, temperature: float) -> Tensor:
    """Return T²·KL(teacher ‖ student), both softened by T (Hinton, Vinyals & Dean 2015, section 2).

    `logits` [B, K] are the student's, `probabilities` [B, K] the teacher's at T = 1. The factor T² makes the size of
    gradients independent of T.
    """
    teacher = functional.log_softmax(
        probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log() / temperature, -1
    )
    student = functional.log_softmax(logits / temperature, -1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def hard_cross_entropy(logits: Tensor, probabilities: Tensor) -> Tensor:
    """Return the cross-entropy with the teacher's first choice."""
    return functional.cross_entropy(logits, probabilities.argmax(-1))


def distillation_loss(logits: Tensor, probabilities: Tensor, *, temperature: float, hard: float) -> Tensor:
    """Return (1 − `hard`)·soft KL + `hard`·cross-entropy."""
    if hard == 0:
        return soft_kl(logits, probabilities, temperature)
    soft = soft_kl(logits, probabilities, temperature) if hard < 1 else logits.new_zeros(())
    return (1 - hard) * soft + hard * hard_cross_entropy(logits, probabilities)
