"""The embedding phase: fit a student's embedding to its teacher's, through a linear map that is dropped afterwards.

It comes before the student learns from soft labels (TinyBERT's order: Jiao et al. 2020). The map makes up for another
width, and for the teacher's basis, which no student has to share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from distill.progress import status
from distill.sections import Optimisation
from distill.students.config import EmbeddingPhase
from distill.students.padding import pad
from distill.students.student import StudentModule, embed, predict
from distill.training.checkpoint import Checkpoint
from distill.training.course import History
from distill.training.loop import train

Floats = npt.NDArray[np.float32]

_LEAST = 1e-6
_RIDGE = 1e-2  # in units of the mean variance of an input


class _Mapped(StudentModule):
    """A student whose output is its embedding, mapped linearly by `weights` [d, width] and a `bias` [width]."""

    def __init__(self, student: StudentModule, weights: Floats, bias: Floats) -> None:
        super().__init__()
        self.student = student
        self.map = nn.Linear(*weights.shape)
        with torch.no_grad():
            self.map.weight.copy_(torch.from_numpy(weights.T))
            self.map.bias.copy_(torch.from_numpy(bias))

    def blocks(self) -> list[nn.Module]:
        """Return the student's, which learn at its rates."""
        return self.student.blocks()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the mapped embedding [B, width] and the embedding [B, d]."""
        _, embedding = self.student(input_ids, attention_mask)
        return self.map(embedding), embedding


def fit_embedding(
    module: StudentModule,
    rows: Sequence[list[int]],
    wanted: Floats,
    held_rows: Sequence[list[int]],
    held: Floats,
    phase: EmbeddingPhase,
    optimisation: Optimisation,
    description: str,
    checkpoint: Checkpoint | None = None,
) -> History:
    """Fit the embedding of a module, in place, to a teacher's: `wanted` [N, d] of the rows of token ids.

    The loss is the squared error in units of the variance of `wanted`. The weights of the epoch are kept that explains
    the largest share of the variance of `held` [M, d]; that share is the score. Parameters that the embedding does not
    depend on, such as the head, stay as they are. Raises DistillError as `train` does.
    """
    centre = wanted.mean(axis=0)
    unit = max(_LEAST, float(np.sqrt(((wanted - centre) ** 2).mean())))
    targets, held_targets = (wanted - centre) / unit, (held - centre) / unit
    variance = max(_LEAST, float((held_targets**2).mean()))
    with status(f"{description}: embedding the texts"):
        begun = embed(module, rows)
    mapped = _Mapped(module, *_ridge(begun, targets))
    rates = {"epochs": phase.epochs, "learning_rate": phase.learning_rate or optimisation.learning_rate}
    with _only_what_counts(mapped, rows[0]):
        return train(
            mapped,
            rows,
            targets,
            lambda output, target: (output - target).square().mean(),
            lambda trained: 1 - float(((predict(trained, held_rows) - held_targets) ** 2).mean()) / variance,
            optimisation.model_copy(update={**rates, "patience": 0, "averaging": 0.0}),
            f"{description}: embeddings",
            checkpoint,
        )


def _ridge(inputs: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Return the linear map from `inputs` [N, d] to `targets` [N, width] of least squares, with a small ridge.

    The map begins there: through a random one, the first steps would undo what the student knows.
    """
    centre, middle = inputs.mean(axis=0), targets.mean(axis=0)
    centred = (inputs - centre).astype(np.float64)
    moments = centred.T @ centred
    ridge = max(_LEAST, _RIDGE * float(np.trace(moments)) / len(moments))
    weights = np.linalg.solve(moments + ridge * np.eye(len(moments)), centred.T @ (targets - middle))
    return weights.astype(np.float32), (middle - centre @ weights).astype(np.float32)


@contextmanager
def _only_what_counts(mapped: _Mapped, row: Sequence[int]) -> Iterator[None]:
    """Freeze, meanwhile, the parameters that the output does not depend on: no process waits for their gradients."""
    output, _ = mapped(*pad([row]))
    output.sum().backward()
    idle = [one for one in mapped.parameters() if one.requires_grad and one.grad is None]
    mapped.zero_grad(set_to_none=True)
    for parameter in idle:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in idle:
            parameter.requires_grad_(True)
