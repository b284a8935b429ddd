"""A run ends with a bundle for every student, one chosen on validation, and a report that the bundles bear out."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from typing import Any

import numpy as np
import pytest
import torch

from distill import stages, teachers
from distill.decision import Abstain, Threshold
from distill.errors import DistillError, TaskError
from distill.evaluation.calibration import expected_calibration_error
from distill.evaluation.self_agreement import CONSTANT
from distill.run import RECORD, Run
from distill.students.student import load_student
from distill.task import Budget, Cascade, Comparisons, Export
from distill.teachers.scaling import Scaling
from export import run as module
from export.build import build_bundle
from export.bundle.cascade import is_deferred, load_classifier
from export.bundle.classifier import Classifier
from export.bundle.decision import Decision
from export.bundle.format import CARD, MODEL, REFERENCE, Bundle, BundleError
from export.bundle.reference import Reference
from export.bundle.verify import verify
from export.cascades import CASCADE
from export.run import GAP, TEACHER, ExportRun

STUDENTS = ("small", "large")


@pytest.fixture
def copy(exported, tmp_path):
    """`copy(**changes)`: the whole run in a folder of its own, the task changed so."""

    def make(**changes):
        root = shutil.copytree(exported.run.root, tmp_path / "run")
        return ExportRun(Run(exported.task.model_copy(update=changes), root))

    return make


@pytest.fixture
def gap(exported):
    """The report's numbers."""
    return json.loads((exported.report.path / GAP).read_text())


def with_budget(exported, limit):
    """The same run with a latency budget; its students and their bundles stay up to date."""
    return ExportRun(Run(exported.task.model_copy(update={"budget": Budget(latency_ms=limit)}), exported.run.root))


def speeds(exported):
    """The students' names by their milliseconds, the fastest first."""
    return dict(sorted((bundle.manifest.measured["milliseconds"], name) for name, bundle in exported.bundles().items()))


def on_split(exported, name):
    """A split and what the teacher says to its texts."""
    splits, soft = exported.run.splits(), exported.run.soft_labels()
    split = getattr(splits, name)
    return split, soft.probabilities[soft.rows_of(split.ids)]


def forbid(monkeypatch, owner, name):
    monkeypatch.setattr(owner, name, lambda *_, **__: pytest.fail(f"{name} was called"))


def no_operator(*_, **__):
    """Fail as torch's exporter does where an operator has no ONNX form."""
    raise RuntimeError("an operator has no ONNX form")


def state(root):
    """What tells whether a file was written since."""
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in sorted(root.rglob("*")) if path.is_file()}


def test_every_student_and_the_finetuned_teacher_have_a_bundle_that_holds(exported):
    assert {path.name for path in (exported.run.root / "bundles").iterdir()} == {*STUDENTS, TEACHER}
    for name in (*STUDENTS, TEACHER):
        bundle = verify(exported.run.root / "bundles" / name)
        assert bundle.manifest.role == ("teacher" if name == TEACHER else "student")
    families = {name: bundle.manifest.family for name, bundle in exported.bundles().items()}
    assert families == {"small": "static", "large": "encoder"}


def test_the_chosen_bundle_agrees_best_with_the_teacher_on_validation(exported):
    validation, teacher = on_split(exported, "validation")
    agreements = {}
    for name, bundle in exported.bundles().items():
        answers = Classifier.load(bundle).probabilities(validation.texts)
        agreements[name] = float((answers.argmax(1) == teacher.argmax(1)).mean())
        assert bundle.manifest.measured["validation_agreement"] == pytest.approx(agreements[name])
    assert len(set(agreements.values())) == len(STUDENTS)
    best = max(agreements, key=agreements.__getitem__)
    assert verify(exported.chosen.path).manifest == exported.bundles()[best].manifest


def test_a_budget_takes_out_what_is_too_slow(exported):
    (fast, faster), (slow, _) = speeds(exported).items()
    assert with_budget(exported, (fast + slow) / 2).choose().manifest.name == faster
    assert with_budget(exported, fast).choose().manifest.name == faster
    assert with_budget(exported, slow).choose().manifest == exported.choose().manifest


def test_an_impossible_budget_is_refused_with_the_latencies(exported):
    with pytest.raises(DistillError) as refused:
        with_budget(exported, 1e-6).make_bundles()
    for milliseconds, name in speeds(exported).items():
        assert f"{name}: {milliseconds:.2f} ms" in str(refused.value)
    assert "no student answers within 1e-06 ms" in str(refused.value)
    assert "budget.latency_ms" in str(refused.value)


def test_another_budget_chooses_again_and_exports_nothing(copy, monkeypatch):
    made = copy()
    forbid(monkeypatch, module, "build_bundle")
    limit, name = next(iter(speeds(made).items()))
    chosen = with_budget(made, limit).make_bundles()
    assert chosen.manifest.name == name
    assert with_budget(made, limit).make_report()["chosen"] == name


def test_the_second_run_does_nothing(exported, gap, monkeypatch):
    before = state(exported.run.root)
    forbid(monkeypatch, module, "build_bundle")
    forbid(monkeypatch, ExportRun, "_evaluate")
    again = ExportRun(Run(exported.task, exported.run.root))
    assert again.make_bundles() == Bundle.open(exported.chosen.path)
    assert again.make_report() == gap
    assert state(exported.run.root) == before


def test_the_test_split_only_shows_what_inputs_look_like(copy, monkeypatch):
    made = copy()
    before = {name: (bundle.manifest.files, Reference.open(bundle)) for name, bundle in made.bundles().items()}
    chosen = json.loads((made.report.path / GAP).read_text())["chosen"]
    shutil.rmtree(made.run.root / "bundles")
    shutil.rmtree(made.chosen.path)
    splits = Run.splits

    def other_test(run):
        found = splits(run)
        texts = tuple(f"{text} thank you" for text in found.test.texts)
        return dataclasses.replace(found, test=dataclasses.replace(found.test, texts=texts, gold=(None,) * len(texts)))

    monkeypatch.setattr(Run, "splits", other_test)
    assert made.make_bundles().manifest.name == chosen
    for name, bundle in made.bundles().items():
        files, reference = before[name]
        assert {file for file, digest in bundle.manifest.files.items() if digest != files[file]} <= {REFERENCE, CARD}
        now = Reference.open(bundle)
        assert now.drift.texts == reference.drift.texts
        assert not np.array_equal(now.drift.lengths, reference.drift.lengths)
        without = [dataclasses.replace(each, drift=None).to_bytes() for each in (now, reference)]
        assert without[0] == without[1]


def test_a_bundle_that_was_damaged_is_refused_by_name(copy):
    made = copy()
    model = made.chosen.path / MODEL
    model.write_bytes(bytes(model.stat().st_size))
    with pytest.raises(BundleError, match=f"{model}: does not match its hash"):
        made.make_bundles()


def test_a_bundle_that_lost_a_file_is_made_again(copy):
    made = copy()
    (made.chosen.path / MODEL).unlink()
    assert verify(made.make_bundles().path).manifest == made.choose().manifest


@pytest.mark.parametrize(
    ("stage", "step", "message"),
    [
        (
            lambda made: made.run.student("large"),
            ExportRun.make_bundles,
            "students/large has not been made: run `reflux train`",
        ),
        (lambda made: made.chosen, ExportRun.make_report, "bundle has not been made: run `reflux export`"),
    ],
)
def test_a_step_before_the_one_it_needs_names_the_verb(copy, stage, step, message):
    made = copy()
    shutil.rmtree(stage(made).path)
    with pytest.raises(DistillError, match=message):
        step(made)


def test_bundles_of_students_that_were_trained_anew_are_out_of_date(copy):
    made = copy()
    small = made.task.students["small"].model_copy(update={"hidden": 8})
    other = ExportRun(
        Run(made.task.model_copy(update={"students": {**made.task.students, "small": small}}), made.run.root)
    )
    with pytest.raises(DistillError, match=r"bundle is out of date: run `reflux export`"):
        other.make_report()
    with pytest.raises(DistillError, match=r"students/small is out of date: run `reflux train`"):
        other.make_bundles()


async def test_the_teachers_bundle_answers_what_the_finetuned_teacher_does(exported):
    test, soft = on_split(exported, "test")
    manifest = Bundle.open(exported.bundle_stage(TEACHER).path).manifest
    assert (manifest.role, manifest.name) == ("teacher", "keywords-teacher")
    assert manifest.variant in ("plain", "fused")
    assert "int8" not in manifest.measured["milliseconds_by_variant"]
    assert manifest.measured["validation_agreement"] == 1.0
    labels = exported.run.splits().labels
    local = teachers.create(exported.run.teacher_config(), labels)
    served = teachers.create({"kind": "bundle", "path": str(exported.bundle_stage(TEACHER).path)}, labels)
    for teacher in (local, served):
        answers = np.stack([answer.probabilities for answer in await teacher.ask(test.texts)])
        np.testing.assert_allclose(answers, soft, atol=1e-3)
    assert manifest.teacher == {"name": local.name, "version": local.version}


def test_the_teacher_is_exported_in_fp32_whatever_the_students_are(copy, monkeypatch):
    made = copy(export=Export(variant="auto"))
    shutil.rmtree(made.bundle_stage(TEACHER).path)
    asked = {}

    def remember(*positional, **named):
        asked[named["name"]] = named["settings"].variant
        return build_bundle(*positional, **named)

    monkeypatch.setattr(module, "build_bundle", remember)
    made.make_bundles()
    assert asked == {"small": "auto", "large": "auto", "keywords-teacher": "fp32"}


def test_the_reports_numbers_are_those_of_the_bundles(exported, gap):
    test, teacher = on_split(exported, "test")
    gold = np.array([exported.run.splits().labels.index(label) for label in test.gold])
    assert set(gap["students"]) == set(STUDENTS)
    for name, bundle in exported.bundles().items():
        own = gap["students"][name]
        answers = Classifier.load(bundle).probabilities(test.texts)
        floored = [np.maximum(rows.astype(np.float64), 1e-4) for rows in (teacher, answers)]
        p, q = (rows / rows.sum(axis=1, keepdims=True) for rows in floored)
        measured = {
            key: own["gap"][key]["value"] for key in ("agreement", "kl", "teacher_accuracy", "student_accuracy")
        }
        assert measured == pytest.approx(
            {
                "agreement": (answers.argmax(1) == teacher.argmax(1)).mean(),
                "kl": (p * np.log(p / q)).sum(axis=1).mean(),
                "teacher_accuracy": (teacher.argmax(1) == gold).mean(),
                "student_accuracy": (answers.argmax(1) == gold).mean(),
            }
        )
        assert own["gap"]["rows"] == len(test) == 100
        confused = np.zeros((4, 4), dtype=int)
        np.add.at(confused, (teacher.argmax(1), answers.argmax(1)), 1)
        assert sum(count for _, _, count in own["gap"]["confusion"]) == len(test)
        assert all(confused[said, answered] == count for said, answered, count in own["gap"]["confusion"])
        differ = int((teacher.argmax(1) != answers.argmax(1)).sum())
        assert len(own["disagreements"]) == min(differ, 50)
        assert {one["text"] for one in own["disagreements"]} <= set(test.texts)
        assert own["bundle"] == bundle.manifest.version
        assert (own["family"], own["variant"]) == (bundle.manifest.family, bundle.manifest.variant)
        assert (own["measured"], own["gates"]) == (bundle.manifest.measured, bundle.manifest.gates)
        assert own["usd_per_1000"] == pytest.approx(bundle.manifest.measured["milliseconds"] * 0.36 / 3600)
        training = json.loads((exported.run.student(name).path / RECORD).read_text())
        assert own["parameters"] == training["parameters"] > 0


def test_the_report_has_the_calibration_before_and_after(exported, gap):
    test, teacher = on_split(exported, "test")
    for name, bundle in exported.bundles().items():
        logits = np.stack([Classifier.load(bundle).classify(text).logits for text in test.texts]).astype(np.float64)
        found = gap["students"][name]["calibration"]
        assert found["temperature"] == bundle.manifest.temperature
        for when, temperature in (("before", 1.0), ("after", bundle.manifest.temperature)):
            scaled = np.exp(logits / temperature)
            answers = scaled / scaled.sum(axis=1, keepdims=True)
            right = answers.argmax(1) == teacher.argmax(1)
            error = expected_calibration_error(answers.max(1), right)
            assert found["agreement"][when]["error"]["value"] == pytest.approx(error, abs=1e-3)


def test_the_report_has_what_the_labels_cost(exported, gap):
    soft = exported.run.soft_labels()
    for student in gap["students"].values():
        assert student["costs"]["labels_usd"] == pytest.approx(soft.cost_usd.sum())
        assert student["costs"]["student_usd_per_1000"] == student["usd_per_1000"]
        assert student["costs"]["break_even_texts_per_month"] is None  # its teacher is paid by the hour


def test_a_price_that_is_given_after_labelling_is_in_the_report_and_makes_nothing_else_anew(copy, exported, gap):
    made = copy(teacher=exported.task.teacher.model_copy(update={"usd_per_hour": 7.2}))
    assert made.run.labels.done
    assert made.chosen.done
    assert not made.report.done
    assert made.make_report()["teacher"]["usd_per_1000"] == pytest.approx(2 * gap["teacher"]["usd_per_1000"])


def test_the_report_compares_students_trained_in_other_ways(copy, gap):
    assert gap["comparisons"] == {}
    made = copy(comparisons=Comparisons())
    with pytest.raises(DistillError, match="run `reflux train`"):
        made.make_report()
    made.comparisons.make()
    (found,) = made.make_report()["comparisons"].values()
    assert set(found) == {"soft", "hard", "gold", "human"}
    test, teacher = on_split(made, "test")
    gold = np.array([made.run.splits().labels.index(label) for label in test.gold])
    for way, folder in (
        ("soft", made.run.student("small").path),
        ("hard", made.comparisons.stage("small", "hard").path),
    ):
        chosen = load_student(folder).logits(test.texts).argmax(1)
        assert found[way]["agreement"]["value"] == pytest.approx((chosen == teacher.argmax(1)).mean())
        assert found[way]["accuracy"]["value"] == pytest.approx((chosen == gold).mean())
    text = (made.report.path / "report.md").read_text()
    assert "## What distillation is worth" in text
    assert f"| hard labels of the teacher | {100 * found['hard']['agreement']['value']:.1f} % " in text


def test_the_report_warns_of_a_teacher_with_one_label_for_everything(copy, gap, monkeypatch):
    assert not [warning for warning in gap["warnings"] if warning.startswith("the teacher")]
    made = copy()
    soft = made.run.soft_labels()
    probabilities = np.eye(len(soft.labels), dtype=np.float32)[[2] * len(soft)]
    monkeypatch.setattr(Run, "soft_labels", lambda _: dataclasses.replace(soft, probabilities=probabilities))
    shutil.rmtree(made.report.path)
    warning, *_ = made.make_report()["warnings"]
    assert warning.startswith(f"the teacher says {soft.labels[2]!r} for each of")
    assert f"**Warning:** {warning}." in (made.report.path / "report.md").read_text()


def test_the_report_warns_of_ceilings_that_tolerate_much(exported, gap):
    assert exported.warnings()  # the fixture's validation split has 60 rows
    assert set(exported.warnings()) <= set(gap["warnings"])


def test_the_export_and_the_card_say_which_live_gap_is_too_large(exported):
    said = dict(line.split(": ", 1) for line in exported.promises())
    for name, bundle in exported.bundles().items():
        reference = Reference.open(bundle)
        assert f"it shall stay below {100 * reference.slo:.1f} %" in said[name]
        assert f"tolerate {100 * reference.tolerated:.1f} %" in said[name]
        card = (bundle.path / CARD).read_text()
        assert f"shall stay below {100 * reference.slo:.2f} %" in card
        assert f"tolerate {100 * reference.tolerated:.2f} %" in card


def test_the_report_says_what_was_compared_with_what(exported, gap):
    soft = exported.run.soft_labels()
    assert gap["task"] == "keywords"
    assert gap["chosen"] == Bundle.open(exported.chosen.path).manifest.name
    assert gap["data"] == exported.run.splits().report
    assert gap["budget"] == exported.task.budget.model_dump()
    rows = soft.rows_of(exported.run.splits().test.ids)
    reliability = gap["teacher"].pop("reliability")
    assert reliability["before"] == reliability["after"]  # it was not calibrated
    assert gap["teacher"] == {
        "name": "local:tiny-bert",
        "version": soft.teacher_version,
        "methods": ["local"],
        "milliseconds": Bundle.open(exported.bundle_stage(TEACHER).path).manifest.measured["milliseconds"],
        "in_batches": False,
        "usd_per_1000": pytest.approx(soft.cost_usd[rows].mean() * 1000),
        "covered": 1.0,
        "tail": 0.0,
        "labelled": {"rows": len(soft), "refused": 0, "invalid": 0},
        "calibration": None,
        "self_agreement": None,
        "terms": [],
    }
    assert gap["teacher"]["usd_per_1000"] == pytest.approx(soft.seconds[rows].mean() * 1000 * 3.6 / 3600)


def test_the_time_of_a_teacher_without_a_bundle_is_a_share_of_a_batch(exported, monkeypatch):
    monkeypatch.setattr(ExportRun, "_teacher_bundle", lambda _: None)
    time = exported._teacher_time(np.array([0.001, 0.003]))
    assert time == {"milliseconds": pytest.approx(2.0), "in_batches": True}


def test_the_report_has_numbers_text_and_figures(exported, gap):
    folder = exported.report.path
    names = {path.name for path in folder.iterdir()}
    assert names >= {GAP, "report.html", "report.md", "reliability.png", "frontier.png", "stage.json"}
    for name in ("reliability.png", "frontier.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    text = (folder / "report.md").read_text()
    assert f"Chosen student: {gap['chosen']}." in text
    for name in STUDENTS:
        assert f"{100 * gap['students'][name]['gap']['agreement']['value']:.1f} %" in text


def test_rows_that_the_teacher_refused_are_left_out_of_everything(copy, monkeypatch):
    made = copy()
    splits, soft = made.run.splits(), made.run.soft_labels()
    refused = {*splits.validation.ids[:5], *splits.test.ids[:7]}
    kept = [row for row, name in enumerate(soft.ids) if name not in refused]
    values: dict[str, Any] = {item.name: getattr(soft, item.name) for item in dataclasses.fields(soft)}
    rows: dict[str, Any] = {
        name: tuple(value[row] for row in kept) if isinstance(value, tuple) else value[kept]
        for name, value in values.items()
        if name not in ("labels", "teacher", "teacher_version", "raw", "scaling", "terms")
    }
    few = dataclasses.replace(soft, **rows)
    monkeypatch.setattr(Run, "soft_labels", lambda run: few)
    shutil.rmtree(made.bundle_stage("small").path)
    shutil.rmtree(made.report.path)
    made.make_bundles()
    assert made.bundles()["small"].manifest.measured["validation_rows"] == len(splits.validation) - 5
    assert made.make_report()["students"]["small"]["gap"]["rows"] == len(splits.test) - 7


def test_without_gold_labels_the_report_speaks_of_agreement_alone(copy, monkeypatch):
    made = copy()
    splits = made.run.splits()
    test = dataclasses.replace(splits.test, gold=(None,) * len(splits.test))
    monkeypatch.setattr(Run, "splits", lambda run: dataclasses.replace(splits, test=test))
    shutil.rmtree(made.report.path)
    own = made.make_report()["students"]["small"]["gap"]
    assert own["student_accuracy"] is own["teacher_accuracy"] is own["retention"] is own["loss"] is None
    assert 0 < own["agreement"]["value"] <= 1


# A teacher that was calibrated

TERMS = {"acknowledged": True, "reference": "https://example.org/terms"}
_CHANGE = {when: {"value": 0.5, "lower": 0.4, "upper": 0.6} for when in ("before", "after")}
CALIBRATION = {
    "scaling": {"method": "vector"},
    "reason": "asked for",
    "rows": 480,
    **{measure: _CHANGE for measure in ("log_loss", "calibration_error", "accuracy")},
}
SCALING = Scaling((1.0, 1.0, 1.0, 1.0), (30.0, 0.0, 0.0, 0.0))  # nothing but the first label is ever first


def test_a_teacher_that_cannot_be_exported_has_no_bundle_and_the_report_warns_of_it(copy, monkeypatch):
    made = copy()
    for stage in (made.bundle_stage(TEACHER), made.report):
        shutil.rmtree(stage.path)
    monkeypatch.setattr(torch.onnx, "export", no_operator)
    assert made.make_bundles() == Bundle.open(made.chosen.path)
    assert not made.bundle_stage(TEACHER).path.exists()
    (warning,) = (each for each in made.make_report()["warnings"] if "no bundle of the teacher" in each)
    assert "a bert model cannot be exported as ONNX (an operator has no ONNX form)" in warning


def test_a_student_that_cannot_be_exported_is_an_error(copy, monkeypatch):
    made = copy()
    shutil.rmtree(made.bundle_stage("large").path)
    monkeypatch.setattr(torch.onnx, "export", no_operator)
    with pytest.raises(DistillError, match="a bert model cannot be exported as ONNX"):
        made.make_bundles()


@pytest.fixture
def calibrated(copy, monkeypatch):
    """The run as it would be had its teacher been calibrated, asked twice, and had terms; only `small` is exported."""
    made = copy()
    for name in ("small", TEACHER):
        shutil.rmtree(made.bundle_stage(name).path)
    shutil.rmtree(made.report.path)
    soft = dataclasses.replace(made.run.soft_labels().calibrated(SCALING), terms=(TERMS,))
    record = made.run.labels.path / RECORD
    found = {"refused": 3, "invalid": 2, "calibration": CALIBRATION, "self_agreement": CONSTANT.as_dict()}
    content = json.dumps({**json.loads(record.read_text()), **found})
    record.write_text(content)
    stage = json.loads((made.run.labels.path / "stage.json").read_text())
    stage["files"][RECORD] = len(content)
    (made.run.labels.path / "stage.json").write_text(json.dumps(stage))
    monkeypatch.setattr(Run, "soft_labels", lambda run: soft)
    made.make_bundles()
    return made


def test_a_students_bundle_says_how_its_teacher_was_calibrated_and_on_what_terms(calibrated):
    soft = calibrated.run.soft_labels()
    bundle = verify(calibrated.bundle_stage("small").path)
    assert bundle.manifest.teacher == {
        "name": soft.teacher,
        "version": soft.teacher_version,
        "calibration": SCALING.as_dict(),
        "terms": [TERMS],
    }
    assert Scaling.from_dict(bundle.manifest.teacher["calibration"], 4) == SCALING
    assert "its terms were acknowledged: https://example.org/terms" in (bundle.path / CARD).read_text().lower()


def test_a_student_is_compared_with_the_calibrated_teacher(calibrated):
    validation, taught = on_split(calibrated, "validation")
    assert set(taught.argmax(1)) == {0}
    bundle = calibrated.bundles()["small"]
    follows = (Classifier.load(bundle).probabilities(validation.texts).argmax(1) == 0).mean()
    assert bundle.manifest.measured["validation_agreement"] == pytest.approx(follows)
    assert Reference.open(bundle).gap == pytest.approx(1 - follows)


def test_the_teachers_own_bundle_is_the_teacher_as_it_was(calibrated):
    manifest = Bundle.open(calibrated.bundle_stage(TEACHER).path).manifest
    assert manifest.measured["validation_agreement"] == 1.0
    assert "calibration" not in manifest.teacher


def test_what_was_found_out_about_the_teacher_is_reported(calibrated):
    gap = calibrated.make_report()
    assert gap["teacher"]["labelled"] == {"rows": len(calibrated.run.soft_labels()), "refused": 3, "invalid": 2}
    assert gap["teacher"]["calibration"] == CALIBRATION
    assert gap["teacher"]["self_agreement"] == CONSTANT.as_dict()
    assert gap["teacher"]["terms"] == [TERMS]
    text = (calibrated.report.path / "report.md").read_text()
    for part in ("refused 3", "by construction", TERMS["reference"], "a scale and a bias per label"):
        assert part in text


def test_self_agreement_alone_changes_the_report_and_no_bundle(exported):
    labelling = exported.task.labelling.model_copy(update={"self_agreement": 9})
    other = ExportRun(Run(exported.task.model_copy(update={"labelling": labelling}), exported.run.root))
    assert other.chosen.fingerprint == exported.chosen.fingerprint
    assert other.report.fingerprint != exported.report.fingerprint


def test_the_decision_of_a_task_is_in_the_students_bundles_and_in_the_report(copy):
    made = copy(decision=Abstain(kind="abstain", coverage=0.7, novelty=0.9))
    made.make_bundles()
    report = made.make_report()
    test, teacher = on_split(made, "test")
    for name, bundle in made.bundles().items():
        decision, classifier = Decision.open(bundle), Classifier.load(bundle)
        answers = [classifier.classify(text) for text in test.texts]
        actions = [decision.act(answer.probabilities, answer.embedding) for answer in answers]
        novel = decision.novel(np.stack([answer.embedding for answer in answers]))
        followed = [decision.actions[action] for action in decision.choose(teacher, novel)]
        found = report["students"][name]["decision"]
        assert found["student_decided"]["value"] == pytest.approx(np.mean([action != "abstain" for action in actions]))
        assert found["agreement"]["value"] == pytest.approx(np.mean(np.array(actions) == np.array(followed)))
        assert found["agreement"]["lower"] < found["agreement"]["value"]
        assert "`decision.npz`" in (bundle.path / CARD).read_text()
    assert Decision.open(Bundle.open(made.bundle_stage(TEACHER).path)) is None
    assert "| decision: agreement with teacher |" in (made.report.path / "report.md").read_text()


def test_a_decision_about_labels_that_the_data_lacks_is_refused_with_the_data(exported):
    task = exported.task.model_copy(update={"decision": Threshold(kind="threshold", at=0.5, otherwise="nowhere")})
    with pytest.raises(TaskError, match=r"decision\.otherwise: 'nowhere' is no label"):
        Run(task, exported.run.root).make_data()


# A cascade of the students


def test_a_cascade_that_too_few_rows_certify_is_not_built_and_the_report_says_why(exported, gap):
    bundle, reason = exported.cascades.made()
    assert bundle is None
    assert re.match(r"(\d+ validation rows certify no margin of 0\.5 points|no other student takes)", reason)
    assert gap["cascade"] == {"name": None, "reason": reason}
    assert f"No cascade was built: {reason}." in (exported.report.path / "report.md").read_text()


def test_a_cascade_that_is_asked_for_is_built_and_evaluated_as_any_student(copy, monkeypatch):
    made = copy(cascade=Cascade(stages=("small", "large"), margin=0.9))
    chosen = made.chosen.fingerprint
    forbid(monkeypatch, module, "build_bundle")
    made.make_bundles()
    assert made.chosen.fingerprint == chosen
    bundle, reason = made.cascades.made()
    assert bundle is not None
    assert verify(bundle.path).manifest.name == "small+large"
    assert "at most 90 points fewer" in reason
    report = made.make_report()
    own = report["students"]["small+large"]
    test, teacher = on_split(made, "test")
    answers = load_classifier(bundle).probabilities(test.texts)
    assert own["gap"]["agreement"]["value"] == pytest.approx((answers.argmax(1) == teacher.argmax(1)).mean())
    assert sum(own["shares"].values()) == pytest.approx(1.0)
    assert [*own["shares"]] == ["0-small", "1-large"]
    assert own["parameters"] == sum(report["students"][name]["parameters"] for name in STUDENTS)
    text = (made.report.path / "report.md").read_text()
    assert bundle.manifest.measured["guarantee"] in text
    assert "| 0-small | 100.0 % |" in text


def test_a_cascade_that_defers_is_evaluated_as_it_is_served(copy):
    """The texts that are left to the teacher have its answers; the report says how many, and what is guaranteed."""
    made = copy(cascade=Cascade(stages=("small",), defer=0.9))
    made.make_bundles()
    bundle, reason = made.cascades.made()
    assert bundle is not None, reason
    assert verify(bundle.path).manifest.name == "small+teacher"
    assert "on at least 90 % of all requests" in reason
    report = made.make_report()
    own, alone = report["students"]["small+teacher"], report["students"]["small"]
    test, teacher = on_split(made, "test")
    answers = [load_classifier(bundle).classify(text) for text in test.texts]
    deferred = np.array([is_deferred(answer, bundle.manifest) for answer in answers])
    assert 0 < deferred.mean() < 1
    right = np.array([answer.best for answer in answers]) == teacher.argmax(1)
    assert own["gap"]["agreement"]["value"] == pytest.approx((right | deferred).mean())
    assert own["shares"] == pytest.approx({"0-small": 1 - deferred.mean(), "teacher": deferred.mean()})
    assert own["parameters"] == alone["parameters"]
    paid = report["teacher"]["usd_per_1000"] * deferred.mean()
    assert own["usd_per_1000"] == pytest.approx(alone["usd_per_1000"] + paid, rel=0.01)
    text = (made.report.path / "report.md").read_text()
    assert bundle.manifest.measured["guarantee"] in text
    assert "| teacher |" in text
    assert "This holds while the teacher answers." in text


def test_without_a_cascade_none_is_built(copy):
    made = copy(cascade=Cascade(build=False))
    made.make_bundles()
    assert made.cascades.made() == (None, "cascade.build is false")


@pytest.mark.parametrize(
    "before", [Cascade(stages=("small", "large"), margin=0.9), Cascade(stages=("small",), defer=0.5)]
)
def test_a_cascade_that_the_task_no_longer_has_is_removed(copy, before):
    made = copy(cascade=before)
    made.make_bundles()
    assert made.cascades.made()[0] is not None
    folder = made.run.root / "cascade"
    task = made.task.model_copy(update={"students": {"small": made.task.students["small"]}, "cascade": Cascade()})
    without = ExportRun(Run(task, made.run.root))
    without.make_bundles()
    assert without.cascades.made() == (None, "the task has one student")
    assert sorted(path.name for path in folder.iterdir()) == [CASCADE, stages.RECORD]


def test_stages_may_be_named_or_be_folders_of_bundles(copy, tmp_path):
    made = copy()
    folder = made.bundle_stage("small").path
    bundle, measured = made.cascades.make([str(folder), "large"], tmp_path / "cascade", 0.9)
    assert bundle.path == tmp_path / "cascade"
    assert verify(bundle.path).manifest.stages[0].name == "0-small"
    assert measured.cut_offs.margin == 0.9
    again, _ = made.cascades.make(["small", "large"], margin=0.9)
    assert again.path == made.run.root / "cascades" / "small+large"
    with pytest.raises(DistillError, match="nobody: is neither a student of the task, which has large, small, nor a"):
        made.cascades.make(["nobody", "large"], margin=0.9)
    with pytest.raises(DistillError, match=r"47 validation rows cannot certify a margin of 0\.2 points"):
        made.cascades.make(["small", "large"], margin=0.002)
    chosen = made.choose().manifest.name
    for stage in (chosen, str(made.bundle_stage(chosen).path), str(made.chosen.path)):
        with pytest.raises(DistillError, match=r"have the same version, .*; name each stage once"):
            made.cascades.make([str(made.chosen.path), stage], margin=0.9)
        with pytest.raises(DistillError, match=r"have the same version, .*; name each stage once"):
            made.cascades.make([stage, stage], margin=0.9)


def test_a_cascade_replaces_a_cascade_and_nothing_else(copy, tmp_path):
    made = copy()
    small, target = shutil.copytree(made.bundle_stage("small").path, tmp_path / "small"), tmp_path / "new" / "cascade"
    (small / stages.RECORD).unlink()
    (tmp_path / "notes.txt").write_text("mine")
    for taken, message in (
        (tmp_path / "notes.txt", "something else than a bundle"),
        (made.run.root, "is read to make it"),
        (small, "is read to make it"),
        (made.chosen.path, rf"holds {stages.RECORD} beside a bundle"),
    ):
        before = state(tmp_path)
        with pytest.raises(DistillError, match=message):
            made.cascades.make([str(small), "large"], taken, 0.9)
        assert state(tmp_path) == before
    (tmp_path / "new" / ".cascade-0a_9z8y7").mkdir(parents=True)  # what a killed process left
    for _ in range(2):
        assert verify(made.cascades.make([str(small), "large"], target, 0.9)[0].path).manifest.name == "small+large"
    assert [path.name for path in target.parent.iterdir()] == ["cascade"]
