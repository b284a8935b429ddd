"""Make the witness of a student, offline: fit how often the student disagrees with its teacher, by joint confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from distill.data.splits import Validation, require
from distill.errors import DistillError
from distill.progress import track
from distill.teachers import label_order
from export.build import Baseline
from export.bundle.cascade import load_classifier
from export.bundle.format import Bundle, write_bundle
from export.bundle.reference import Reference
from export.bundle.witness import WITNESS, WitnessReference, joint_confidences
from export.fit_curve import logistic
from export.fit_reference import fit_reference

EDGES = (0.004, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7)
"""Edges of the bands of expected disagreement. Unlike a student alone, a witness can tell that most texts of a kind
are wrong, so that the bands go on above one half."""


@dataclass(frozen=True, slots=True)
class Witness:
    """A witness's `bundle`, and the expected calls to the teacher as a share of those needed without it.

    `calls` compares the bands' standard deviations of disagreement on validation: (Σ W_b s_b)² with and without the
    witness, the variance per call of the best allocation (Neyman 1934).
    """

    bundle: Bundle
    calls: float


def make_witness(student: Bundle, witness: Bundle, path: Path, baseline: Baseline) -> Witness:
    """Write at `path` a copy of the bundle `witness` that can be the witness of `student`.

    Both answer the validation texts of `baseline`. Raises DistillError when one of the bundles is multi-label, and
    TeacherError when their labels are not the same.
    """
    for bundle in (student, witness):
        if bundle.manifest.multi_label:
            raise DistillError(f"{bundle.path}: multi-label; a witness is for students that give one label per text")
    order = label_order(witness.manifest.labels, student.manifest.labels, f"the witness {witness.manifest.name}")
    texts = require(baseline.validation, Validation).texts
    own, beside = _probabilities(student, texts), _probabilities(witness, texts)[:, order]
    disagree = own.argmax(axis=1) != baseline.teacher.argmax(axis=1)
    joint = fit_reference(joint_confidences(own, beside), disagree, EDGES, logistic)
    alone = fit_reference(own.max(axis=1).astype(np.float64), disagree)
    contents: dict[str, bytes | Path] = {name: witness.path / name for name in witness.manifest.files}
    contents[WITNESS] = WitnessReference(student.manifest.version, joint).to_bytes()
    return Witness(write_bundle(path, contents, witness.manifest), _spread(joint) ** 2 / _spread(alone) ** 2)


def _probabilities(bundle: Bundle, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    name = f"asking {bundle.manifest.name}"
    return load_classifier(bundle).probabilities(texts, track=lambda rows: track(rows, name, len(texts)))


def _spread(reference: Reference) -> float:
    return float(reference.share @ reference.spread)
