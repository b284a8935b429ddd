"""A cascade is built from students of one task: the sure texts are answered early, and its files describe the whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distill.data.splits import Validation
from distill.decision import Threshold
from distill.errors import DistillError
from export.build import Baseline
from export.build_cascade import (
    build_cascade,
    cascade_warnings,
    find_cascade,
    measure_stages,
    stages_for,
    teacher_warnings,
)
from export.bundle.anchors import read_anchors
from export.bundle.cascade import is_deferred, load_classifier
from export.bundle.classifier import Classifier
from export.bundle.decision import Decision
from export.bundle.format import CARD
from export.bundle.reference import Reference
from export.bundle.verify import verify
from export.cut_offs import NotCertifiedError
from tests.support.tiny_bundle import WORDS, build_bundle
from tests.support.tiny_bundle import build_cascade as tiny_cascade

LABELS = tuple(WORDS)
FLIPPED = {"refund": "shipping", "late": "account", "login": "technical", "crash": "billing"}
"""Words that the cheap student takes for another label than the teacher and the dear one do."""

SURE, UNSURE = 700, 300


def priced(bundle, milliseconds):
    """The bundle as if it had been measured to take so long."""
    measured = {"milliseconds": milliseconds, "bytes": 1000}
    return replace(bundle, manifest=replace(bundle.manifest, measured=measured))


def texts():
    """Texts of one word that both students read alike, and of a flipped word with another of its label."""
    sure = [word for label in LABELS for word in WORDS[label] if word not in FLIPPED]
    pairs = [
        f"{word} {other}"
        for word in FLIPPED
        for label in LABELS
        if word in WORDS[label]
        for other in WORDS[label]
        if other not in FLIPPED
    ]
    return tuple(f"{sure[row % len(sure)]} {'the ' * (row % 3)}" for row in range(SURE)) + tuple(
        f"{pairs[row % len(pairs)]} {'my ' * (row % 3)}" for row in range(UNSURE)
    )


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    """A student that is unsure about some texts, and one that is right about all and takes ten times as long."""
    folder = tmp_path_factory.mktemp("stages")
    cheap = build_bundle(folder / "cheap", name="cheap", flip=FLIPPED)
    return [priced(cheap, 0.1), priced(build_bundle(folder / "dear", name="dear"), 1.0)]


@pytest.fixture(scope="module")
def baseline(stages):
    given = texts()
    answers = Classifier.load(stages[1]).probabilities(given)
    return Baseline(
        Validation(tuple(map(str, range(len(given)))), given, (None,) * len(given)), answers, unseen=given[:100]
    )


@pytest.fixture(scope="module")
def measured(stages, baseline):
    return measure_stages(stages, baseline)


@pytest.fixture(scope="module")
def built(measured, baseline, tmp_path_factory):
    return build_cascade(measured, tmp_path_factory.mktemp("built") / "cascade", baseline=baseline)


def test_sure_texts_are_answered_by_the_cheap_student_and_the_others_by_the_dear_one(built, baseline):
    cascade = load_classifier(verify(built.path))
    answers = [cascade.classify(text) for text in baseline.validation.texts]
    assert [answer.stage for answer in answers] == [0] * SURE + [1] * UNSURE
    assert [answer.best for answer in answers] == baseline.teacher.argmax(axis=1).tolist()


def test_the_manifest_says_what_is_guaranteed_and_what_a_text_costs(built, measured):
    facts = built.manifest.measured
    assert built.manifest.name == "cheap+dear"
    assert [stage.cut_off for stage in built.manifest.stages] == [*measured.cut_offs.cut_offs, None]
    assert facts["shares"] == [0.7, 0.3]
    assert facts["validation_agreement"] == 1.0
    assert facts["margin"] == 0.005
    assert facts["guarantee"].startswith("With 95 % confidence, it agrees with the teacher on at most 0.5 points fewer")
    assert facts["milliseconds_by_variant"] == {"0-cheap": 0.1, "1-dear": 1.0}
    assert facts["milliseconds"] == pytest.approx(0.1 + 0.3 * 1.0)
    assert all(gate["passed"] for gate in built.manifest.gates.values())


def test_a_cascade_that_is_useless_warns(built):
    def warnings(**measured):
        facts = {**built.manifest.measured, **measured}
        return cascade_warnings(replace(built.manifest, measured=facts))

    assert warnings() == []
    assert warnings(shares=[0.0, 1.0], milliseconds=1.1) == [
        "cheap+dear: cheap answers 0.0 % of the validation texts; leave this stage out",
        "cheap+dear: takes 1.100 ms per text, dear alone 1.000 ms; serve dear alone",
    ]


def test_one_stage_twice_is_refused(stages, baseline):
    for again in (stages[0], replace(stages[0])):
        with pytest.raises(DistillError, match=r"cheap: stages 1 and 3 have .* the same answers; name each stage once"):
            measure_stages([stages[0], stages[1], again], baseline)


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1, float("nan")])
def test_a_margin_out_of_range_is_refused(stages, baseline, margin):
    with pytest.raises(DistillError, match="more than 0 and less than 1"):
        measure_stages(stages, baseline, margin=margin)


def test_the_card_lists_the_stages(built):
    text = (built.path / CARD).read_text()
    assert "- `cheap`, version" in text
    assert "70.0 % of the validation texts" in text
    assert "`dear`" in text
    assert built.manifest.measured["guarantee"] in text


def test_bands_golden_texts_anchors_and_drift_are_those_of_the_whole(built, stages, baseline):
    reference = Reference.open(built)
    assert reference.rows.sum() == len(baseline.validation)
    assert reference.disagreements.sum() == 0
    assert Classifier.load(stages[0]).probabilities(baseline.validation.texts).argmax(1).tolist() != (
        baseline.teacher.argmax(1).tolist()
    ), "the cheap student must disagree somewhere, or bands of the first stage would look the same"
    assert reference.drift is not None
    assert reference.drift.texts == len(baseline.validation) + len(baseline.unseen)
    cascade = load_classifier(built)
    golden = built.golden()
    assert {cascade.classify(row.text).stage for row in golden} == {0, 1}
    anchors = read_anchors(built)
    assert anchors is not None
    assert len(anchors) == 200


def test_a_decision_travels_with_the_cascade(measured, baseline, tmp_path):
    rule = Threshold(kind="threshold", at=0.5)
    bundle = build_cascade(measured, tmp_path / "cascade", baseline=baseline, decision=rule)
    decision = Decision.open(verify(bundle.path))
    assert decision is not None
    assert decision.thresholds.tolist() == [0.5] * len(LABELS)


def test_a_cascade_is_found_where_it_saves_enough(stages, baseline):
    found, why = find_cascade(stages, baseline)
    assert found is not None
    assert found.share == pytest.approx(0.1 + 0.3)
    assert why.startswith(
        "of the validation texts it answers by cheap 70 %, dear 30 %, in 40 % of the time of dear. With 95 %"
    )
    slower = [priced(stages[0], 0.5), stages[1]]
    found, why = find_cascade(slower, baseline)
    assert found is None
    assert "in 80 % of the time of dear, and a cascade is built at 70 % or less" in why
    found, _ = find_cascade(slower, baseline, always=True)
    assert found is not None


def test_too_few_validation_rows_make_no_cascade_and_say_how_many_it_takes(stages, baseline):
    few = replace(
        baseline, validation=baseline.validation.take([*range(400)]), teacher=baseline.teacher[:400], unseen=()
    )
    found, why = find_cascade(stages, few)
    assert found is None
    assert "400 validation rows certify no margin of 0.5 points or less" in why
    assert "952 rows certify 0.5 points, and 2,383 rows 0.2" in why
    with pytest.raises(NotCertifiedError, match="takes 1,502 rows"):
        measure_stages(stages, few, margin=0.002)
    assert measure_stages(stages, few, margin=0.01).cut_offs.margin == 0.01


def test_students_that_do_not_pay_are_no_stages(stages):
    cheap, dear = stages
    middle = priced(dear, 0.6)
    assert stages_for(dear, [cheap, dear]) == [cheap, dear]
    assert stages_for(dear, [middle, dear, cheap]) == [cheap, dear], "it takes more than half the time of the last"
    assert stages_for(dear, [priced(middle, 0.4), cheap]) == [cheap, priced(middle, 0.4), dear]
    assert stages_for(cheap, [cheap, dear]) == [cheap]
    assert find_cascade([cheap], None) == (None, "no other student takes at most 50 % of the time of cheap")


def test_three_students_answer_in_turn(stages, baseline, tmp_path):
    half = {word: label for word, label in FLIPPED.items() if word in ("login", "crash")}
    middle = priced(build_bundle(tmp_path / "middle", name="middle", flip=half), 0.4)
    measured = measure_stages([stages[0], middle, stages[1]], baseline)
    built = build_cascade(measured, tmp_path / "cascade", baseline=baseline)
    assert built.manifest.answering == ("0-cheap", "1-middle", "2-dear")
    answers = [load_classifier(verify(built.path)).classify(text) for text in baseline.validation.texts]
    shares = [sum(answer.stage == place for answer in answers) / len(answers) for place in range(3)]
    assert shares == list(measured.cut_offs.shares) == built.manifest.measured["shares"]
    assert shares[0] == 0.7
    assert min(shares) > 0.1
    assert built.manifest.measured["milliseconds"] == pytest.approx(0.1 + 0.3 * 0.4 + shares[2] * 1.0)
    assert [answer.best for answer in answers] == baseline.teacher.argmax(axis=1).tolist()


@pytest.fixture(scope="module")
def deferring(stages, baseline, tmp_path_factory):
    """The cheap student, wrong where it is unsure, before the teacher."""
    measured = measure_stages(stages[:1], baseline, defer=0.99)
    return build_cascade(measured, tmp_path_factory.mktemp("deferring") / "cascade", baseline=baseline)


def test_with_defer_the_teacher_answers_what_the_student_is_not_sure_of(deferring, baseline):
    manifest = verify(deferring.path).manifest
    assert manifest.name == "cheap+teacher"
    assert manifest.answering == ("0-cheap", "teacher")
    assert [stage.cut_off for stage in manifest.stages] == [manifest.deferred_below]
    answers = [load_classifier(deferring).classify(text) for text in baseline.validation.texts]
    assert [is_deferred(answer, manifest) for answer in answers] == [False] * SURE + [True] * UNSURE
    facts = manifest.measured
    assert facts["shares"] == [0.7, 0.3]
    assert facts["validation_agreement"] == 1.0
    assert "on at least 99 % of all requests by leaving 30.0 % to it" in facts["guarantee"]
    assert facts["milliseconds"] == pytest.approx(0.1), "the teacher takes no time of this machine"
    assert all(gate["passed"] for gate in manifest.gates.values())
    assert "the teacher answers every other text: 30.0 %" in (deferring.path / CARD).read_text()
    assert cascade_warnings(manifest) == []


def test_bands_and_slo_are_of_what_students_answer_and_the_curve_is_of_all(deferring, stages, baseline):
    reference = Reference.open(deferring)
    assert reference.rows.sum() == SURE
    assert reference.disagreements.sum() == 0
    assert reference.drift is not None
    assert reference.drift.texts == len(baseline.validation) + len(baseline.unseen)
    student = Classifier.load(stages[0])
    disagree = student.probabilities(baseline.validation.texts).argmax(1) != baseline.teacher.argmax(1)
    unsure = student.classify(baseline.validation.texts[-1]).score
    expected = reference.expected_disagreement(unsure)
    assert expected == pytest.approx(disagree[SURE:].mean(), abs=0.1), "of a text that a student answers instead"
    assert expected > 0.2


def test_several_students_may_stand_before_the_teacher(stages, baseline, tmp_path):
    measured = measure_stages(stages, baseline, defer=0.995)
    assert measured.name == "cheap+dear+teacher"
    assert measured.cut_offs.shares == (0.7, 0.3, 0.0)
    built = build_cascade(measured, tmp_path / "cascade", baseline=baseline)
    assert built.manifest.answering == ("0-cheap", "1-dear", "teacher")
    assert find_cascade(stages[:1], baseline, defer=0.99)[0] is not None, "asked for, it is built whatever it saves"


def test_what_cannot_be_deferred_says_why(stages, baseline):
    with pytest.raises(DistillError, match="give one of them"):
        measure_stages(stages, baseline, margin=0.01, defer=0.99)
    for wrong in (0.0, 1.0, 99.0):
        with pytest.raises(DistillError, match="more than 0 and less than 1"):
            measure_stages(stages, baseline, defer=wrong)
    with pytest.raises(DistillError, match="a student before the teacher"):
        measure_stages([], baseline, defer=0.99)
    few = replace(baseline, validation=baseline.validation.take([*range(200)]), teacher=baseline.teacher[:200])
    with pytest.raises(NotCertifiedError, match=r"99 % agreement.* takes 299 rows"):
        measure_stages(stages[:1], few, defer=0.99)


def test_stages_that_do_not_fit_are_refused(stages, baseline, tmp_path):
    other = priced(build_bundle(tmp_path / "other", labels=LABELS[::-1]), 0.1)
    many = priced(build_bundle(tmp_path / "many", multi_label=True), 0.1)
    teacher = priced(build_bundle(tmp_path / "teacher", role="teacher"), 0.1)
    whole = tiny_cascade(tmp_path / "whole", stages, [0.5])
    refused = (
        (other, "other labels"),
        (many, "multi-label"),
        (teacher, "teacher: is the bundle of a teacher; a cascade is of students"),
        (whole, "whole: is a cascade; name its stages"),
    )
    for first, problem in refused:
        with pytest.raises(DistillError, match=problem):
            measure_stages([first, stages[1]], baseline)
    with pytest.raises(DistillError, match="two students or more"):
        measure_stages(stages[1:], baseline)
    assert find_cascade([many, many], baseline) == (None, "a text has several labels")


def test_a_stage_that_learned_from_another_teacher_than_the_last_warns(stages, tmp_path):
    ours = {"name": "bert", "version": "2"}
    exported = {"name": "bert-teacher", "version": "abc", "origin": ours}
    last, same, foreign = (
        replace(bundle, manifest=replace(bundle.manifest, teacher=teacher))
        for bundle, teacher in (
            (stages[1], ours),
            (stages[0], exported),
            (stages[0], {"name": "gpt", "version": "1"}),
        )
    )
    assert teacher_warnings([same, last]) == []
    (warning,) = teacher_warnings([foreign, same, last])
    assert warning.startswith(f"{foreign.path}: learned from gpt@1, but dear from bert@2; what is guaranteed is about ")
