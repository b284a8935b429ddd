"""Verify: an existing bundle is whole, loads, and answers its golden texts on this machine as it did when exported.

And it answers a text as long as it may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from distill.teachers import TeacherError
from distill.teachers.scaling import Scaling
from distill.truncation import most_that_runs
from export.bundle.classifier import INPUTS, Classifier, Encoded, InferenceError, Prediction
from export.bundle.format import GOLDEN, MANIFEST, MODEL, Bundle, BundleError, Golden
from export.bundle.guard import one_line
from export.bundle.reference import Reference

TOLERANCE = 0.02
"""How far a golden probability may be off: int8 kernels differ between CPUs, a wrong file differs by far more."""


def verify(path: str | Path) -> Bundle:
    """Check a bundle as serving would. Gives it opened; raises BundleError naming what does not hold."""
    with refusing(Path(path)):
        bundle = Bundle.open(path)
        Reference.open(bundle)
        check_calibration(bundle)
        classifier = Classifier.load(bundle)
        check_golden(bundle, classifier)
        check_longest(bundle, classifier)
        check_portable(bundle, classifier)
        return bundle


def check_portable(bundle: Bundle, served: Classifier) -> None:
    """Hold the portable graph to the golden texts too, where the bundle has one. `served` is the one that is served.

    Raises BundleError as `check_golden` and `check_longest` do, and where the portable graph takes inputs of our own.
    """
    name = bundle.manifest.portable
    if name is None:
        return
    portable = served if name == MODEL else Classifier.load(bundle, tokenizer=served.tokenizer, graph=name)
    if portable.packed:
        raise BundleError(
            f"{bundle.path / name}: is named 'portable', but takes more than {' and '.join(INPUTS)}; export it again"
        )
    if portable is not served:
        check_golden(bundle, portable, name)
        check_longest(bundle, portable, name)


@contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Raise BundleError for whatever goes wrong with a bundle, in one line: libraries fail in ways that nobody listed.

    What is a BundleError already stays as it is.
    """
    try:
        yield
    except BundleError:
        raise
    except InferenceError as error:
        raise BundleError(f"{path / MODEL}: {one_line(error)}; export the bundle again") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({one_line(error)}); load it again once it is whole") from error
    except Exception as error:
        raise BundleError(
            f"{path}: cannot be used ({type(error).__name__}: {one_line(error)}); export the bundle again"
        ) from error


def check_calibration(bundle: Bundle) -> None:
    """Raise BundleError for a calibration of the teacher's answers that cannot be applied to them."""
    values = bundle.manifest.teacher.get("calibration")
    try:
        if values is not None:
            Scaling.from_dict(values, len(bundle.manifest.labels))
    except TeacherError as error:
        raise BundleError(f"{bundle.path / MANIFEST}: 'teacher.calibration': {error}") from error


def check_longest(bundle: Bundle, classifier: Classifier, graph: str = MODEL) -> None:
    """Answer a text of `max_tokens`, made of the golden ones. `graph` is the file that the classifier runs.

    Raises BundleError that names the most tokens that the graph reads, where it fails on so many.
    """
    where = bundle.path if graph == MODEL else bundle.path / graph
    max_tokens = bundle.manifest.max_tokens
    ids = repeated([classifier.encode(row.text).ids for row in bundle.golden()], max_tokens)

    def run(length: int) -> None:
        classifier.run([Encoded(ids[:length], truncated=False)])

    try:
        run(max_tokens)
    except InferenceError as error:
        most = most_that_runs(run, max_tokens - 1)
        remedy = f"train it with max_tokens of {most} or less and " if most else ""
        raise BundleError(
            f"{where}: max_tokens is {max_tokens}, but on a text of that many {one_line(error)}; {remedy}"
            "export the bundle again"
        ) from error


def repeated(rows: Sequence[Sequence[int]], length: int) -> list[int]:
    """Token ids of texts, one after the other and again from the first, until there are `length`."""
    ids = [number for row in rows for number in row] or [0]
    return [*islice(cycle(ids), length)]


def check_golden(bundle: Bundle, classifier: Classifier, graph: str = MODEL) -> list[Prediction]:
    """Compare the classifier's answers to the golden texts, which it gives, with the recorded ones.

    `graph` is the file that the classifier runs.

    Every probability must lie within TOLERANCE, and the label be the same unless the best two are that close. Raises
    BundleError naming the first text for which this does not hold, or saying that there is none to compare, or that
    graph, tokenizer and labels do not fit one another.
    """
    rows = bundle.golden()
    if not rows:
        raise BundleError(f"{bundle.path / GOLDEN}: no golden rows to test this CPU with; export the bundle again")
    try:
        classifier.check()
    except InferenceError as error:
        raise BundleError(f"{bundle.path / graph}: {error}; export the bundle again") from error
    by = "" if graph == MODEL else f" ({graph})"
    answers = []
    for number, row in enumerate(rows, start=1):
        try:
            answers.append(classifier.classify(row.text))
            problem = _difference(answers[-1], bundle.manifest.labels, row)
        except InferenceError as error:
            problem = str(error)
        if problem:
            raise BundleError(
                f"{bundle.path / GOLDEN}: golden row {number} of {len(rows)}, {row.text[:60]!r}{by}: {problem}; "
                "export the bundle again on a machine like this one"
            )
    return answers


def _difference(answer: Prediction, labels: tuple[str, ...], row: Golden) -> str | None:
    """Say what is wrong with the answer to a golden text, if anything. A near tie may fall either way."""
    found, expected = answer.probabilities, np.array(row.probabilities)
    best = np.sort(expected)[-2:]
    label = labels[int(found.argmax())]
    worst = float(np.abs(found - expected).max())
    if label != row.label and best[-1] - best[0] > TOLERANCE:
        return f"this CPU answers {label!r}, expected {row.label!r} (a probability is off by {worst:.3f})"
    if not worst <= TOLERANCE:
        return f"a probability is off by {worst:.3f}, allowed are {TOLERANCE}"
    return None
