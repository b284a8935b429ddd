"""Build the bundle of a trained student: the graph that it serves, and what describes its answers."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.data.splits import Train, Validation, require
from distill.decision import Rule
from distill.progress import track
from distill.students.student import Student
from distill.task import Export
from distill.truncation import truncation_side
from export.bundle.anchors import ANCHORS, anchors_jsonl
from export.bundle.cascade import Answering
from export.bundle.classifier import Prediction
from export.bundle.decision import DECISION, Decision
from export.bundle.format import (
    CARD,
    GOLDEN,
    MODEL,
    PORTABLE,
    REFERENCE,
    TOKENIZER,
    Bundle,
    Golden,
    Manifest,
    cpu_features,
    golden_jsonl,
    write_bundle,
)
from export.bundle.reference import Reference
from export.choose_anchors import choose_anchors
from export.fit_decision import Answers, fit_decision
from export.fit_drift import fit_drift
from export.fit_reference import fit_reference
from export.model_card import card
from export.selection import evenly_spaced
from export.served_graph import make_served_graph

Floats = npt.NDArray[np.float32]

_TRAINING_TEXTS = 5000
_GOLDEN_TEXTS = 32
_UNSEEN_TEXTS = 10_000
_LIBRARIES = ("reflux", "onnxruntime", "onnx", "torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Baseline:
    """The validation split, on which graphs are compared, and the teacher's probabilities [N, K] on it.

    `unseen` holds further texts that the student was not trained on. Without labels they choose nothing: they only show
    what inputs look like, for the reference of input drift. `raw` are the teacher's probabilities [N, K] before they
    were calibrated, None if they were not. `train` is the split that the student learned from, for prototypes of what
    it knows.
    """

    validation: Validation
    teacher: Floats
    unseen: Sequence[str] = ()
    raw: Floats | None = None
    train: Train | None = None


def build_bundle(
    student: Student,
    path: Path,
    *,
    name: str,
    baseline: Baseline,
    settings: Export,
    teacher: dict[str, Any],
    role: str = "student",
    threshold: float = 0.5,
    decision: Rule | None = None,
) -> Bundle:
    """Write the bundle of a trained student at `path`, with the `decision` of the application if it has one.

    A multi-label student gives a text each label of at least `threshold`; the reference and the agreement with the
    teacher are about its most probable label. Raises GateError when the fp32 graph does not compute what the student
    does, or when the variant that was asked for does not pass; ValueError for a threshold that is no probability.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: expected a probability between 0 and 1, got {threshold}")
    validation = require(baseline.validation, Validation)
    with tempfile.TemporaryDirectory() as scratch:
        made = make_served_graph(
            student,
            Path(scratch),
            name=name,
            texts=validation.texts,
            teacher=baseline.teacher,
            pool=() if baseline.train is None else baseline.train.texts,
            settings=settings,
            threshold=threshold,
            recalibrated=role == "student" and not student.multi_label,
        )
        described = describe(
            made.classifier,
            made.answers,
            name=name,
            labels=student.labels,
            baseline=baseline,
            unknown=made.classifier.tokenizer.unknown_id is not None,
            shadowed=role == "student" and not student.multi_label,
            decision=decision,
        )
        manifest = Manifest(
            name=name,
            role=role,
            family=student.network.family,
            labels=student.labels,
            max_tokens=student.max_tokens,
            variant=made.variant,
            temperature=made.temperature,
            files={},
            teacher=teacher,
            gates={gate.name: asdict(gate) for gate in made.gates},
            measured={
                **made.measured,
                "validation_rows": len(validation),
                "validation_agreement": 1 - described.reference.gap,
            },
            cpu=cpu_features(),
            libraries=library_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            multi_label=student.multi_label,
            threshold=threshold,
            truncation_side=truncation_side(student.tokenizer),
            portable=PORTABLE if made.portable else MODEL,
        )
        contents: dict[str, bytes | Path] = {
            MODEL: made.graph,
            **({PORTABLE: made.portable} if made.portable else {}),
            TOKENIZER: made.tokenizer,
            **described.files,
            CARD: card(manifest, described.reference, decision).encode(),
        }
        return write_bundle(path, contents, manifest)


@dataclass(frozen=True, slots=True)
class Description:
    """What a bundle holds about its answers: the reference, and all files by name."""

    reference: Reference
    files: dict[str, bytes]


def describe(
    classifier: Answering,
    answers: Sequence[Prediction],
    *,
    name: str,
    labels: tuple[str, ...],
    baseline: Baseline,
    unknown: bool,
    shadowed: bool = True,
    decision: Rule | None = None,
    kept: Sequence[bool] | None = None,
) -> Description:
    """Describe the answers of `classifier`, those to the validation texts of `baseline` being `answers`.

    `unknown` says whether its tokenizer has an unknown token, and `shadowed` whether it can be compared with its
    teacher live, for which it needs anchors. The other files are the reference, with that of input drift, the golden
    texts, and the decision if there is one. The reference counts the `kept` answers alone, by default all: those that
    are not left to the teacher.
    """
    probabilities = np.stack([answer.probabilities for answer in answers])
    disagree = probabilities.argmax(1) != baseline.teacher.argmax(1)
    top = probabilities.max(1).astype(np.float64)
    reference = fit_reference(top, disagree, kept=None if kept is None else np.array(kept, dtype=np.bool_))
    unseen = evenly_spaced(baseline.unseen, _UNSEEN_TEXTS)
    tracked = track(unseen, f"measuring the inputs of {name}", len(unseen)) if unseen else []
    others = [classifier.classify(text) for text in tracked]
    drift = fit_drift([*answers, *others], reference, unknown=unknown)
    files = {
        REFERENCE: replace(reference, drift=drift).to_bytes(),
        GOLDEN: golden_jsonl(_golden(baseline.validation, answers, labels)),
    }
    if shadowed:
        asked = baseline.teacher if baseline.raw is None else baseline.raw
        files[ANCHORS] = anchors_jsonl(choose_anchors(baseline.validation.texts, asked, labels))
    if decision is not None:
        files[DECISION] = _decision(decision, labels, baseline, answers, classifier).to_bytes()
    return Description(reference, files)


def _decision(
    rule: Rule, labels: tuple[str, ...], baseline: Baseline, answers: Sequence[Prediction], classifier: Answering
) -> Decision:
    """Fit the decision to the graph that is served; `answers` are its answers on validation."""
    training = None
    if rule.novelty is not None and baseline.train is not None:
        texts = evenly_spaced(baseline.train.texts, _TRAINING_TEXTS)
        training = _stacked(
            [classifier.classify(text) for text in track(texts, "embedding training texts", len(texts))]
        )
    return fit_decision(rule, labels, _stacked(answers), baseline.teacher, training)


def _stacked(answers: Sequence[Prediction]) -> Answers:
    return Answers(
        np.stack([answer.probabilities for answer in answers]), np.stack([answer.embedding for answer in answers])
    )


def _golden(validation: Validation, answers: Sequence[Prediction], labels: tuple[str, ...]) -> list[Golden]:
    rows = []
    for index in evenly_spaced(range(len(answers)), _GOLDEN_TEXTS):
        probabilities = tuple(round(float(value), 6) for value in answers[index].probabilities)
        rows.append(Golden(validation.texts[index], labels[answers[index].best], probabilities))
    return rows


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that a bundle depends on, of those that are installed."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
