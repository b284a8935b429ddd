"""Build: a trained student becomes a bundle. Export, make variants, measure, apply the gates, keep the best graph."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.data.splits import Validation, require
from distill.progress import bar
from distill.students.base import TOKENIZER as STUDENT_TOKENIZER
from distill.students.base import Student
from distill.task import Export
from export import gates
from export.bundle import (
    CARD,
    GOLDEN,
    MODEL,
    REFERENCE,
    TOKENIZER,
    Bundle,
    Golden,
    Manifest,
    cpu_features,
    golden_jsonl,
    write_bundle,
)
from export.card import card
from export.fit import fit_reference
from export.onnx import export_onnx
from export.runtime import Classifier, Prediction
from export.variants import FUSED, INT8, PLAIN, load_variants, make_variants, measure, measurement_rounds

Floats = npt.NDArray[np.float32]

_MEASURED_TEXTS = 50
_TYPICAL_TEXTS = 200
_GOLDEN_TEXTS = 32
_LIBRARIES = ("reflux", "onnxruntime", "onnx", "optimum-onnx", "torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Baseline:
    """The validation split, on which graphs are compared, with the teacher's probabilities [N, K] for it."""

    validation: Validation
    teacher: Floats


@dataclass(frozen=True, slots=True)
class _Selection:
    """The variant that was taken, what it answers on validation, and the evidence."""

    variant: str
    answers: list[Prediction]
    gates: list[gates.Gate]
    milliseconds: dict[str, float]
    reason: str


def build_bundle(
    student: Student,
    path: Path,
    *,
    name: str,
    baseline: Baseline,
    settings: Export,
    teacher: dict[str, Any],
    role: str = "student",
) -> Bundle:
    """Write the bundle of a trained student at `path`.

    Raises GateError when the fp32 graph does not compute what the student does, or when int8 was asked for and does
    not pass.
    """
    validation = require(baseline.validation, Validation)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        student.tokenizer.no_padding()
        student.tokenizer.enable_truncation(student.max_tokens)
        student.tokenizer.save(str(folder / STUDENT_TOKENIZER))
        export_onnx(student, folder / MODEL)
        typical = student.encode(_spread(validation.texts, _TYPICAL_TEXTS))
        graphs = make_variants(folder / MODEL, folder, getattr(student.network.module, "config", None), typical)
        if settings.variant == "fp32":
            graphs.pop(INT8)
        classifiers = load_variants(graphs, folder / STUDENT_TOKENIZER, student.max_tokens, len(student.labels))
        selection = _select(student, classifiers, validation, settings, name)
        probabilities = np.stack([answer.probabilities for answer in selection.answers])
        disagree = probabilities.argmax(1) != baseline.teacher.argmax(1)
        manifest = Manifest(
            name=name,
            role=role,
            family=student.network.family,
            labels=student.labels,
            max_tokens=student.max_tokens,
            variant=selection.variant,
            temperature=student.temperature,
            files={},
            teacher=teacher,
            gates={gate.name: gate.as_dict() for gate in selection.gates},
            measured={
                "milliseconds": selection.milliseconds[selection.variant],
                "milliseconds_by_variant": selection.milliseconds,
                "reason": selection.reason,
                "validation_rows": len(validation),
                "validation_agreement": float(1 - disagree.mean()),
                "bytes": graphs[selection.variant].stat().st_size,
            },
            cpu=cpu_features(),
            libraries=_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        contents: dict[str, bytes | Path] = {
            MODEL: graphs[selection.variant],
            TOKENIZER: folder / STUDENT_TOKENIZER,
            REFERENCE: fit_reference(probabilities.max(1).astype(np.float64), disagree).to_bytes(),
            GOLDEN: golden_jsonl(_golden(validation, selection.answers, student.labels)),
            CARD: card(manifest).encode(),
        }
        return write_bundle(path, contents, manifest)


def _select(
    student: Student, classifiers: dict[str, Classifier], validation: Validation, settings: Export, name: str
) -> _Selection:
    """Apply the gates and choose the fastest graph that passes."""
    texts = validation.texts
    timed = _spread(texts, _MEASURED_TEXTS)
    steps = len(texts) * (len(classifiers) + 1) + len(timed) * measurement_rounds()
    with bar(f"exporting {name}", steps) as advance:
        trained = student.logits(texts, advance=advance)
        answers: dict[str, list[Prediction]] = {variant: [] for variant in classifiers}
        for variant, classifier in classifiers.items():
            for text in texts:
                answers[variant].append(classifier.classify(text))
                advance(1)
        milliseconds = measure(classifiers, timed, advance)
    logits = {variant: np.stack([answer.logits for answer in rows]) for variant, rows in answers.items()}
    passed: list[gates.Gate] = []
    for variant in (PLAIN, FUSED):
        if variant in logits:
            checks = gates.parity(trained, logits[variant], settings.gates.parity)
            gates.enforce(checks, f"{name}, {variant} graph", "Report this: the exporter changed the model.")
            passed = checks
    fastest = min((variant for variant in logits if variant != INT8), key=lambda variant: milliseconds[variant])
    if INT8 not in logits:
        return _Selection(fastest, answers[fastest], passed, milliseconds, "fp32 was asked for")
    checks = [
        gates.agreement(logits[fastest], logits[INT8], settings.gates.agreement),
        gates.faster(milliseconds[INT8], milliseconds[fastest]),
    ]
    if settings.variant == "int8":
        gates.enforce(
            checks, f"{name}, int8 graph", "Set export.variant to auto to serve fp32, or loosen export.gates."
        )
    if all(check.passed for check in checks):
        return _Selection(INT8, answers[INT8], [*passed, *checks], milliseconds, "int8 passed its gates")
    why = "; ".join(
        f"{check.name}: {check.measured:.4g}, required {check.required:.4g}" for check in checks if not check.passed
    )
    return _Selection(fastest, answers[fastest], [*passed, *checks], milliseconds, f"int8 was not taken ({why})")


def _golden(validation: Validation, answers: list[Prediction], labels: tuple[str, ...]) -> list[Golden]:
    rows = []
    for index in _spread(range(len(answers)), _GOLDEN_TEXTS):
        probabilities = tuple(round(float(value), 6) for value in answers[index].probabilities)
        rows.append(Golden(validation.texts[index], labels[int(answers[index].probabilities.argmax())], probabilities))
    return rows


def _spread(items: Any, count: int) -> Any:
    """At most `count` items, evenly spaced."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
