"""Select the graph that a bundle serves: the fastest variant of a student that passes the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from distill.errors import one_line
from distill.progress import bar
from distill.students.student import Student, predict
from distill.task import Export
from export import gates
from export.bundle.classifier import Classifier, Encoded, InferenceError, Prediction
from export.bundle.format import FP16, FUSED, INT8, INT8_DYNAMIC, INT8_QDQ, PLAIN, split_variant
from export.bundle.verify import repeat_to_length
from export.graph.speed import ROUNDS, Speeds, measure
from export.graph.variants import REDUCED

Floats = npt.NDArray[np.float32]
T = TypeVar("T")

_TIMED_TEXTS = 50
_GPU_ROWS = 50
"""Texts per run where a GPU is measured: a single text takes about as long in any variant."""

_SHARED_TEXTS = 16
_COMPARED_TEXTS = 200
_REPORT = "Report this: the exporter changed the model."

_PREFERENCE = (FUSED, PLAIN, FP16, INT8, INT8_QDQ, INT8_DYNAMIC)
"""Which of several equally fast graphs is preferred: exact ones first, and `fused` before `plain`, because it computes
no padding where texts share a run; then those whose answer to a text does not depend on the other texts, the only ones
that are taken if any passes."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected variant, and the evidence: gates, and of every variant the answers on validation and the speed.

    Speeds are of runs of `rows` texts. `reference` is the fp32 variant that the reduced ones were compared with. A
    variant that failed on a text has neither answers nor a speed.
    """

    variant: str
    reference: str
    answers: dict[str, list[Prediction]]
    gates: list[gates.Gate]
    refused: frozenset[str]
    speeds: Speeds
    rows: int
    reason: str

    def variants(self, teacher: Floats) -> dict[str, dict[str, Any]]:
        """Return what was measured of each variant; `teacher` are its probabilities [N, K] on validation.

        `time` is the share of the time of the reference, `agreement` the share of rows with the reference's choice,
        `teacher_agreement` that with the teacher's. A refused variant did not pass a gate.
        """
        chosen = {name: _logits(found).argmax(1) for name, found in self.answers.items()}
        reference = chosen[self.reference]
        return {
            name: {
                "time": self.speeds.ratio(name, self.reference),
                "agreement": float((choices == reference).mean()),
                "teacher_agreement": float((choices == teacher.argmax(1)).mean()),
                "refused": name in self.refused,
            }
            for name, choices in chosen.items()
        }


@dataclass(frozen=True, slots=True)
class Selector:
    """Compares the graphs of a student with it, and with one another, on validation texts.

    `cut` is the logit from which a multi-label student gives a label. On a GPU, variants are timed in runs of many
    texts. Every method raises GateError that starts with `name`.
    """

    student: Student
    texts: Sequence[str]
    settings: Export
    name: str
    cut: float | None = None
    gpu: bool = False

    def select(self, classifiers: Mapping[str, Classifier], pruned: Mapping[str, Student] | None = None) -> Selection:
        """Apply the gates, and select the fastest graph that passes, of the kind that was asked for if it is reduced.

        `pruned` are smaller forms of the student, by what follows the variant in the names of their graphs. Raises
        GateError when an fp32 graph does not compute what its student does, or the variant that was asked for does not
        pass.
        """
        rows = _GPU_ROWS if self.gpu else 1
        smaller = pruned or {}
        answers, speeds = self._answer(classifiers, rows)
        logits = {variant: _logits(found) for variant, found in answers.items()}
        passed = self._check_fp32(classifiers, logits)
        for suffix, student in smaller.items():
            replace(self, student=student)._check_fp32(classifiers, logits, suffix)
        exact = [name for name in _PREFERENCE if name in logits and name not in REDUCED]
        reference = self._fastest(exact, speeds)
        tried: dict[str, list[gates.Gate]] = {}
        asked = self.settings.variant
        kinds = [asked] if asked in REDUCED else _PREFERENCE
        preferred = (kind + suffix for suffix in ("", *smaller) for kind in kinds)
        for variant in (name for name in preferred if name in classifiers and name not in exact):
            tried[variant] = self._try(variant, classifiers[variant], reference, logits, speeds)
            if variant == asked:
                gates.enforce(tried[variant], f"{self.name}, {variant} graph", gates.remedy(tried[variant]))
        good = [variant for variant, checks in tried.items() if all(check.passed for check in checks)]
        if good:
            # Where texts cannot share a run, a service loses more than dynamic ranges win.
            batched = [variant for variant in good if split_variant(variant)[0] != INT8_DYNAMIC]
            best = self._fastest(batched or good, speeds)
            reason = f"{best} passed its gates"
            if split_variant(best)[0] == FP16 and not classifiers[best].on_gpu:
                reason += "; how fast it is was not judged, for this machine has no GPU"
        else:
            best = reference
            failed = (f"{variant} was not taken ({failures(checks)})" for variant, checks in tried.items())
            reason = "; ".join(failed) or f"{asked} was asked for"
        evidence = [*passed, *(check for checks in tried.values() for check in checks)]
        refused = frozenset(tried) - frozenset(good)
        return Selection(best, reference, answers, evidence, refused, speeds, rows, reason)

    def _fastest(self, variants: Sequence[str], speeds: Speeds) -> str:
        """Return the first of the variants that is as fast as the fastest, but for what chance may make."""
        fastest = min(variants, key=lambda name: speeds.ratio(name, variants[0]))
        return next(name for name in variants if speeds.ratio(fastest, name) > gates.FASTER)

    def _try(
        self,
        variant: str,
        classifier: Classifier,
        reference: str,
        logits: Mapping[str, Floats],
        speeds: Speeds,
    ) -> list[gates.Gate]:
        """Return the gates of a reduced or pruned graph: its choices, alone and among others, and its speed."""
        least, own = self.settings.gates.agreement, logits.get(variant)
        checks = [gates.agreement(variant, logits[reference], own, least, self.cut)]
        if own is None:
            return checks
        rows = evenly_spaced(range(len(self.texts)), _COMPARED_TEXTS)
        try:
            together: Floats | None = self._run(classifier, rows, _SHARED_TEXTS)
        except InferenceError:
            together = None
        kind = f"{variant}, {_SHARED_TEXTS} texts in one run"
        checks.append(gates.agreement(kind, own[rows], together, least, self.cut, against="each text alone"))
        if split_variant(variant)[0] != FP16 or classifier.on_gpu:  # fp16 is for GPUs: its speed elsewhere says nothing
            checks.append(gates.faster(variant, speeds.ratio(variant, reference)))
        return checks

    def _run(self, classifier: Classifier, rows: Sequence[int], size: int) -> Floats:
        """Return the logits of the texts of some rows, `size` of them in a run. Raises InferenceError."""
        encoded = [classifier.encode(self.texts[row]) for row in rows]
        return _logits([each for at in range(0, len(rows), size) for each in classifier.run(encoded[at : at + size])])

    def check_portable(self, graph: Classifier, answers: Sequence[Prediction]) -> list[gates.Gate]:
        """Return the gates of the portable graph, which must agree with the served graph's answers to `texts`.

        It is run with single texts and with several that are padded.
        """
        rows = evenly_spaced(range(len(self.texts)), _COMPARED_TEXTS)
        served = _logits([answers[row] for row in rows])
        checks = []
        for size, together in ((1, ""), (_SHARED_TEXTS, f", {_SHARED_TEXTS} texts in one run")):
            try:
                found = self._run(graph, rows, size)
            except InferenceError as error:
                raise gates.GateError(f"{self.name}, portable graph: {one_line(error)}. {_REPORT}") from error
            least = self.settings.gates.agreement
            kind = f"portable{together}"
            checks.append(gates.agreement(kind, served, found, least, self.cut, against="the served graph"))
        gates.enforce(checks, f"{self.name}, portable graph", _REPORT)
        return checks

    def _answer(self, classifiers: Mapping[str, Classifier], rows: int) -> tuple[dict[str, list[Prediction]], Speeds]:
        """Return each graph's answers to the texts, and the graphs' speeds.

        A reduced graph that fails on a text, for instance because a value is too large for it, has neither.
        """
        timed = evenly_spaced(self.texts, _TIMED_TEXTS)
        steps = len(self.texts) * len(classifiers) + len(timed) * ROUNDS
        answers: dict[str, list[Prediction]] = {}
        with bar(f"exporting {self.name}", steps) as advance:
            for variant, classifier in classifiers.items():
                try:
                    answers[variant] = []
                    for text in self.texts:
                        answers[variant].append(classifier.classify(text))
                        advance(1)
                except InferenceError as error:
                    if split_variant(variant)[0] not in REDUCED:
                        message = f"{self.name}, {variant} graph: {one_line(error)}. {_REPORT}"
                        raise gates.GateError(message) from error
                    advance(len(self.texts) - len(answers.pop(variant)))
            measured = {variant: classifiers[variant] for variant in answers}
            speeds = measure(measured, timed, advance, rows=rows)
        return answers, speeds

    def _check_fp32(
        self, classifiers: Mapping[str, Classifier], logits: Mapping[str, Floats], suffix: str = ""
    ) -> list[gates.Gate]:
        """Check the fp32 graphs against the student: on each text, on texts that share a run, and on a longest text.

        `suffix` follows the variant in their names. Return the gates of the last graph on each text.
        """
        fp32 = {name: classifiers[name] for name in (PLAIN + suffix, FUSED + suffix) if name in classifiers}
        with bar(f"checking {self.name}{suffix}", len(self.texts)) as advance:
            trained = self.student.logits(self.texts, advance=advance)
        passed: list[gates.Gate] = []
        for variant in fp32:
            passed = self._require_parity(trained, logits[variant], f"{self.name}, {variant} graph", _REPORT)
        shared = evenly_spaced(range(len(self.texts)), _SHARED_TEXTS)
        for variant, classifier in fp32.items():
            where = f"{self.name}, {len(shared)} texts in one run"
            encoded = [classifier.encode(self.texts[row]) for row in shared]
            self._require_run(classifier, encoded, trained[shared], where, variant, _REPORT)
        longest = repeat_to_length(self.student.encode(self.texts), self.student.max_tokens)
        where = f"{self.name}, a text of {len(longest)} tokens (max_tokens)"
        remedy = "Lower max_tokens and train again."
        try:
            expected = predict(self.student.network.module, [longest])
        except Exception as error:  # torch and each architecture have their own
            raise gates.GateError(f"{where}: the student fails on it ({one_line(error)}). {remedy}") from error
        for variant, classifier in fp32.items():
            self._require_run(classifier, [Encoded(longest, truncated=False)], expected, where, variant, remedy)
        return passed

    def _require_run(
        self, classifier: Classifier, rows: Sequence[Encoded], expected: Floats, where: str, variant: str, remedy: str
    ) -> None:
        """Run texts together, and check the logits against the student's."""
        try:
            found = _logits(classifier.run(rows))
        except InferenceError as error:
            raise gates.GateError(f"{where}: the {variant} graph fails ({one_line(error)}). {remedy}") from error
        self._require_parity(expected, found, f"{where}, {variant} graph", remedy)

    def _require_parity(self, expected: Floats, found: Floats, what: str, remedy: str) -> list[gates.Gate]:
        checks = gates.parity(expected, found, self.settings.gates.parity)
        gates.enforce(checks, what, remedy)
        return checks


def evenly_spaced(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items, evenly spaced."""
    count = min(count, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _logits(answers: Sequence[Prediction]) -> Floats:
    return np.stack([answer.logits for answer in answers])


def failures(checks: Sequence[gates.Gate]) -> str:
    """Describe the gates that did not pass."""
    failed = [check for check in checks if not check.passed]
    return "; ".join(f"{check.name}: {check.measured:.4g}, required {check.required:.4g}" for check in failed)
