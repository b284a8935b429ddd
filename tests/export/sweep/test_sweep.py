"""A sweep measures what it trains, goes on after a failure and where it was, and picks the best within limits."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from distill.errors import DistillError
from distill.run import RECORD, Run
from distill.sections import FileSource
from distill.students.config import EmbeddingPhase, EncoderStudent, NgramsStudent
from distill.task import Cascade, Prune
from distill.task import Sweep as Section
from export import build_cascade
from export.bundle.format import Bundle
from export.run import ExportRun
from export.sweep import sweep as module
from export.sweep.front import Limits
from export.sweep.report import table
from export.sweep.sweep import RESULT, Sweep

MILLISECONDS = {"ngrams": 0.01, "static": 0.02, "cascade": 0.05, "encoder": 0.5}


@pytest.fixture
def measured(monkeypatch):
    """The bundles that were measured: each family takes a time of its own."""
    names: list[str] = []

    def measure(bundle: Bundle, texts: Any) -> dict[str, Any]:
        names.append(bundle.manifest.name)
        one = MILLISECONDS[bundle.manifest.family]
        times = {"p50": one, "p99": 2 * one, "mean": one, "runs": 100}
        both = {"alone": times, "together": times}
        return {**both, "texts_per_second": 32_000 / one, "by_length": {"16": both}, "memory_mib": 90.0}

    monkeypatch.setattr(module, "measure_bundle", measure)
    return names


@pytest.fixture
def sweep(exported, tiny_encoder, measured, tmp_path):
    """`sweep(**changes)`: the sweep of a run whose students are trained, and of two more, one of which cannot be."""
    root = shutil.copytree(exported.run.root, tmp_path / "run")
    model = str(tiny_encoder)
    more = {
        "ngrams": NgramsStudent(family="ngrams", model=model, buckets=256, width=8, max_tokens=32),
        "deep": EncoderStudent(family="encoder", model=model, layers=9, max_tokens=32),
    }

    def make(**changes):
        given = {"sweep": Section(students=more), **changes}
        return Sweep(Run(exported.task.model_copy(update=given), root))

    return make


def by_name(result):
    return {one["name"]: one for one in result["candidates"]}


def test_a_candidate_that_fails_is_shown_with_its_reason_and_does_not_stop_the_others(sweep):
    told: list[str] = []
    found = sweep().make(Limits(), told.append)
    reason = "layers 9: the model has 3; set layers to 1 to 3"
    assert reason in by_name(found)["deep"]["failed"]
    assert told == [f"deep failed: {by_name(found)['deep']['failed']}"]
    assert [name for name, one in by_name(found).items() if "failed" not in one] == ["large", "small", "ngrams"]


def test_students_that_will_fail_are_told_before_anything_is_trained(sweep):
    [warning] = sweep().warnings()
    assert warning.startswith("sweep.students.deep.layers: layers 9: the model has 3; set layers to 1 to 3")
    assert warning.endswith("; `reflux sweep` goes on without it")


def test_a_rung_of_the_default_ladder_that_will_fail_is_told_too(sweep, exported):
    assert sweep(sweep=None).warnings() == []
    pruned = exported.task.export.model_copy(update={"prune": (Prune(heads=0.2),)})
    [warning] = sweep(sweep=None, export=pruned).warnings()
    assert warning.startswith("layers-1: export.prune: heads: 0.2 of 2 is 0;")


def test_each_is_measured_by_the_bundle_that_would_be_served(sweep, exported):
    made = sweep()
    found = made.make(Limits())
    for one in found["candidates"]:
        if "failed" not in one:
            bundle = Bundle.open(made.run.root / one["folder"])
            assert one["bundle"] == bundle.manifest.version
            expected = bundle.manifest.measured["validation_agreement"]
            assert one["agreement"]["value"] == pytest.approx(expected)
            assert one["retention"]["lower"] <= one["retention"]["value"] <= one["retention"]["upper"]
    assert by_name(found)["large"]["usd_per_million"] == pytest.approx(0.5 / 3600 * 1000 * 0.36)
    assert by_name(found)["small"]["folder"] == "bundles/small"
    assert exported.bundle_stage("small").done


def test_the_result_is_written_as_json_text_and_picture(sweep):
    made = sweep()
    found = made.make(Limits(latency_ms=0.03))
    assert json.loads((made.folder / RESULT).read_text()) == found
    text = (made.folder / "sweep.md").read_text()
    assert found["verdict"] in text.replace("\\", "")
    assert "deep: " in text
    for name in ("small", "large", "ngrams"):
        assert f"| {name}" in text
    assert (made.folder / "front.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_made_twice(sweep, measured):
    sweep().make(Limits())
    assert sorted(measured) == ["large", "ngrams", "small"]
    students = sweep().run.root / "students"
    before = {path: path.stat().st_mtime_ns for path in students.rglob("*")}
    sweep().make(Limits(latency_ms=0.03))
    assert len(measured) == 3
    assert {path: path.stat().st_mtime_ns for path in students.rglob("*")} == before


@pytest.fixture
def relabelled(exported, measured, write_csv, tmp_path):
    """`relabelled(gold)`: what a sweep says of its one student, with these gold labels of the validation rows."""
    own, tiny = tmp_path / "validation.csv", exported.task.students["small"]
    data = exported.task.data.model_copy(update={"validation": FileSource(path=own, label="label")})
    task = exported.task.model_copy(update={"data": data, "students": {"small": tiny}, "sweep": Section()})
    texts = exported.run.splits().validation.texts

    def make(gold):
        write_csv(own, zip(texts, gold, strict=True))
        run = Run(task, tmp_path / "run")
        run.make_data()
        run.make_labels()
        return by_name(Sweep(run).make(Limits()))["small"]

    return make


def test_quality_is_judged_anew_where_gold_labels_were_corrected_and_times_are_not_measured_again(
    relabelled, exported, labels, measured
):
    gold = exported.run.splits().validation.gold
    before = relabelled([labels[labels.index(each) - 1] for each in gold])
    after = relabelled(gold)
    assert before["bundle"] == after["bundle"]
    assert measured == ["small"]
    assert before["teacher_accuracy"]["value"] < 0.5 < after["teacher_accuracy"]["value"]
    assert before["agreement"] == after["agreement"]


def test_an_interrupted_sweep_goes_on_where_it_was(sweep, measured, monkeypatch):
    measure = vars(module)["measure_bundle"]

    def interrupted(bundle: Bundle, texts: Any) -> dict[str, Any]:
        if bundle.manifest.name == "small":
            raise KeyboardInterrupt
        return measure(bundle, texts)

    monkeypatch.setattr(module, "measure_bundle", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep().make(Limits())
    monkeypatch.setattr(module, "measure_bundle", measure)
    sweep().make(Limits())
    assert measured == ["large", "small", "ngrams"]


def test_the_best_within_the_limits_is_picked_or_none(sweep):
    made = sweep()
    agreement = {
        name: one["agreement"]["value"] for name, one in by_name(made.make(Limits())).items() if "bundle" in one
    }
    assert made.make(Limits(latency_ms=10))["chosen"] == max(agreement, key=lambda name: agreement[name])
    quick = made.make(Limits(latency_ms=0.01))
    assert quick["chosen"] == "ngrams"
    none = made.make(Limits(latency_ms=0.001))
    assert none["chosen"] is None
    assert "No candidate is within 0.001 ms: the fastest, ngrams, takes 0.01 ms" in none["verdict"]
    assert made.make(Limits())["chosen"] is None


def test_the_fastest_is_the_same_in_the_table_on_the_front_and_without_a_candidate_within_the_limit(sweep, monkeypatch):
    measure = vars(module)["measure_bundle"]

    def now_and_then_slow(bundle: Bundle, texts: Any) -> dict[str, Any]:
        found = measure(bundle, texts)
        slow = {"mean": 0.6} if bundle.manifest.family == "ngrams" else {}
        return {**found, "alone": {**found["alone"], **slow}}

    monkeypatch.setattr(module, "measure_bundle", now_and_then_slow)
    made = sweep()
    found = made.make(Limits())
    assert found["verdict"].startswith("On the front, the fastest first: ngrams")
    assert table(found)[1][0][0].startswith("ngrams")
    assert "the fastest, ngrams, takes 0.01 ms" in made.make(Limits(latency_ms=0.001))["verdict"]


def test_a_student_of_the_sweep_alone_may_be_fitted_to_the_teachers_embeddings_first(sweep, tiny_encoder):
    phased = NgramsStudent(
        family="ngrams",
        model=str(tiny_encoder),
        buckets=256,
        width=8,
        max_tokens=32,
        embedding_phase=EmbeddingPhase(epochs=1),
    )
    made = sweep(sweep=Section(students={"ngrams": phased}))
    made.run.make_labels()
    assert "failed" not in by_name(made.make(Limits()))["ngrams"]
    record = json.loads((made.run.root / "students" / "ngrams" / RECORD).read_text(encoding="utf-8"))
    assert len(record["embedding_phase"]["losses"]) == 1


def test_a_cascade_is_a_candidate_like_any(sweep, monkeypatch):
    monkeypatch.setattr(build_cascade, "CHEAPER", 1e9)  # whatever their times, which are real here, each pays
    found = sweep(cascade=Cascade(margin=0.5)).make(Limits())
    cascades = [one for one in found["candidates"] if one.get("family") == "cascade"]
    assert cascades
    for one in cascades:
        assert one["folder"] == f"sweep/cascades/{one['name']}"
        assert one["agreement"]["value"] > 0


def test_a_cascade_that_cannot_be_certified_is_said_not_to_be_built(sweep, monkeypatch):
    monkeypatch.setattr(build_cascade, "CHEAPER", 1e9)
    found = sweep(cascade=Cascade(margin=1e-4)).make(Limits())
    assert found["not_built"]
    assert all("rows" in why for why in found["not_built"].values())
    assert not [one for one in found["candidates"] if one.get("family") == "cascade"]


def test_a_sweep_in_which_everything_fails_is_an_error(sweep, monkeypatch):
    monkeypatch.setattr(ExportRun, "make_bundle", lambda self, name: 1 / 0)
    with pytest.raises(DistillError, match="no candidate of the sweep could be made; the first: division by zero"):
        sweep().make(Limits())
