"""Verify a bundle: it is whole, loads, answers its golden texts as it did when exported, and reads `max_tokens`.

Of a cascade, this holds for each stage, and the golden texts of the whole too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from distill.errors import one_line
from distill.teachers import TeacherError
from distill.teachers.scaling import Scaling
from distill.truncation import most_that_runs
from export.bundle.anchors import read_anchors
from export.bundle.cascade import Answering, Cascade, load_classifier
from export.bundle.classifier import INPUTS, Classifier, Encoded, InferenceError, Prediction
from export.bundle.decision import DECISION, Decision
from export.bundle.format import GOLDEN, MANIFEST, MODEL, REFERENCE, Bundle, BundleError, Golden
from export.bundle.reference import Reference

TOLERANCE = 0.02
"""How far off a golden probability may be: int8 kernels differ between CPUs, but a wrong file differs far more."""


def verify(path: str | Path) -> Bundle:
    """Check a bundle as serving does, and return it opened. Raises BundleError that names what is wrong."""
    with bundle_errors(Path(path)):
        bundle = Bundle.open(path)
        reference = Reference.open(bundle)
        check_calibration(bundle)
        read_anchors(bundle)
        classifier = load_classifier(bundle)
        check_golden(bundle, classifier)
        check_drift(bundle, reference, classifier)
        check_decision(bundle, classifier)
        for own, stage in classifiers_of(bundle, classifier):
            if own is not bundle:
                check_golden(own, stage)
            check_longest(own, stage)
            check_portable(own, stage)
        return bundle


def classifiers_of(bundle: Bundle, classifier: Answering) -> list[tuple[Bundle, Classifier]]:
    """Return each stage's bundle and classifier, for any bundle but a cascade the two given alone."""
    if isinstance(classifier, Classifier):
        return [(bundle, classifier)]
    bundles = map(bundle.stage, bundle.manifest.stages)
    return [(own, stage) for own, (stage, _) in zip(bundles, classifier.stages, strict=True)]


def check_portable(bundle: Bundle, served: Classifier) -> None:
    """Check the portable graph, if the bundle has one, like the served one; `served` is the classifier of that.

    Raises BundleError as `check_golden` and `check_longest` do, and for a graph with other inputs than ids and mask.
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
def bundle_errors(path: Path) -> Iterator[None]:
    """Turn every exception about the bundle at `path` into a BundleError of one line, since libraries raise many kinds.

    A BundleError passes unchanged.
    """
    try:
        yield
    except BundleError:
        raise
    except InferenceError as error:
        where = path / MODEL if (path / MODEL).exists() else path  # a cascade has graphs in its stages only
        raise BundleError(f"{where}: {one_line(error)}; export the bundle again") from error
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({one_line(error)}); load it again once it is whole") from error
    except Exception as error:
        raise BundleError(
            f"{path}: cannot be used ({type(error).__name__}: {one_line(error)}); export the bundle again"
        ) from error


def check_calibration(bundle: Bundle) -> None:
    """Raise BundleError for a calibration of the teacher that cannot be applied to its answers."""
    values = bundle.manifest.teacher.get("calibration")
    try:
        if values is not None:
            Scaling.from_dict(values, len(bundle.manifest.labels))
    except TeacherError as error:
        raise BundleError(f"{bundle.path / MANIFEST}: 'teacher.calibration': {error}") from error


def check_decision(bundle: Bundle, classifier: Answering) -> Decision | None:
    """Return the decision of a bundle, None if it has none.

    Raises BundleError when the file is damaged, or made for other labels or other embeddings.
    """
    decision = Decision.open(bundle)
    if decision is not None and decision.novelty is not None:
        _require_width(bundle, classifier, DECISION, len(decision.novelty.centre))
    return decision


def check_drift(bundle: Bundle, reference: Reference, classifier: Answering) -> None:
    """Raise BundleError when the reference of input drift was made for other embeddings than the graph gives."""
    if reference.drift is not None:
        _require_width(bundle, classifier, REFERENCE, reference.drift.width)


def _require_width(bundle: Bundle, classifier: Answering, file: str, expected: int) -> None:
    width = len(classifier.classify(bundle.golden()[0].text).embedding)
    if width != expected:
        raise BundleError(
            f"{bundle.path / file}: is for embeddings of {expected} numbers, and the graph gives {width}; "
            "export the bundle again"
        )


def check_longest(bundle: Bundle, classifier: Classifier, graph: str = MODEL) -> None:
    """Answer a text of `max_tokens`, made of the golden ones. `graph` is the file that the classifier runs.

    Raises BundleError, which names the most tokens that the graph does read, when it fails.
    """
    where = bundle.path if graph == MODEL else bundle.path / graph
    max_tokens = bundle.manifest.max_tokens
    ids = repeat_to_length([classifier.encode(row.text).ids for row in bundle.golden()], max_tokens)

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


def repeat_to_length(rows: Sequence[Sequence[int]], length: int) -> list[int]:
    """Concatenate the token ids of texts, over and over, to exactly `length` ids."""
    ids = [number for row in rows for number in row] or [0]
    return [*islice(cycle(ids), length)]


def check_golden(bundle: Bundle, classifier: Answering, graph: str = MODEL) -> list[Prediction]:
    """Compare a classifier's answers to the golden texts with the recorded ones, and return them.

    `graph` is the file that the classifier runs. Every probability must lie within TOLERANCE, and the label must be the
    same unless the best two are that close. A stage of a cascade whose score is that close to its cut-off may pass the
    text on or not. Raises BundleError that names the first text for which this does not hold;
    also when there are no golden texts, or graph, tokenizer and labels do not fit together.
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
            if problem and isinstance(classifier, Cascade):
                others = classifier.possible(row.text, TOLERANCE)
                fits = any(_difference(other, bundle.manifest.labels, row) is None for other in others)
                problem = None if fits else problem
        except InferenceError as error:
            problem = str(error)
        if problem:
            raise BundleError(
                f"{bundle.path / GOLDEN}: golden row {number} of {len(rows)}, {row.text[:60]!r}{by}: {problem}; "
                "export the bundle again on a machine like this one"
            )
    return answers


def _difference(answer: Prediction, labels: tuple[str, ...], row: Golden) -> str | None:
    """Return what is wrong with the answer to a golden text; None where it is right. A near tie may go either way."""
    found, expected = answer.probabilities, np.array(row.probabilities)
    best = np.sort(expected)[-2:]
    label = labels[int(found.argmax())]
    worst = float(np.abs(found - expected).max())
    if label != row.label and best[-1] - best[0] > TOLERANCE:
        return f"this CPU answers {label!r}, expected {row.label!r} (a probability is off by {worst:.3f})"
    if not worst <= TOLERANCE:
        return f"a probability is off by {worst:.3f}, allowed are {TOLERANCE}"
    return None
