"""Make the witness of a student, offline: fit how often the student disagrees with its teacher, by joint confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distill.data.splits import Validation, require
from distill.errors import DistillError
from distill.progress import track
from distill.teachers import label_order
from export.build import UNSEEN_TEXTS, Baseline
from export.bundle.classifier import Classifier, Prediction
from export.bundle.format import Bundle, write_bundle
from export.bundle.reference import Reference
from export.bundle.witness import WITNESS, WitnessReference, joint_confidences
from export.fit_drift import fit_drift
from export.fit_reference import fit_reference
from export.selection import evenly_spaced

EDGES = (0.001, 0.004, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8)
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

    Both answer the texts of `baseline`; those without labels only show what inputs look like. Raises DistillError when
    one of the bundles is multi-label, and TeacherError when their labels are not the same.
    """
    for bundle in (student, witness):
        if bundle.manifest.multi_label:
            raise DistillError(f"{bundle.path}: multi-label; a witness is for students that give one label per text")
    order = label_order(witness.manifest.labels, student.manifest.labels, f"the witness {witness.manifest.name}")
    rows = len(require(baseline.validation, Validation))
    texts = [*baseline.validation.texts, *evenly_spaced(baseline.unseen, UNSEEN_TEXTS)]
    served = Classifier.load(student)
    answers = _answers(served, texts, student.manifest.name)
    own = np.stack([answer.probabilities for answer in answers])
    beside = np.stack(
        [answer.probabilities[order] for answer in _answers(Classifier.load(witness), texts, witness.manifest.name)]
    )
    confidence = joint_confidences(own, beside)
    disagree = own[:rows].argmax(axis=1) != baseline.teacher.argmax(axis=1)
    joint = fit_reference(confidence[:rows], disagree, EDGES)
    alone = fit_reference(own[:rows].max(axis=1).astype(np.float64), disagree)
    by_both = [answer._replace(score=value) for answer, value in zip(answers, confidence.tolist(), strict=True)]
    joint = replace(joint, drift=fit_drift(by_both, joint, unknown=served.tokenizer.unknown_id is not None))
    contents: dict[str, bytes | Path] = {name: witness.path / name for name in witness.manifest.files}
    contents[WITNESS] = WitnessReference(student.manifest.version, joint).to_bytes()
    return Witness(write_bundle(path, contents, witness.manifest), _spread(joint) ** 2 / _spread(alone) ** 2)


def _answers(classifier: Classifier, texts: Sequence[str], name: str) -> list[Prediction]:
    return [classifier.classify(text) for text in track(texts, f"asking {name}", len(texts))]


def _spread(reference: Reference) -> float:
    return float(reference.share @ reference.spread)
