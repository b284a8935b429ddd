"""Loading a bundle so that it can be trusted: hashes, warm-up, and the golden self-test on this very CPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.bundle import Bundle, BundleError, Golden
from export.reference import Reference
from export.runtime import Classifier, InferenceError
from service.errors import StartupError

TOLERANCE = 0.02
"""How far a golden probability may be off: int8 kernels differ between CPUs, a wrong file differs by far more."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle with its classifier, warm and tested."""

    bundle: Bundle
    reference: Reference
    classifier: Classifier


def load(path: Path, *, threads: int = 1) -> Loaded:
    """Open a bundle, check it, warm it up and test it. Blocks for as long as that takes.

    Raises StartupError when the bundle was changed, cannot be loaded, or does not give its golden answers here.
    """
    try:
        bundle = Bundle.open(path)
        loaded = Loaded(bundle, Reference.open(bundle), Classifier.load(bundle, threads=threads))
        golden = bundle.golden()
        _warm_up(loaded.classifier, bundle.manifest.max_tokens)
        _self_test(loaded.classifier, bundle, golden)
    except BundleError as error:
        raise StartupError(str(error)) from error
    except InferenceError as error:
        raise StartupError(f"{path}: {error}; export the bundle again") from error
    return loaded


def _warm_up(classifier: Classifier, max_tokens: int) -> None:
    """Run the longest text once, so that no client waits for memory to be allocated."""
    classifier.classify("a " * max_tokens)


def _self_test(classifier: Classifier, bundle: Bundle, golden: list[Golden]) -> None:
    if not golden:
        raise StartupError(f"{bundle.path}: no golden rows to test this CPU with; export the bundle again")
    for number, row in enumerate(golden, start=1):
        if problem := _difference(classifier, bundle.manifest.labels, row):
            raise StartupError(
                f"{bundle.path}: golden row {number} of {len(golden)}: {problem}; "
                f"export the bundle again on a machine like this one"
            )


def _difference(classifier: Classifier, labels: tuple[str, ...], row: Golden) -> str | None:
    """Say what is wrong with the answer to a golden text, if anything. A near tie may fall either way."""
    found = classifier.classify(row.text).probabilities
    expected = np.array(row.probabilities)
    if expected.shape != found.shape:
        return f"{expected.size} probabilities for {found.size} labels"
    runner_up, top = np.sort(expected)[-2:]
    label = labels[int(found.argmax())]
    if label != row.label and top - runner_up > TOLERANCE:
        return f"this CPU answers {label!r}, expected {row.label!r}"
    if (worst := float(np.abs(found - expected).max())) > TOLERANCE:
        return f"a probability is off by {worst:.3f}, allowed are {TOLERANCE}"
    return None
