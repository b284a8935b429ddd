"""The witness of a student: a better classifier that reads every text beside it, so that the teacher need see fewer.

Two classifiers say more together than one: where a good witness gives the student's label too, the teacher almost
always does; where it does not, the teacher often disagrees as well. A witness is a bundle with one more file,
`witness.npz`, which `export.witness` makes offline: how often the student disagreed with its teacher on validation, by
the confidence of both. This module reads that file; it runs no graph.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from distill.errors import one_line
from export.bundle.format import Bundle, BundleError
from export.bundle.reference import Floats, Reference

WITNESS = "witness.npz"


def joint_confidence(student: float, witness: float) -> float:
    """Return the confidence of both in the student's label, in [0, 1].

    It is the geometric mean of the probabilities that `student` and `witness` give to the label that the student chose.
    That the witness chose another label shows in its low probability.
    """
    return math.sqrt(student * witness)


def joint_confidences(student: npt.NDArray[np.float32], witness: npt.NDArray[np.float32]) -> Floats:
    """Return the joint confidence [N] of answers [N, K] of a student and its witness, in the same order of labels."""
    rows = np.arange(len(student))
    chosen = student.argmax(axis=1)
    pairs = zip(student[rows, chosen].tolist(), witness[rows, chosen].tolist(), strict=True)
    return np.array([joint_confidence(*pair) for pair in pairs])


@dataclass(frozen=True)
class WitnessReference:
    """`reference` says how often the student disagrees with its teacher, by joint instead of own confidence.

    It holds for the student's bundle of version `student` only.
    """

    student: str
    reference: Reference

    @classmethod
    def open(cls, bundle: Bundle) -> Self:
        """Read the file of a witness. Raises BundleError when the bundle has none, or it is not one."""
        path = bundle.path / WITNESS
        if WITNESS not in bundle.manifest.files:
            raise BundleError(f"{bundle.path}: no witness, for it has no {WITNESS}; make one with `reflux witness`")
        reference = Reference.load(path)
        try:
            with np.load(path, allow_pickle=False) as stored:
                (student,) = stored["student"].astype(str).tolist()
        except Exception as error:  # numpy and zipfile raise many classes with no common base
            raise BundleError(f"{path}: names no student ({one_line(error)}); run `reflux witness` again") from error
        return cls(student, reference)

    def to_bytes(self) -> bytes:
        """Return the bytes of `witness.npz`: the arrays of the reference, and the student's version."""
        with np.load(io.BytesIO(self.reference.to_bytes())) as stored:
            arrays = dict(stored)
        buffer = io.BytesIO()
        np.savez(buffer, student=np.array([self.student]), **arrays)
        return buffer.getvalue()
