"""Verify: an existing bundle is whole, loads, and answers its golden texts on this machine as it did when exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from export.bundle import Bundle, BundleError, Golden
from export.reference import Reference
from export.runtime import Classifier, InferenceError, Prediction

TOLERANCE = 0.02
"""How far a golden probability may be off: int8 kernels differ between CPUs, a wrong file differs by far more."""


def verify(path: str | Path) -> Bundle:
    """Check a bundle as serving would. Gives it opened; raises BundleError naming what does not hold."""
    bundle = Bundle.open(path)
    Reference.open(bundle)
    check_golden(bundle, Classifier.load(bundle))
    return bundle


def check_golden(bundle: Bundle, classifier: Classifier) -> list[Prediction]:
    """Compare the classifier's answers to the golden texts, which it gives, with the recorded ones.

    Every probability must lie within TOLERANCE, and the label be the same unless the best two are that close. Raises
    BundleError naming the first text for which this does not hold, or saying that there is none to compare.
    """
    rows = bundle.golden()
    if not rows:
        raise BundleError(f"{bundle.path}: no golden rows to test this CPU with; export the bundle again")
    answers = []
    for number, row in enumerate(rows, start=1):
        try:
            answers.append(classifier.classify(row.text))
            problem = _difference(answers[-1], bundle.manifest.labels, row)
        except InferenceError as error:
            problem = str(error)
        if problem:
            raise BundleError(
                f"{bundle.path}: golden row {number} of {len(rows)}, {row.text[:60]!r}: {problem}; "
                "export the bundle again on a machine like this one"
            )
    return answers


def _difference(answer: Prediction, labels: tuple[str, ...], row: Golden) -> str | None:
    """Say what is wrong with the answer to a golden text, if anything. A near tie may fall either way."""
    found, expected = answer.probabilities, np.array(row.probabilities)
    if expected.shape != found.shape:
        return f"{expected.size} probabilities for {found.size} labels"
    runner_up, top = np.sort(expected)[-2:]
    label = labels[int(found.argmax())]
    worst = float(np.abs(found - expected).max())
    if label != row.label and top - runner_up > TOLERANCE:
        return f"this CPU answers {label!r}, expected {row.label!r} (a probability is off by {worst:.3f})"
    if not worst <= TOLERANCE:
        return f"a probability is off by {worst:.3f}, allowed are {TOLERANCE}"
    return None
