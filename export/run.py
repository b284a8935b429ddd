"""The stages of a run after training: export every student, choose one, and evaluate all on the test split.

`bundles/NAME` (and `bundles/teacher`, for the shadow of a fine-tuned teacher) → `bundle` → `cascade` → `report`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from distill.comparisons import Comparisons
from distill.data.prepared import Splits
from distill.data.splits import S, Test
from distill.errors import DistillError
from distill.evaluation.comparisons import compare_ways
from distill.evaluation.constant_answers import student_warnings, teacher_warnings
from distill.evaluation.gap import SCHEMA
from distill.evaluation.report.write import write_report
from distill.labelling.soft_labels import SoftLabels
from distill.presets import preset_keys
from distill.run import RECORD, Run
from distill.sections import walk
from distill.stages import Stage, fingerprint, write_atomic
from distill.students.student import load_student
from distill.teachers.names import Name
from export.build import Baseline, build_bundle
from export.build_cascade import JOINED, cascade_warnings
from export.bundle.format import Bundle, BundleError
from export.bundle.reference import Reference
from export.bundle.target import alone, require_replaceable
from export.bundle.teacher import BundleTeacherConfig, origin_of, own_name
from export.cascades import Cascades
from export.evaluate import Judge, Prices, answers, entry, teacher_reliability
from export.fit_reference import ceiling_warning
from export.torch_to_onnx import NotExportableError
from export.witness import Witness, make_witness

GAP = "gap.json"
TEACHER = "teacher"

_BATCHED = {"local", "causal"}
"""The kinds of teachers that answer many texts at once, on all threads: a text's time is a share of a batch's."""


class ExportRun:
    """The stages that follow a `Run`, in the same folder."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.task = run.task
        self.comparisons = Comparisons(run)
        self.cascades = Cascades(run, self.bundles, lambda: self.chosen, self._student_baseline)
        self._no_teacher_bundle: str | None = None

    def bundle_stage(self, name: str) -> Stage:
        """The bundle of a student, or of the fine-tuned teacher."""
        teacher = self.run.finetuned_teacher
        source = teacher.fingerprint if name == TEACHER and teacher else self.run.student(name).fingerprint
        settings = self.task.export.model_dump(mode="json") if name != TEACHER else {}
        if not settings.get("trim_vocabulary"):
            settings.pop("trim_vocabulary", None)  # bundles older than this key are still up to date
        labels = fingerprint(self.run.label_inputs)
        inputs = {"source": source, "export": settings, "labels": labels, "name": self.task.name}
        if self.task.decision is not None and name != TEACHER:
            inputs["decision"] = self.task.decision.model_dump(mode="json")
        return Stage(self.run.root / "bundles" / name, inputs)

    @property
    def chosen(self) -> Stage:
        """The bundle to serve."""
        names = sorted(self.task.students)
        inputs = {
            "bundles": {name: self.bundle_stage(name).fingerprint for name in names},
            "budget": self.task.budget.model_dump(),
        }
        return Stage(self.run.root / "bundle", inputs)

    @property
    def report(self) -> Stage:
        """The gap report."""
        inputs = {"schema": SCHEMA, "cascade": self.cascades.stage.fingerprint, "labels": self.run.labels.fingerprint}
        if self.task.compared:
            inputs["comparisons"] = list(self.task.compared)
        for key in ("usd_per_hour", "usd_per_1000"):
            if price := getattr(self.task.teacher, key, None):
                inputs[key] = price
        if self.task.preset is not None:
            inputs["preset"] = self.task.preset
        teacher = self._teacher_bundle()
        inputs["teacher"] = teacher and teacher.manifest.measured["milliseconds"]
        return Stage(self.run.root / "report", inputs)

    def make_bundles(self) -> Bundle:
        """Export every student and the fine-tuned teacher, copy the chosen bundle to `bundle`, and return it.

        A cascade of the students is built, too, if it is worth while. A teacher whose architecture cannot be exported
        has no bundle, and `warnings` says so.
        """
        for name in self.task.students:
            self.make_bundle(name)
        if self.run.finetuned_teacher is not None:
            self._make_teacher_bundle()
        self.chosen.ensure(lambda folder: _copy(self.choose(), folder))
        self.cascades.ensure()
        return Bundle.open(self.chosen.path)

    def make_bundle(self, name: str) -> Bundle:
        """Export a student unless its bundle is up to date, and return the bundle."""
        self.run.student(name).require("train")
        return Bundle.open(self.bundle_stage(name).ensure(lambda folder: self._export(folder, name)))

    def bundles(self) -> dict[str, Bundle]:
        """The students' bundles."""
        return {name: Bundle.open(self.bundle_stage(name).require("export")) for name in self.task.students}

    def choose(self) -> Bundle:
        """Return, of the bundles within the latency budget, the one that agrees best with the teacher on validation.

        Raises DistillError when none is fast enough.
        """
        limit = self.task.budget.latency_ms
        bundles = list(self.bundles().values())
        affordable = [b for b in bundles if limit is None or b.manifest.measured["milliseconds"] <= limit]
        if not affordable:
            speeds = ", ".join(f"{b.manifest.name}: {b.manifest.measured['milliseconds']:.2f} ms" for b in bundles)
            raise DistillError(
                f"no student answers within {limit} ms on this machine ({speeds}); "
                "raise budget.latency_ms or add a smaller student"
            )
        return max(affordable, key=_rank)

    def make_witness(self, student: str | None = None, by: str | None = None) -> Witness:
        """Make the witness of a student in the folder `witnesses/STUDENT`, from the bundle of another one.

        By default `student` is the chosen one, and `by` the other one that agrees best with the teacher on validation.
        Raises DistillError for a student that the task does not have, and when the other one is no better.
        """
        bundles = self.bundles()
        student = student or Bundle.open(self.chosen.require("export")).manifest.name
        others = {name: bundle for name, bundle in bundles.items() if name != student}
        by = by or max(others, key=lambda name: _rank(others[name]), default="a second one")
        for name, known in ((student, bundles), (by, others)):
            if name not in known:
                raise DistillError(f"a witness needs two students of the task; it has {', '.join(bundles)}, not {name}")
        agreements = [bundles[name].manifest.measured["validation_agreement"] for name in (student, by)]
        if agreements[0] >= agreements[1]:
            raise DistillError(
                f"{by} agrees with the teacher on {100 * agreements[1]:.1f} % of the validation split, no more than "
                f"{student} ({100 * agreements[0]:.1f} %); only a better student is a witness that saves calls"
            )
        splits, soft = self.run.splits(), self.run.soft_labels()
        baseline = self._baseline(splits, soft, soft.probabilities)
        path = require_replaceable(self.run.root / "witnesses" / student)
        with alone(path):
            return make_witness(bundles[student], bundles[by], path, baseline)

    def make_report(self) -> dict[str, Any]:
        """Evaluate every bundle on the test split, write the report unless it is up to date, and return `gap.json`."""
        self.chosen.require("export")
        self.report.ensure(self._evaluate)
        gap: dict[str, Any] = json.loads((self.report.path / GAP).read_text(encoding="utf-8"))
        return gap

    def promises(self) -> list[str]:
        """Say of each student which live gap is too large."""
        return [
            f"{name}: its gap is {100 * found.gap:.1f} % of {found.rows.sum():.0f} validation rows; live, it shall "
            f"stay below {100 * found.slo:.1f} %, and the ceilings of its confidence bands tolerate "
            f"{100 * found.tolerated:.1f} %"
            for name, found in self._references().items()
        ]

    def warnings(self) -> list[str]:
        """Warn of students whose ceilings tolerate far more than their gap on validation, and of a useless cascade.

        Where `make_bundles` could not export the teacher, warn of that first.
        """
        ceilings = (ceiling_warning(name, found) for name, found in self._references().items())
        cascade, _ = self.cascades.made()
        return [
            *(() if self._no_teacher_bundle is None else (self._no_teacher_bundle,)),
            *(warning for warning in ceilings if warning is not None),
            *(() if cascade is None else cascade_warnings(cascade.manifest)),
        ]

    def _references(self) -> dict[str, Reference]:
        """The references of the students that can be shadowed."""
        return {
            name: Reference.open(found) for name, found in self._evaluated().items() if not found.manifest.multi_label
        }

    def _export(self, folder: Path, name: str) -> None:
        build_bundle(
            load_student(self.run.student(name).path),
            folder,
            name=name,
            baseline=self._student_baseline(),
            settings=self.task.export,
            teacher=teacher_entry(self.run, self.run.soft_labels()),
            decision=self.task.decision,
        )

    def _make_teacher_bundle(self) -> None:
        """Export the teacher unless its bundle is up to date; what has no ONNX graph still teaches."""
        self._no_teacher_bundle = None
        try:
            self.bundle_stage(TEACHER).ensure(self._export_teacher)
        except NotExportableError as error:
            self._no_teacher_bundle = f"there is no bundle of the teacher, which a service could shadow: {error}"

    def _export_teacher(self, folder: Path) -> None:
        """Export the teacher without quantisation and calibration: the shadow must ask the teacher itself."""
        teacher = self.run.finetuned_teacher
        if teacher is None:
            raise TypeError("there is no fine-tuned teacher to export")
        splits, soft = self.run.splits(), self.run.soft_labels()
        build_bundle(
            load_student(teacher.require("label")),
            folder,
            name=f"{self.task.name}-teacher",
            baseline=self._baseline(splits, soft, soft.probabilities if soft.raw is None else soft.raw),
            settings=self.task.export.model_copy(update={"variant": "fp32", "trim_vocabulary": False, "prune": ()}),
            teacher={"name": soft.teacher, "version": soft.teacher_version},
            role="teacher",
        )

    def _teacher_bundle(self) -> Bundle | None:
        """The bundle of the fine-tuned teacher; None where there is none."""
        if self.run.finetuned_teacher is None:
            return None
        stage = self.bundle_stage(TEACHER)
        return Bundle.open(stage.path) if stage.done else None

    def _student_baseline(self) -> Baseline:
        """What students are compared with: the calibrated teacher."""
        splits, soft = self.run.splits(), self.run.soft_labels()
        return replace(self._baseline(splits, soft, soft.probabilities), unseen=splits.test.texts)

    def _baseline(self, splits: Splits, soft: SoftLabels, said: npt.NDArray[np.float32]) -> Baseline:
        validation = _labelled(splits.validation, soft)
        rows = soft.rows_of(validation.ids)
        raw = None if soft.raw is None else soft.raw[rows]
        return Baseline(validation, said[rows], raw=raw, train=splits.train)

    def _evaluate(self, folder: Path) -> None:
        splits, soft = self.run.splits(), self.run.soft_labels()
        test = _labelled(splits.test, soft)
        judge, rows = Judge.of(test, soft), soft.rows_of(test.ids)
        teacher = {**_teacher_facts(soft, rows, self.run.labels.path), **self._teacher_time(soft.seconds[rows])}
        prices = self._prices(soft, teacher)
        students, given = {}, {}
        for name, bundle in self._evaluated().items():
            answered = answers(bundle, test.texts)
            given[name] = np.stack([answer.probabilities for answer in answered])
            parameters = sum(self._parameters(stage) for stage in name.split(JOINED) if stage != TEACHER)
            students[name] = {**entry(bundle, answered, judge, prices), "parameters": parameters}
        cascade, reason = self.cascades.made()
        gap = {
            "schema": SCHEMA,
            "task": self.task.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "teacher": {**teacher, "reliability": teacher_reliability(judge)},
            "students": students,
            "comparisons": self._comparisons(test, judge),
            "warnings": [
                *teacher_warnings(judge.teacher, splits.labels, judge.gold),
                *student_warnings(given, judge.teacher, splits.labels),
                *self.warnings(),
            ],
            "chosen": Bundle.open(self.chosen.path).manifest.name,
            "cascade": {"name": cascade and cascade.manifest.name, "reason": reason}
            if self.cascades.possible
            else None,
            "budget": self.task.budget.model_dump(),
            "preset": None
            if self.task.preset is None
            else {"name": self.task.preset, "keys": [asdict(one) for one in preset_keys(self.task)]},
            "data": splits.report,
        }
        write_atomic(folder / GAP, json.dumps(gap, indent=2, ensure_ascii=False) + "\n")
        write_report(gap, folder)

    def _evaluated(self) -> dict[str, Bundle]:
        """The students' bundles, and the cascade if there is one."""
        cascade, _ = self.cascades.made()
        return self.bundles() | ({} if cascade is None else {cascade.manifest.name: cascade})

    def _parameters(self, student: str) -> int:
        training = json.loads((self.run.student(student).path / RECORD).read_text(encoding="utf-8"))
        return int(training["parameters"])

    def _comparisons(self, test: Test, judge: Judge) -> dict[str, Any]:
        """Compare the students with themselves trained in other ways, before their export."""
        said, found = judge.teacher.argmax(1), {}
        for name in self.task.compared:
            folders = {"soft": self.run.student(name).path, **self._compared(name)}
            choices = {way: load_student(folder).logits(test.texts).argmax(1) for way, folder in folders.items()}
            ways = compare_ways(choices, choices["soft"], said, judge.gold)
            found[name] = {
                way: {"texts": len(self.comparisons.rows(way)[0]), **asdict(one)} for way, one in ways.items()
            }
        return found

    def _compared(self, name: str) -> dict[str, Path]:
        """Return the folders of a student trained in other ways."""
        return {way: self.comparisons.stage(name, way).require("train") for way in self.comparisons.ways(name)}

    def _teacher_time(self, seconds: npt.NDArray[np.floating]) -> dict[str, Any]:
        """Return the teacher's milliseconds per text, and whether they are shares of the time of batches.

        Of a teacher with a bundle they are measured as the students' are. Others have the `seconds` of their answers.
        """
        if (bundle := self._teacher_bundle()) is not None:
            return {"milliseconds": bundle.manifest.measured["milliseconds"], "in_batches": False}
        batched = any(key == "kind" and value in _BATCHED for key, value in walk(self.task.teacher))
        return {"milliseconds": float(np.mean(seconds) * 1000) if seconds.any() else None, "in_batches": batched}

    def _prices(self, soft: SoftLabels, teacher: dict[str, Any]) -> Prices:
        record = json.loads((self.run.labels.path / RECORD).read_text(encoding="utf-8"))
        by_the_hour = any(key == "usd_per_hour" for key, _ in walk(self.task.teacher))
        return Prices(
            usd_per_hour=self.task.budget.usd_per_hour,
            usd_per_1000=teacher["usd_per_1000"],
            labels_usd=max(float(record["spent_usd"]), float(soft.cost_usd.sum())),
            by_the_text=not by_the_hour,
        )


def _labelled(split: S, soft: SoftLabels) -> S:
    """Return the rows of a split that the teacher answered with a label."""
    known = set(soft.ids)
    return split.take([row for row, name in enumerate(split.ids) if name in known])


def _rank(bundle: Bundle) -> tuple[float, float]:
    """Rank by agreement; among equals, by speed."""
    measured = bundle.manifest.measured
    return float(measured["validation_agreement"]), -float(measured["milliseconds"])


def teacher_entry(run: Run, soft: SoftLabels) -> dict[str, Any]:
    """Describe the teacher of a run's labels for a student's manifest."""
    facts: dict[str, Any] = {"name": soft.teacher, "version": soft.teacher_version}
    if (origin := _origin(run.task.teacher, soft)) is not None:
        facts["origin"] = dict(zip(("name", "version"), origin, strict=True))
    if soft.scaling is not None:
        facts["calibration"] = soft.scaling.as_dict()
    if soft.terms:
        facts["terms"] = list(soft.terms)
    return facts


def _origin(teacher: BaseModel, soft: SoftLabels) -> Name | None:
    """Return what the bundle that labelled was exported from; None of a student, or if it is there no more."""
    if not isinstance(teacher, BundleTeacherConfig):
        return None
    try:
        manifest = Bundle.open(teacher.path).manifest
    except BundleError:
        return None
    return origin_of(manifest) if own_name(manifest) == (soft.teacher, soft.teacher_version) else None


def _teacher_facts(soft: SoftLabels, rows: list[int], labels: Path) -> dict[str, Any]:
    """Describe the teacher for the report: its name, its price per text, and the findings of labelling."""
    record = json.loads((labels / RECORD).read_text(encoding="utf-8"))
    return {
        "name": soft.teacher,
        "version": soft.teacher_version,
        "methods": sorted(set(soft.methods)),
        "usd_per_1000": float(soft.cost_usd[rows].mean() * 1000) if soft.cost_usd.any() else None,
        "covered": float(soft.covered.mean()),
        "tail": float(soft.tail.mean()),
        "labelled": {"rows": len(soft), "refused": record["refused"], "invalid": record["invalid"]},
        "calibration": record.get("calibration"),
        "self_agreement": record.get("self_agreement"),
        "terms": list(soft.terms),
    }


def _copy(bundle: Bundle, folder: Path) -> None:
    for name in (*bundle.manifest.files, "manifest.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.path / name, folder / name)
