"""Build: a trained student becomes a bundle. Export, make variants, measure, apply the gates, keep the best graph."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from distill.data.splits import Validation, require
from distill.progress import bar, status
from distill.students.student import TOKENIZER as STUDENT_TOKENIZER
from distill.students.student import Student, predict
from distill.task import Export
from distill.truncation import truncate_at, truncation_side
from export import gates
from export.bundle.classifier import Classifier, Encoded, InferenceError, Prediction, has_gpu
from export.bundle.format import (
    CARD,
    FP16,
    FUSED,
    GOLDEN,
    INT8,
    MODEL,
    PLAIN,
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
from export.bundle.guard import one_line
from export.bundle.verify import repeated
from export.fit_reference import fit_reference
from export.graph.portable import make_portable
from export.graph.variants import REDUCED, load_variants, make_variants, measure, measurement_rounds
from export.model_card import card
from export.torch_to_onnx import export_onnx

Floats = npt.NDArray[np.float32]

_MEASURED_TEXTS = 50
_GPU_ROWS = 50
"""Texts that share a run where a GPU is measured: alone, a text takes about as long in any variant."""

_SHARED_TEXTS = 16
_TYPICAL_TEXTS = 200
_GOLDEN_TEXTS = 32
_REPORT = "Report this: the exporter changed the model."
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
    threshold: float = 0.5,
) -> Bundle:
    """Write the bundle of a trained student at `path`.

    A multi-label student gives each label from the probability `threshold`; the reference and the agreement with the
    teacher are about its most probable label. Raises GateError when the fp32 graph does not compute what the student
    does, or when int8 or fp16 was asked for and does not pass; ValueError for a threshold that is no probability.
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: expected a probability between 0 and 1, got {threshold}")
    validation = require(baseline.validation, Validation)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with status(f"exporting {name}") as tell:
            tell("making its graphs")
            student.tokenizer.no_padding()
            truncate_at(student.tokenizer, student.max_tokens)
            student.tokenizer.save(str(folder / STUDENT_TOKENIZER))
            export_onnx(student, folder / MODEL)
            typical = student.encode(_spread(validation.texts, _TYPICAL_TEXTS))
            config = getattr(student.network.module, "config", None) if settings.variant != PLAIN else None
            reduced = _reduced(settings.variant)
            graphs = make_variants(folder / MODEL, folder, config, typical, reduced, gpu=has_gpu())
            classifiers = load_variants(graphs, folder / STUDENT_TOKENIZER, student.max_tokens, len(student.labels))
        cut = student.temperature * math.log(threshold / (1 - threshold)) if student.multi_label else None
        selection = _select(student, classifiers, validation, settings, name, cut)
        portable: dict[str, Path] = {}
        checks = selection.gates
        if classifiers[selection.variant].packed:
            portable = {PORTABLE: make_portable(graphs[selection.variant], folder / PORTABLE)}
            loaded = load_variants(portable, folder / STUDENT_TOKENIZER, student.max_tokens, len(student.labels))
            checks = [*checks, *_same(loaded[PORTABLE], selection.answers, validation, settings, name, cut)]
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
            gates={gate.name: gate.as_dict() for gate in checks},
            measured={
                "milliseconds": selection.milliseconds[selection.variant],
                "milliseconds_by_variant": selection.milliseconds,
                "rows": _measured_rows(),
                "reason": selection.reason,
                "validation_rows": len(validation),
                "validation_agreement": float(1 - disagree.mean()),
                "bytes": graphs[selection.variant].stat().st_size,
            },
            cpu=cpu_features(),
            libraries=_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            multi_label=student.multi_label,
            threshold=threshold,
            truncation_side=truncation_side(student.tokenizer),
            portable=PORTABLE if portable else MODEL,
        )
        contents: dict[str, bytes | Path] = {
            MODEL: graphs[selection.variant],
            **portable,
            TOKENIZER: folder / STUDENT_TOKENIZER,
            REFERENCE: fit_reference(probabilities.max(1).astype(np.float64), disagree).to_bytes(),
            GOLDEN: golden_jsonl(_golden(validation, selection.answers, student.labels)),
            CARD: card(manifest).encode(),
        }
        return write_bundle(path, contents, manifest)


def _reduced(variant: str) -> tuple[str, ...]:
    """The graphs of less than 32 bits to try: with `auto` all that this machine has a use for."""
    if variant == "auto":
        return REDUCED if has_gpu() else (INT8,)
    return (variant,) if variant in REDUCED else ()


def _measured_rows() -> int:
    """How many texts share a run where variants are timed on this machine."""
    return _GPU_ROWS if has_gpu() else 1


def _select(
    student: Student,
    classifiers: dict[str, Classifier],
    validation: Validation,
    settings: Export,
    name: str,
    cut: float | None,
) -> _Selection:
    """Apply the gates and choose the fastest graph that passes. `cut` is the logit from which a label is given."""
    trained, answers, milliseconds = _run(student, classifiers, validation.texts, name)
    logits = {variant: np.stack([answer.logits for answer in rows]) for variant, rows in answers.items()}
    passed = _parity(trained, logits, settings, name)
    _together(trained, classifiers, validation.texts, settings, name)
    _longest(student, classifiers, validation.texts, settings, name)
    fastest = min((variant for variant in logits if variant not in REDUCED), key=lambda variant: milliseconds[variant])
    reduced = [variant for variant in REDUCED if variant in classifiers]
    if not reduced:
        return _Selection(fastest, answers[fastest], passed, milliseconds, f"{settings.variant} was asked for")
    judged = {variant: variant != FP16 or classifiers[variant].on_gpu for variant in reduced}
    tried: dict[str, list[gates.Gate]] = {}
    for variant in reduced:
        tried[variant] = [gates.agreement(variant, logits[fastest], logits.get(variant), settings.gates.agreement, cut)]
        if judged[variant] and variant in milliseconds:
            tried[variant].append(gates.faster(variant, milliseconds[variant], milliseconds[fastest]))
        if settings.variant == variant:
            remedy = "Set export.variant to auto to serve what passes, or loosen export.gates."
            gates.enforce(tried[variant], f"{name}, {variant} graph", remedy)
    evidence = [*passed, *(check for checks in tried.values() for check in checks)]
    good = [variant for variant in reduced if all(check.passed for check in tried[variant])]
    if not good:
        reason = "; ".join(f"{variant} was not taken ({_why(tried[variant])})" for variant in reduced)
        return _Selection(fastest, answers[fastest], evidence, milliseconds, reason)
    best = min(good, key=lambda variant: milliseconds[variant])
    unjudged = "" if judged[best] else "; how fast it is was not judged, for this machine has no GPU"
    return _Selection(best, answers[best], evidence, milliseconds, f"{best} passed its gates{unjudged}")


def _run(
    student: Student, classifiers: dict[str, Classifier], texts: Sequence[str], name: str
) -> tuple[Floats, dict[str, list[Prediction]], dict[str, float]]:
    """The student's logits on the texts, each graph's answers, and its milliseconds per text.

    A graph of less than 32 bits that fails on a text, as where a value is too large for it, has neither.
    """
    timed = _spread(texts, _MEASURED_TEXTS)
    steps = len(texts) * (len(classifiers) + 1) + len(timed) * measurement_rounds()
    answers: dict[str, list[Prediction]] = {}
    with bar(f"exporting {name}", steps) as advance:
        trained = student.logits(texts, advance=advance)
        for variant, classifier in classifiers.items():
            try:
                answers[variant] = []
                for text in texts:
                    answers[variant].append(classifier.classify(text))
                    advance(1)
            except InferenceError as error:
                if variant not in REDUCED:
                    raise gates.GateError(f"{name}, {variant} graph: {one_line(error)}. {_REPORT}") from error
                advance(len(texts) - len(answers.pop(variant)))
        measured = {variant: classifiers[variant] for variant in answers}
        milliseconds = measure(measured, timed, advance, rows=_measured_rows())
    return trained, answers, milliseconds


def _parity(trained: Floats, logits: dict[str, Floats], settings: Export, name: str) -> list[gates.Gate]:
    """The gates of the last of the fp32 graphs, all of which must compute what was trained."""
    passed: list[gates.Gate] = []
    for variant in (PLAIN, FUSED):
        if variant in logits:
            passed = gates.parity(trained, logits[variant], settings.gates.parity)
            gates.enforce(passed, f"{name}, {variant} graph", _REPORT)
    return passed


def _together(
    trained: Floats, classifiers: dict[str, Classifier], texts: Sequence[str], settings: Export, name: str
) -> None:
    """Hold the fp32 graphs to what was trained where texts share a run too, in which the shorter ones are padded."""
    rows = _spread(range(len(texts)), _SHARED_TEXTS)
    where = f"{name}, {len(rows)} texts in one run"
    for variant in (PLAIN, FUSED):
        if variant in classifiers:
            classifier = classifiers[variant]
            try:
                answers = classifier.run([classifier.encode(texts[row]) for row in rows])
            except InferenceError as error:
                raise gates.GateError(f"{where}: the {variant} graph fails ({one_line(error)}). {_REPORT}") from error
            checks = gates.parity(trained[rows], np.stack([answer.logits for answer in answers]), settings.gates.parity)
            gates.enforce(checks, f"{where}, {variant} graph", _REPORT)


def _longest(
    student: Student, classifiers: dict[str, Classifier], texts: Sequence[str], settings: Export, name: str
) -> None:
    """Hold the fp32 graphs to what was trained on a text of `max_tokens` too, which `texts` may be far from."""
    row = repeated(student.encode(texts), student.max_tokens)
    where = f"{name}, a text of {len(row)} tokens (max_tokens)"
    remedy = "Lower max_tokens and train again."
    try:
        trained = predict(student.network.module, [row])
    except Exception as error:  # torch and each architecture have their own
        raise gates.GateError(f"{where}: the student fails on it ({one_line(error)}). {remedy}") from error
    for variant in (PLAIN, FUSED):
        if variant in classifiers:
            try:
                (answer,) = classifiers[variant].run([Encoded(row, truncated=False)])
            except InferenceError as error:
                raise gates.GateError(
                    f"{where}: the {variant} graph fails on it ({one_line(error)}). {remedy}"
                ) from error
            checks = gates.parity(trained, answer.logits[None], settings.gates.parity)
            gates.enforce(checks, f"{where}, {variant} graph", remedy)


def _same(
    graph: Classifier,
    answers: Sequence[Prediction],
    validation: Validation,
    settings: Export,
    name: str,
    cut: float | None,
) -> list[gates.Gate]:
    """Hold the portable graph to the served one's answers, with texts alone and with texts that are padded."""
    rows = _spread(range(len(validation)), _TYPICAL_TEXTS)
    encoded = [graph.encode(validation.texts[row]) for row in rows]
    served = np.stack([answers[row].logits for row in rows])
    checks = []
    for size, together in ((1, ""), (_SHARED_TEXTS, f", {_SHARED_TEXTS} texts in one run")):
        try:
            found = [each for at in range(0, len(rows), size) for each in graph.run(encoded[at : at + size])]
        except InferenceError as error:
            raise gates.GateError(f"{name}, portable graph: {one_line(error)}. {_REPORT}") from error
        logits = np.stack([each.logits for each in found])
        checks.append(
            gates.agreement(
                f"portable{together}", served, logits, settings.gates.agreement, cut, against="the served graph"
            )
        )
    gates.enforce(checks, f"{name}, portable graph", _REPORT)
    return checks


def _why(checks: list[gates.Gate]) -> str:
    """What did not pass."""
    failed = [check for check in checks if not check.passed]
    return "; ".join(f"{check.name}: {check.measured:.4g}, required {check.required:.4g}" for check in failed)


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
