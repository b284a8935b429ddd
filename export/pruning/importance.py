"""Estimate how much each attention head and each feed-forward neuron matters for a student's answers to texts.

The importance of a head is the mean over texts of |∂L/∂ξ|, ξ = 1 being a factor on its output: to first order, what the
loss of a text changes by when the head is removed (Michel, Levy and Neubig 2019, Are sixteen heads really better than
one?, section 4.1). The same for a neuron is the first-order Taylor criterion (Molchanov et al. 2017, Pruning
convolutional neural networks for resource efficient inference, section 2.2). L is the cross-entropy with the student's
own choice, so no labels are needed. As in both papers, the numbers of a layer are divided by their Euclidean norm, so
that layers can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.students.padding import pad
from distill.students.prunable import PrunableLayer
from distill.students.student import StudentModule

Floats = npt.NDArray[np.float64]

_BATCH = 32


@dataclass(frozen=True, slots=True)
class Importance:
    """The importance of the heads [H] and of the neurons [F] of a layer, each of norm 1."""

    heads: Floats
    neurons: Floats


def importance(
    module: StudentModule,
    layers: Sequence[PrunableLayer],
    rows: Sequence[list[int]],
    advance: Callable[[int], None] = lambda count: None,
) -> list[Importance]:
    """Estimate the importance of the heads and neurons of `layers`, which are those of `module`.

    `rows` are the token ids of texts. `advance` is told the number of rows done.
    """
    module.eval()
    heads = [np.zeros(layer.heads) for layer in layers]
    neurons = [np.zeros(layer.neurons) for layer in layers]
    order = sorted(rows, key=len)
    for start in range(0, len(order), _BATCH):
        ids, mask = pad(order[start : start + _BATCH])
        factors = [
            (
                torch.ones(len(ids), layer.heads, requires_grad=True),
                torch.ones(len(ids), layer.neurons, requires_grad=True),
            )
            for layer in layers
        ]
        with ExitStack() as stack:
            for layer, (for_heads, for_neurons) in zip(layers, factors, strict=True):
                stack.enter_context(_multiplied(layer.behind_attention, for_heads))
                stack.enter_context(_multiplied(layer.behind_neurons, for_neurons))
            logits, _ = module(ids, mask)
        loss = functional.cross_entropy(logits, logits.detach().argmax(-1), reduction="sum")
        flat = [factor for both in factors for factor in both]
        gradients = torch.autograd.grad(loss, flat)  # of each text alone: its factors touch no other's loss
        for at in range(len(layers)):
            heads[at] += gradients[2 * at].abs().sum(0).double().numpy()
            neurons[at] += gradients[2 * at + 1].abs().sum(0).double().numpy()
        advance(len(ids))
    return [Importance(_normalised(one), _normalised(two)) for one, two in zip(heads, neurons, strict=True)]


@contextmanager
def _multiplied(product: nn.Linear, factors: Tensor) -> Iterator[None]:
    """Multiply what a product reads [B, T, n·size] by factors [B, n], each for `size` numbers of every token."""

    def multiply(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        states, *others = given
        each = factors.repeat_interleave(product.in_features // factors.shape[1], dim=1)
        return (states * each.unsqueeze(1), *others)

    handle = product.register_forward_pre_hook(multiply)
    try:
        yield
    finally:
        handle.remove()


def _normalised(values: Floats) -> Floats:
    return values / max(float(np.linalg.norm(values)), float(np.finfo(np.float64).tiny))
