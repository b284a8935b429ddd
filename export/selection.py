"""Select the graph that a bundle serves: the fastest variant of a student that passes the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from distill.errors import one_line
from distill.progress import bar
from distill.students.student import Student, predict
from distill.task import Export
from export import gates
from export.bundle.classifier import Classifier, Encoded, InferenceError, Prediction
from export.bundle.format import FP16, FUSED, PLAIN
from export.bundle.verify import repeat_to_length
from export.graph.variants import REDUCED, ROUNDS, measure

Floats = npt.NDArray[np.float32]
T = TypeVar("T")

_TIMED_TEXTS = 50
_GPU_ROWS = 50
"""Texts per run where a GPU is measured: a single text takes about as long in any variant."""

_SHARED_TEXTS = 16
_PORTABLE_TEXTS = 200
_REPORT = "Report this: the exporter changed the model."


@dataclass(frozen=True, slots=True)
class Selection:
    """The selected variant, its answers on validation, and the evidence: gates, speeds at `rows` texts per run."""

    variant: str
    answers: list[Prediction]
    gates: list[gates.Gate]
    milliseconds: dict[str, float]
    rows: int
    reason: str


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

    def select(self, classifiers: Mapping[str, Classifier]) -> Selection:
        """Apply the gates, and select the fastest graph that passes.

        Raises GateError when an fp32 graph does not compute what the student does, or the variant that was asked for
        does not pass.
        """
        rows = _GPU_ROWS if self.gpu else 1
        trained, answers, milliseconds = self._answer(classifiers, rows)
        logits = {variant: _logits(found) for variant, found in answers.items()}
        passed = self._check_fp32(classifiers, trained, logits)
        fastest = min((name for name in logits if name not in REDUCED), key=milliseconds.__getitem__)
        tried: dict[str, list[gates.Gate]] = {}
        for variant in (name for name in REDUCED if name in classifiers):
            least = self.settings.gates.agreement
            tried[variant] = [gates.agreement(variant, logits[fastest], logits.get(variant), least, self.cut)]
            if variant in milliseconds and not _speed_unknown(variant, classifiers):
                tried[variant].append(gates.faster(variant, milliseconds[variant], milliseconds[fastest]))
            if self.settings.variant == variant:
                remedy = "Set export.variant to auto to serve what passes, or loosen export.gates."
                gates.enforce(tried[variant], f"{self.name}, {variant} graph", remedy)
        good = [variant for variant, checks in tried.items() if all(check.passed for check in checks)]
        if good:
            best = min(good, key=milliseconds.__getitem__)
            reason = f"{best} passed its gates"
            if _speed_unknown(best, classifiers):
                reason += "; how fast it is was not judged, for this machine has no GPU"
        else:
            best = fastest
            failed = (f"{variant} was not taken ({_failures(checks)})" for variant, checks in tried.items())
            reason = "; ".join(failed) or f"{self.settings.variant} was asked for"
        evidence = [*passed, *(check for checks in tried.values() for check in checks)]
        return Selection(best, answers[best], evidence, milliseconds, rows, reason)

    def check_portable(self, graph: Classifier, answers: Sequence[Prediction]) -> list[gates.Gate]:
        """Return the gates of the portable graph, which must agree with the served graph's answers to `texts`.

        It is run with single texts and with several that are padded.
        """
        rows = evenly_spaced(range(len(self.texts)), _PORTABLE_TEXTS)
        encoded = [graph.encode(self.texts[row]) for row in rows]
        served = _logits([answers[row] for row in rows])
        checks = []
        for size, together in ((1, ""), (_SHARED_TEXTS, f", {_SHARED_TEXTS} texts in one run")):
            try:
                found = [each for at in range(0, len(rows), size) for each in graph.run(encoded[at : at + size])]
            except InferenceError as error:
                raise gates.GateError(f"{self.name}, portable graph: {one_line(error)}. {_REPORT}") from error
            least = self.settings.gates.agreement
            kind = f"portable{together}"
            checks.append(gates.agreement(kind, served, _logits(found), least, self.cut, against="the served graph"))
        gates.enforce(checks, f"{self.name}, portable graph", _REPORT)
        return checks

    def _answer(
        self, classifiers: Mapping[str, Classifier], rows: int
    ) -> tuple[Floats, dict[str, list[Prediction]], dict[str, float]]:
        """Return the student's logits on the texts, each graph's answers, and its milliseconds per text.

        A reduced graph that fails on a text, for instance because a value is too large for it, has neither.
        """
        timed = evenly_spaced(self.texts, _TIMED_TEXTS)
        steps = len(self.texts) * (len(classifiers) + 1) + len(timed) * ROUNDS
        answers: dict[str, list[Prediction]] = {}
        with bar(f"exporting {self.name}", steps) as advance:
            trained = self.student.logits(self.texts, advance=advance)
            for variant, classifier in classifiers.items():
                try:
                    answers[variant] = []
                    for text in self.texts:
                        answers[variant].append(classifier.classify(text))
                        advance(1)
                except InferenceError as error:
                    if variant not in REDUCED:
                        message = f"{self.name}, {variant} graph: {one_line(error)}. {_REPORT}"
                        raise gates.GateError(message) from error
                    advance(len(self.texts) - len(answers.pop(variant)))
            measured = {variant: classifiers[variant] for variant in answers}
            milliseconds = measure(measured, timed, advance, rows=rows)
        return trained, answers, milliseconds

    def _check_fp32(
        self, classifiers: Mapping[str, Classifier], trained: Floats, logits: Mapping[str, Floats]
    ) -> list[gates.Gate]:
        """Check the fp32 graphs against the student: on each text, on texts that share a run, and on a longest text.

        Return the gates of the last graph on each text.
        """
        fp32 = {variant: classifiers[variant] for variant in (PLAIN, FUSED) if variant in classifiers}
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


def _speed_unknown(variant: str, classifiers: Mapping[str, Classifier]) -> bool:
    """Whether a variant's speed here says nothing: fp16 is for GPUs."""
    return variant == FP16 and not classifiers[variant].on_gpu


def _logits(answers: Sequence[Prediction]) -> Floats:
    return np.stack([answer.logits for answer in answers])


def _failures(checks: Sequence[gates.Gate]) -> str:
    """Describe the gates that did not pass."""
    failed = [check for check in checks if not check.passed]
    return "; ".join(f"{check.name}: {check.measured:.4g}, required {check.required:.4g}" for check in failed)
