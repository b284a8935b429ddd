"""A witness knows, from validation, where the student that it stands beside disagrees with the teacher."""

from __future__ import annotations

import numpy as np
import pytest

from distill.data.splits import Validation
from distill.errors import DistillError
from distill.teachers import TeacherError
from export.build import Baseline
from export.bundle.classifier import Classifier
from export.bundle.format import BundleError
from export.bundle.reference import Reference
from export.bundle.verify import verify
from export.bundle.witness import WITNESS, WitnessReference, joint_confidence
from export.fit_reference import fit_reference
from export.run import ExportRun
from export.witness import make_witness
from tests.support.tiny_bundle import WORDS, build_bundle, rewritten

LABELS = tuple(WORDS)
FLIPPED = {"refund": "shipping", "late": "account", "login": "technical", "crash": "billing"}
"""Words that the student takes for another label than the teacher and the witness do."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """A student that is wrong about four words, and one that is right about all."""
    folder = tmp_path_factory.mktemp("bundles")
    return build_bundle(folder / "student", flip=FLIPPED), build_bundle(folder / "better", labels=LABELS[::-1])


@pytest.fixture(scope="module")
def baseline(bundles):
    """Texts of one or two words, and a teacher that is right about every word."""
    words = [word for label in LABELS for word in WORDS[label]]
    texts = (*words, *(f"{word} {word} the" for word in words), *(f"{word} my" for word in words))
    answers = Classifier.load(bundles[1]).probabilities(texts)[:, ::-1]
    return Baseline(Validation(tuple(map(str, range(len(texts)))), texts, None), answers)


@pytest.fixture(scope="module")
def made(bundles, baseline, tmp_path_factory):
    return make_witness(bundles[0], bundles[1], tmp_path_factory.mktemp("made") / "witness", baseline)


def test_the_confidence_of_both_is_the_mean_of_the_two_probabilities_of_the_students_label():
    assert joint_confidence(0.9, 0.9) == pytest.approx(0.9)
    assert joint_confidence(0.9, 0.1) == pytest.approx(0.3)
    assert joint_confidence(0.9, 0.0) == 0.0


def test_a_witness_is_a_bundle_that_answers_as_before(bundles, made):
    bundle = verify(made.bundle.path)
    assert WITNESS in bundle.manifest.files
    text = "my invoice is late"
    before, after = (Classifier.load(each).classify(text).probabilities for each in (bundles[1], bundle))
    assert np.array_equal(before, after)


def test_a_witness_tells_where_the_student_is_wrong_although_it_is_sure(bundles, made):
    joint, alone = WitnessReference.open(made.bundle), Reference.open(bundles[0])
    assert joint.student == bundles[0].manifest.version
    student, better = (Classifier.load(bundle) for bundle in bundles)

    def expected(word):
        answer, seen = student.classify(word), better.classify(word)
        beside = seen.probabilities[LABELS[::-1].index(LABELS[answer.best])]
        return joint.reference.expected_disagreement(joint_confidence(answer.score, float(beside)))

    assert student.classify("refund").score == pytest.approx(student.classify("invoice").score)
    assert alone.expected_disagreement(student.classify("refund").score) < 0.3
    assert expected("invoice") < 0.05
    assert expected("refund") > 0.4
    assert made.calls < 0.5


def test_the_file_survives_writing_and_reading(bundles, tmp_path):
    random = np.random.default_rng(0)
    top = random.random(300)
    given = WitnessReference("0123456789ab", fit_reference(top, random.random(300) < 1 - top))
    bundle = rewritten(bundles[1], tmp_path / "witness", {WITNESS: given.to_bytes()})
    read = WitnessReference.open(bundle)
    assert read.student == given.student
    assert read.reference.to_bytes() == given.reference.to_bytes()


def test_a_bundle_that_is_no_witness_is_refused_with_the_remedy(bundles, tmp_path):
    with pytest.raises(BundleError, match="reflux witness"):
        WitnessReference.open(bundles[0])
    nameless = WitnessReference("", Reference.open(bundles[0])).reference.to_bytes()
    with pytest.raises(BundleError, match="names no student"):
        WitnessReference.open(rewritten(bundles[1], tmp_path / "nameless", {WITNESS: nameless}))


def test_a_witness_has_the_students_labels(bundles, baseline, tmp_path):
    other = build_bundle(tmp_path / "other", labels=LABELS[:3])
    with pytest.raises(TeacherError, match="technical"):
        make_witness(bundles[0], other, tmp_path / "witness", baseline)


def test_a_student_of_many_labels_per_text_has_no_witness(bundles, baseline, tmp_path):
    many = build_bundle(tmp_path / "many", multi_label=True)
    with pytest.raises(DistillError, match="multi-label"):
        make_witness(many, bundles[1], tmp_path / "witness", baseline)


def test_of_a_run_the_better_student_is_the_witness(exported):
    agreement = {name: bundle.manifest.measured["validation_agreement"] for name, bundle in exported.bundles().items()}
    worse, better = sorted(agreement, key=lambda name: agreement[name])
    assert agreement[worse] < agreement[better], "the students of this run are equals, so nothing is tested"
    made = exported.make_witness(worse)
    assert made.bundle.path == exported.run.root / "witnesses" / worse
    assert made.bundle.manifest.name == exported.bundles()[better].manifest.name
    assert WitnessReference.open(made.bundle).student == exported.bundles()[worse].manifest.version
    (made.bundle.path / "notes.txt").write_text("mine")
    with pytest.raises(DistillError, match=r"holds notes\.txt beside a bundle"):
        exported.make_witness(worse)
    (made.bundle.path / "notes.txt").unlink()
    with pytest.raises(DistillError, match="only a better student"):
        exported.make_witness(better, worse)


def test_of_a_run_only_its_students_can_be_a_witness(exported: ExportRun):
    name = next(iter(exported.bundles()))
    with pytest.raises(DistillError, match="not nobody"):
        exported.make_witness(name, "nobody")
    with pytest.raises(DistillError, match=f"not {name}"):
        exported.make_witness(name, name)
