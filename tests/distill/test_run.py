"""A run does what is missing and nothing else, however often it is called, changed, or killed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.special import softmax

from distill import preparation, progress, teachers
from distill.cross_fit import folds_of
from distill.data.views import source_of
from distill.errors import DataError, DistillError, StoppedError, TaskError
from distill.labelling.embeddings import Embeddings
from distill.run import Run
from distill.students import encoder
from distill.students.student import embed, load_student
from distill.task import load_task
from distill.teachers import Answer
from distill.training import distil
from tests.support import task_files
from tests.support.interrupted import epochs
from tests.support.stub_teacher import StubTeacher
from tests.support.task_files import LABELLED
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
TRAIN, TEST = 240, 60
GOLD = {"path": "gold.csv", "label": "label"}


class Job:
    """A task file with its data files in a folder, and the folder that it runs in."""

    def __init__(self, folder: Path, task: dict[str, Any], root: Path | None = None) -> None:
        self.folder, self.task, self.root = folder, task, root or folder / "run"

    @property
    def file(self) -> Path:
        path = self.folder / "task.yaml"
        path.write_text(yaml.safe_dump(self.task), encoding="utf-8")
        return path

    def open(self) -> Run:
        return Run(load_task(self.file), self.root)

    def copy(self, folder: Path, *leave: str) -> Job:
        """The job in another folder, without the parts of it that are named."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(*leave))
        return Job(folder, json.loads(json.dumps(self.task)))

    def labelled(self) -> Run:
        run = self.open()
        run.make_data()
        run.make_labels()
        return run

    def run(self) -> Run:
        run = self.labelled()
        for name in run.task.students:
            run.make_student(name)
        return run

    def stages(self) -> dict[str, int]:
        """Each finished stage with the time at which it was."""
        return {
            str(record.parent.relative_to(self.root)): record.stat().st_mtime_ns
            for record in self.root.rglob("stage.json")
        }

    def made_anew(self, before: dict[str, int]) -> set[str]:
        return {name for name, made in self.stages().items() if before.get(name) != made}

    def asked(self) -> int:
        """How many texts the last labelling asked the teacher for."""
        return int(self.record("labels")["asked"])

    def record(self, stage: str) -> dict[str, Any]:
        """What was written down when a stage was made."""
        record: dict[str, Any] = json.loads((self.root / stage / "training.json").read_text())
        return record


def everything(root: Path) -> dict[str, tuple[int, int]]:
    """What lies under a folder, and when it was last written."""
    return {str(path.relative_to(root)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in root.rglob("*")}


def logits_of(rows: Sequence[tuple[str, str]], labels: Sequence[str]) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(len(rows), len(labels)))
    return 4 * np.eye(len(labels))[[labels.index(label) for _, label in rows]] + 0.3 * noise


@pytest.fixture(scope="module")
def rows(keyword_rows) -> list[tuple[str, str]]:
    return keyword_rows(TRAIN + TEST, 31)


@pytest.fixture(scope="module")
def template(tmp_path_factory, rows, write_csv, labels, tiny_encoder) -> Job:
    """A job with a recorded teacher and a student of each family, run to its end."""
    folder = tmp_path_factory.mktemp("template")
    write_csv(folder / "train.csv", rows[:TRAIN])
    write_csv(folder / "test.csv", rows[TRAIN:])
    write_csv(folder / "recorded.csv", rows)
    np.savez(folder / "logits.npz", labels=np.array(labels), all=logits_of(rows, labels))
    task = {
        "name": "job",
        "data": LABELLED,
        "teacher": {
            "kind": "recorded",
            "logits": "logits.npz",
            "recordings": [{"array": "all", "rows": {"path": "recorded.csv"}}],
        },
        "students": {"deep": task_files.encoder(tiny_encoder, 4), "words": task_files.static(tiny_encoder, 8)},
    }
    job = Job(folder, task)
    job.run()
    return job


@pytest.fixture
def fresh(template, tmp_path) -> Job:
    """The job before it ran, in a folder of its own."""
    return template.copy(tmp_path / "job", "run")


@pytest.fixture
def finished(template, tmp_path) -> Job:
    """The finished job in a copy of its run's folder; its data files must stay as they are."""
    shutil.copytree(template.root, tmp_path / "run")
    return Job(template.folder, json.loads(json.dumps(template.task)), tmp_path / "run")


# The whole path


def test_every_stage_leaves_its_result(template, rows, labels):
    run = template.open()
    assert set(template.stages()) == {"data", "labels", "students/deep", "students/words"}
    splits = run.splits()
    assert splits.labels == labels
    assert (len(splits.train) + len(splits.validation), len(splits.test)) == (TRAIN, TEST)
    assert splits.test.texts == tuple(text for text, _ in rows[TRAIN:])
    assert splits.test.gold == tuple(label for _, label in rows[TRAIN:])
    assert len(splits.validation) == pytest.approx(0.2 * TRAIN, abs=4)
    sizes = {"train": len(splits.train), "validation": len(splits.validation), "test": len(splits.test)}
    assert splits.report["rows"] == sizes
    assert {finding.level for finding in splits.findings} == {"warning"}


def test_every_row_has_the_soft_label_of_its_text(template, rows, labels):
    run = template.open()
    soft, splits = run.soft_labels(), run.splits()
    expected = dict(zip((text for text, _ in rows), softmax(logits_of(rows, labels), axis=1), strict=True))
    for split in (splits.train, splits.validation, splits.test):
        found = soft.probabilities[soft.rows_of(split.ids)]
        np.testing.assert_allclose(found, [expected[text] for text in split.texts], rtol=1e-5)
    assert len(soft) == TRAIN + TEST == template.asked()


@pytest.mark.parametrize("name", ["deep", "words"])
def test_a_student_agrees_with_the_teacher(template, name):
    run = template.open()
    student = load_student(run.student(name).path)
    test = run.splits().test
    soft = run.soft_labels()
    assert student.labels == soft.labels
    assert (student.logits(test.texts).argmax(1) == soft.hard[soft.rows_of(test.ids)]).mean() > 0.8
    assert template.record(f"students/{name}")["temperature"] == student.temperature


# Nothing is done twice


def test_a_second_run_touches_nothing(finished):
    before = everything(finished.root)
    finished.run()
    assert everything(finished.root) == before


def with_another_loss(task: dict[str, Any]) -> None:
    task["students"]["words"]["loss"] = {"temperature": 3.0}


def with_another_student(task: dict[str, Any]) -> None:
    words = task["students"]["words"]
    task["students"]["more-words"] = {**words, "hidden": 8, "optimisation": {"epochs": 1}}


def exported_otherwise(task: dict[str, Any]) -> None:
    task |= {"budget": {"latency_ms": 7}, "export": {"variant": "fp32"}}


@pytest.mark.parametrize(
    ("change", "anew"),
    [
        (with_another_loss, {"students/words"}),
        (with_another_student, {"students/more-words"}),
        (exported_otherwise, set()),
    ],
)
def test_a_change_makes_anew_what_depends_on_it_and_no_more(finished, change, anew):
    before = finished.stages()
    change(finished.task)
    finished.run()
    assert finished.made_anew(before) == anew


def test_changed_data_makes_everything_anew_but_asks_only_for_new_texts(fresh, rows, write_csv):
    write_csv(fresh.folder / "train.csv", rows[: TRAIN - 20])
    run = fresh.labelled()
    assert fresh.asked() == TRAIN - 20 + TEST
    before = fresh.stages()
    write_csv(fresh.folder / "train.csv", rows[10:TRAIN])
    run = fresh.open()
    with pytest.raises(DistillError, match=r"data is out of date: run `reflux check`"):
        run.make_labels()
    run.make_data()
    with pytest.raises(DistillError, match=r"labels is out of date: run `reflux label`"):
        run.make_student("words")
    run.make_labels()
    assert fresh.made_anew(before) == {"data", "labels"}
    assert fresh.asked() == 20


def test_a_student_that_cannot_be_trained_stops_the_run_before_the_teacher_is_asked(fresh):
    fresh.task["students"]["deep"]["max_tokens"] = 65
    run = fresh.open()
    run.make_data()
    with pytest.raises(DistillError, match=r"^students.deep.max_tokens: .* has 64 positions; set max_tokens to 64"):
        run.make_labels()
    assert not (fresh.root / "answers.sqlite").exists()


def test_labels_are_asked_for_where_no_student_can_be_trained(fresh, monkeypatch):
    monkeypatch.setattr("distill.run.find_spec", lambda name: None)
    fresh.task["students"]["deep"]["max_tokens"] = 65
    run = fresh.open()
    run.make_data()
    assert len(run.make_labels()) == TRAIN + TEST


def test_another_recording_is_asked_anew_on_the_same_data(fresh, rows, labels):
    fresh.labelled()
    before = fresh.stages()
    np.savez(fresh.folder / "logits.npz", labels=np.array(labels), all=-logits_of(rows, labels))
    soft = fresh.labelled().soft_labels()
    assert fresh.made_anew(before) == {"labels"}
    assert fresh.asked() == TRAIN + TEST
    np.testing.assert_allclose(
        soft.probabilities[soft.texts.index(rows[0][0])], softmax(-logits_of(rows, labels)[0]), 1e-5
    )


@pytest.mark.parametrize(
    ("stage", "file"),
    [("data", "train.parquet"), ("labels", "labels.parquet"), ("students/words", "static.safetensors")],
)
def test_a_damaged_stage_is_made_anew_as_it_was_and_asks_nothing(finished, stage, file):
    before = finished.stages()
    path = finished.root / stage / file
    expected = path.read_bytes()
    os.truncate(path, 50)
    finished.run()
    assert finished.made_anew(before) == {stage}
    assert path.read_bytes() == expected
    if stage == "labels":
        assert finished.asked() == 0


def test_stages_are_asked_for_in_order(fresh):
    run = fresh.open()
    with pytest.raises(DistillError, match=r"data has not been made: run `reflux check`"):
        run.make_labels()
    with pytest.raises(DistillError, match=r"labels has not been made: run `reflux label`"):
        run.make_student("words")


# Data


def test_rows_of_the_test_split_leave_the_pool(fresh, rows, write_csv):
    write_csv(fresh.folder / "train.csv", [*rows[:50], *rows[TRAIN : TRAIN + 5], rows[0]])
    splits = fresh.open().make_data()
    assert splits.report["cleaning"] | {"leaked": None} == {
        "rows": 56,
        "kept": 50,
        "exact": 1,
        "near": 0,
        "leaked": None,
        "conflicting": 0,
    }
    assert splits.report["cleaning"]["leaked"] == {"test": 5}
    assert not set(splits.test.texts) & {*splits.train.texts, *splits.validation.texts}
    assert len(splits.test) == TEST


def test_unlabelled_texts_join_the_pool_and_only_train(fresh, rows, write_csv, keyword_rows):
    known = {text for text, _ in rows}
    new = [text for text, _ in keyword_rows(60, 77) if text not in known]
    write_csv(fresh.folder / "more.csv", [[text] for text in (*new, rows[0][0], rows[-1][0])], ("text",))
    before = fresh.open().make_data()
    fresh.task["data"] = {**LABELLED, "near_duplicate": 1.0}
    exact = fresh.open().make_data()
    fresh.task["data"]["unlabelled"] = {"path": "more.csv"}
    splits = fresh.open().make_data()
    assert splits.validation == exact.validation
    assert splits.test == before.test
    added = splits.train.take(range(len(exact.train), len(splits.train)))
    assert set(added.texts) == set(new)
    assert set(added.gold) == {None}
    write_csv(fresh.folder / "more.csv", [[text] for text in new[:5]], ("text",))
    assert len(fresh.open().make_data().train) == len(exact.train) + len(set(new[:5]))


def test_validation_may_be_a_file_of_its_own(fresh, rows, write_csv):
    write_csv(fresh.folder / "validation.csv", [*rows[40:70], ("a new label altogether", "weather")])
    fresh.task["data"]["validation"] = {"path": "validation.csv", "label": "label"}
    splits = fresh.open().make_data()
    assert len(splits.validation) == 31
    assert splits.report["cleaning"]["leaked"] == {"validation": 30, "test": 0}
    assert "weather" in splits.labels


def reuse_ids(job: Job) -> None:
    for name in ("train", "test"):
        with (job.folder / f"{name}.csv").open() as file:
            content = list(csv.reader(file))
        with (job.folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["id", *content[0]], *([row, *line] for row, line in enumerate(content[1:]))])
        job.task["data"][name]["id"] = "id"


def misspell_labels(job: Job) -> None:
    job.task["labels"] = ["account", "billing", "shiping", "technical"]


def test_only(job: Job) -> None:
    shutil.copyfile(job.folder / "test.csv", job.folder / "train.csv")


def remove_test(job: Job) -> None:
    (job.folder / "test.csv").unlink()


def drop_gold(job: Job) -> None:
    for name in ("train", "test"):
        del job.task["data"][name]["label"]


def hold_out_nothing(job: Job) -> None:
    job.task["data"]["validation"] = 1e-9


test_only.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (reuse_ids, "an id is in two splits"),
        (misspell_labels, r"gold labels \['shipping'\] are not among the task's 4 labels"),
        (test_only, "every row duplicates a held-out row"),
        (remove_test, r"test\.csv: cannot be read"),
        (drop_gold, "fewer than two gold labels; list the task's `labels`"),
        (hold_out_nothing, "validation: no rows"),
    ],
)
def test_a_problem_with_the_data_is_raised_before_anything_is_paid(fresh, monkeypatch, spoil, message):
    monkeypatch.setattr(teachers, "create", lambda *_: pytest.fail("the teacher was called"))
    spoil(fresh)
    with pytest.raises(DataError, match=message):
        fresh.run()
    assert fresh.stages() == {}
    assert not (fresh.root / "answers.sqlite").exists()


# What the teacher does not answer


def create_instead(monkeypatch, make: Callable[[Sequence[str]], Any]) -> list[Any]:
    """Let every teacher that is created be what `make(labels)` gives, and list them."""
    made: list[Any] = []

    def create(config: Any, labels: Sequence[str], account: Any = None) -> Any:
        made.append(make(labels))
        return made[-1]

    monkeypatch.setattr(teachers, "create", create)
    return made


class Refusing:
    """A teacher that refuses every fourth text and answers another fourth with nonsense."""

    name, version, batch_size, concurrency = "refusing", "1", 16, 1

    def __init__(self, labels: Sequence[str], kinds: dict[str, int]) -> None:
        self.labels, self.kinds, self.closed = tuple(labels), kinds, False

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> list[Answer]:
        even = np.full(len(self.labels), 1 / len(self.labels), dtype=np.float32)
        given = {0: Answer(None, "logprobs", outcome="refused"), 1: Answer(even * np.nan, "logprobs")}
        return [given.get(self.kinds[text] % 4, Answer(even, "logprobs")) for text in texts]

    async def aclose(self) -> None:
        self.closed = True


def test_rows_without_a_label_are_counted_and_left_out(fresh, rows, monkeypatch):
    kinds = {text: row for row, (text, _) in enumerate(rows)}
    made = create_instead(monkeypatch, lambda labels: Refusing(labels, kinds))
    del fresh.task["students"]["deep"]
    run = fresh.run()
    soft = run.soft_labels()
    assert {kinds[text] % 4 for text in soft.texts} == {2, 3}
    record = fresh.record("labels")
    rest = (TRAIN + TEST) / 4
    assert record == {"asked": TRAIN + TEST, "refused": rest, "invalid": rest, "spent_usd": 0.0}
    assert [teacher.closed for teacher in made] == [True]
    assert load_student(run.student("words").path).labels == soft.labels


def test_a_teacher_that_says_one_label_for_everything_is_doubted_before_training(fresh, template, rows, labels):
    assert template.open().label_warnings() == []
    np.savez(fresh.folder / "logits.npz", labels=np.array(labels), all=np.eye(len(labels))[[1] * len(rows)])
    run = fresh.labelled()
    (doubt,) = run.label_warnings()
    assert doubt.startswith(f"the teacher says {labels[1]!r} for each of {TRAIN + TEST} texts")


@pytest.mark.parametrize(
    ("module", "function", "said"),
    [
        (preparation, "read", "reading the data: at work for "),
        (preparation, "examine", "examining the data: at work for "),
        (teachers, "create", "loading the teacher: at work for "),
        (encoder, "load_encoder", "loading tiny-bert: at work for "),
        (distil, "calibrate_temperature", "training deep: calibrating: at work for "),
    ],
)
def test_what_takes_long_without_a_count_says_that_it_is_at_work(fresh, monkeypatch, capsys, module, function, said):
    monkeypatch.setattr(progress, "INTERVAL", 0.01)
    usual = getattr(module, function)
    heard: list[str] = []

    def slow(*given: Any, **named: Any) -> Any:
        wait_until(lambda: heard.append(capsys.readouterr().err) or said in "".join(heard))
        return usual(*given, **named)

    monkeypatch.setattr(module, function, slow)
    run = fresh.open()
    run.make_data()
    if module is not preparation:
        run.make_labels()
    if module in (encoder, distil):
        run.make_student(next(iter(run.task.students)))
    assert said in "".join(heard)


# A teacher that is fitted first


@pytest.fixture(scope="module")
def local_template(template, tmp_path_factory, rows, write_csv, tiny_encoder) -> Job:
    """A job whose pool has no gold labels and whose teacher is fitted on other rows, run to its end."""
    folder = tmp_path_factory.mktemp("local")
    write_csv(folder / "train.csv", [[text] for text, _ in rows[:100]], ("text",))
    write_csv(folder / "test.csv", [[text] for text, _ in rows[TRAIN:]], ("text",))
    write_csv(folder / "gold.csv", rows[100:TRAIN])
    task = {
        "name": "local",
        "data": {"train": {"path": "train.csv"}, "test": {"path": "test.csv"}},
        "teacher": {
            "kind": "local",
            "model": str(tiny_encoder),
            "max_tokens": 32,
            "fit": {"data": GOLD, "optimisation": task_files.optimisation(2, 3e-3, batch_size=16)},
        },
        "students": {"words": template.task["students"]["words"]},
    }
    job = Job(folder, task)
    job.run()
    return job


@pytest.fixture
def local(local_template, tmp_path) -> Job:
    shutil.copytree(local_template.root, tmp_path / "run")
    return Job(local_template.folder, json.loads(json.dumps(local_template.task)), tmp_path / "run")


async def test_a_fitted_teacher_labels_the_pool(local_template, labels):
    run = local_template.open()
    assert set(local_template.stages()) == {"data", "teacher", "labels", "students/words"}
    soft = run.soft_labels()
    assert soft.labels == labels
    assert set(soft.methods) == {"local"}
    teacher = teachers.create(run.teacher_config(), labels)
    answers = await teacher.ask(soft.texts[:5])
    np.testing.assert_allclose(soft.probabilities[:5], [answer.probabilities for answer in answers], atol=1e-5)
    record = local_template.record("teacher")
    assert record["gold_rows"] == TRAIN - 100


def test_a_second_run_with_a_fitted_teacher_touches_nothing(local):
    before = everything(local.root)
    local.run()
    assert everything(local.root) == before


def test_what_a_teacher_costs_makes_nothing_anew_and_is_the_price_of_its_labels(local):
    before = local.stages()
    local.task["teacher"] |= {"usd_per_hour": 2.0, "batch_size": 8}
    soft = local.run().soft_labels()
    assert local.made_anew(before) == set()
    assert soft.cost_usd.sum() > 0
    np.testing.assert_allclose(soft.cost_usd, soft.seconds * 2.0 / 3600)


def test_how_a_teacher_is_fitted_makes_it_and_its_labels_anew(local):
    before = local.stages()
    local.task["teacher"]["fit"]["optimisation"]["seed"] = 1
    local.labelled()
    assert local.made_anew(before) == {"teacher", "labels"}
    assert local.asked() == 160


def test_views_are_labelled_besides_and_trained_on(local):
    before = local.stages()
    local.task["labelling"] = {"views": {"per_text": 2}}
    run = local.labelled()
    assert local.made_anew(before) == {"labels"}
    learn, choose = run.labelled()
    views = learn.take([row for row, name in enumerate(learn.ids) if "(view" in name])
    assert local.asked() == len(views) == len(learn) - len(run.splits().train) > 100
    assert choose == run.splits().validation
    soft = run.soft_labels()
    teacher = load_student(local.root / "teacher")
    expected = softmax(teacher.logits(views.texts) / teacher.temperature, axis=1)
    np.testing.assert_allclose(soft.probabilities[soft.rows_of(views.ids)], expected, atol=1e-5)
    local.run()
    assert local.made_anew(before) == {"labels", "students/words"}
    local.task["labelling"]["views"]["per_text"] = 3
    more = len(local.labelled().labelled()[0]) - len(learn)
    assert local.asked() == more > 50  # the others' answers are stored


def test_rows_that_fitted_the_teacher_are_labelled_by_one_that_has_not_seen_them(
    local_template, tmp_path, rows, write_csv
):
    job = local_template.copy(tmp_path / "job", "run")
    write_csv(job.folder / "gold.csv", rows[50:TRAIN])
    job.task |= {"labelling": {"views": {}}}
    fit = job.task["teacher"]["fit"]
    fit["optimisation"] = task_files.optimisation(1, 3e-3)
    alone, before = job.labelled().soft_labels(), job.stages()
    fit["folds"] = 2
    crossed = job.labelled().soft_labels()
    assert job.made_anew(before) == {"folds/0", "folds/1", "labels"}
    texts = dict(zip(crossed.ids, crossed.texts, strict=True))
    sources = [texts[source_of(name)] for name in crossed.ids]
    gold = {text for text, _ in rows[50:TRAIN]}
    folds = folds_of(sources, 2)
    teachers_of_folds = [load_student(job.root / "folds" / str(fold)) for fold in (0, 1)]
    counts = [0, 0]
    for row, source in enumerate(sources):
        if source in gold:
            teacher = teachers_of_folds[folds[row]]
            expected = softmax(teacher.logits([crossed.texts[row]])[0] / teacher.temperature)
            counts[folds[row]] += 1
        else:
            expected = alone.probabilities[row]
        np.testing.assert_allclose(crossed.probabilities[row], expected, atol=1e-5)
    assert min(counts) > 10
    assert sum(counts) == job.record("labels")["cross_fitted"] < len(crossed)
    seen = [job.record(f"folds/{fold}")["gold_rows"] for fold in (0, 1)]
    in_folds = np.bincount(folds_of([text for text, _ in rows[50:TRAIN]], 2))
    assert seen == [in_folds[1], in_folds[0]]


KEPT = "stopped: the epochs so far are kept; run the command again to go on"


def test_an_interrupted_fit_goes_on_after_its_last_whole_epoch(local_template, tmp_path, rows, write_csv):
    job = local_template.copy(tmp_path / "job", "run")
    write_csv(job.folder / "gold.csv", rows[50:TRAIN])
    job.task["teacher"]["fit"] |= {"optimisation": task_files.optimisation(3, 3e-3), "folds": 2}
    job.open().make_data()
    # The last epoch of the teacher, of the first fold and of the second; each time, the others are done.
    for number in (3, 1 + 3, 1 + 3):
        with epochs(interrupted=number) as trained, pytest.raises(StoppedError, match=KEPT):
            job.open().make_teacher()
        assert len(trained) == number - 1
    with epochs() as trained:
        job.open().make_teacher()
    assert len(trained) == 1
    assert not list(job.root.rglob(".checkpoint-*"))


def test_an_interrupted_student_says_what_is_kept(local):
    local.task["students"]["words"]["loss"] = {"temperature": 3.0}
    run = local.labelled()
    with epochs(interrupted=1), pytest.raises(StoppedError, match=r"^stopped before the end of an epoch; "):
        run.make_student("words")
    with epochs(interrupted=2), pytest.raises(StoppedError, match=KEPT):
        run.make_student("words")
    run.make_student("words")
    assert not list(local.root.rglob(".checkpoint-*"))


def test_a_student_may_be_fitted_to_the_teachers_embeddings_first(local):
    local.task["labelling"] = {"views": {}}
    local.run()
    before = local.stages()
    local.task["students"]["words"]["embedding_phase"] = {"epochs": 2}
    run = local.run()
    assert local.made_anew(before) == {"embeddings", "students/words"}
    assert len(local.record("students/words")["embedding_phase"]["losses"]) == 2
    learn, choose = run.labelled()
    assert any("(view" in name for name in learn.ids)
    stored = Embeddings.read(local.root / "embeddings" / "embeddings.parquet")
    assert stored.ids == learn.ids + choose.ids
    teacher = load_student(local.root / "teacher")
    states = embed(teacher.network.module, teacher.encode(learn.texts))
    np.testing.assert_allclose(stored.values[: len(learn)], states, atol=2e-3)
    local.task["students"]["words"]["embedding_phase"] = {"epochs": 1}
    before = local.stages()
    local.run()
    assert local.made_anew(before) == {"students/words"}


def test_an_embedding_phase_needs_a_teacher_with_hidden_states(fresh):
    fresh.task["students"]["words"]["embedding_phase"] = {}
    with pytest.raises(TaskError, match=r"students.words.embedding_phase: a teacher of kind recorded has no hidden"):
        fresh.open()


def test_views_need_a_teacher_that_can_be_asked(fresh):
    fresh.task["labelling"] = {"views": {}}
    with pytest.raises(TaskError, match=r"labelling.views: a recorded teacher has no answers to new texts"):
        fresh.open()


def test_views_need_members_that_can_be_asked(fresh):
    members = [{"teacher": {"kind": "openai", "model": "m"}}, {"teacher": fresh.task["teacher"]}]
    fresh.task |= {"teacher": {"kind": "ensemble", "members": members}, "labelling": {"views": {}}}
    with pytest.raises(TaskError, match=r"labelling.views: a recorded teacher has no answers to new texts"):
        fresh.open()


def test_a_student_may_start_from_the_fitted_teacher(local):
    before = local.stages()
    still = {"optimisation": task_files.optimisation(1, 1e-9)}
    local.task["students"]["pupil"] = {**task_files.encoder(Path("teacher"), 1), "layers": [0, 1, 2], **still}
    run = local.run()
    assert local.made_anew(before) == {"students/pupil"}
    teacher, pupil = load_student(local.root / "teacher"), load_student(run.student("pupil").path)
    texts = run.splits().test.texts
    np.testing.assert_allclose(pupil.logits(texts), teacher.logits(texts), atol=1e-3)
    before = local.stages()
    local.task["teacher"]["fit"]["optimisation"]["seed"] = 1
    local.run()
    assert "students/pupil" in local.made_anew(before)


def test_a_new_label_in_the_gold_of_the_teacher_is_a_label_of_the_task(local_template, tmp_path):
    job = local_template.copy(tmp_path / "job")
    assert "weather" not in job.open().make_data().labels
    with (job.folder / "gold.csv").open("a") as file:
        file.write("rain and snow,weather\n" * 3)
    assert "weather" in job.open().make_data().labels


@pytest.mark.parametrize("labels_given", [True, False])
def test_gold_rows_of_a_fit_that_lack_a_label_are_found_before_training(local_template, tmp_path, labels, labels_given):
    job = local_template.copy(tmp_path / "job")
    folder = job.folder
    job.task["data"]["train"]["label"] = "label"
    if labels_given:
        job.task["labels"] = list(labels)
    with (folder / "gold.csv").open(newline="") as file:
        header, *gold = csv.reader(file)
    texts = [row[0] for row in csv.reader((folder / "train.csv").open(newline=""))][1:]

    def write(name: str, table: list[list[str]]) -> None:
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *table])

    write("train.csv", [[text, labels[row % len(labels)]] for row, text in enumerate(texts)])
    assert not [one for one in job.open().make_data().findings if "no row has the label" in one.message]
    write("gold.csv", [row for row in gold if row[1] != labels[0]])
    (finding,) = [one for one in job.open().make_data().findings if "no row has the label" in one.message]
    assert f"teacher.fit.data: no row has the label {labels[0]!r} (1 of {len(labels)} labels)" in finding.message
    write("gold.csv", [row for row in gold if row[1] == labels[0]])
    with pytest.raises(DataError, match=r"teacher\.fit\.data: all rows have the label"):
        job.open().make_data()


def test_labels_that_only_the_gold_rows_of_a_fit_have_are_counted_there(local_template, tmp_path):
    job = local_template.copy(tmp_path / "job")
    with (job.folder / "gold.csv").open("a") as file:
        file.write("rain and snow,odd\nsun and wind,odd\n")
    counts = job.open().make_data().report["counts"]
    assert counts["odd"] == {"train": 0, "validation": 0, "test": 0, "fit": 2}


def test_gold_rows_of_a_fit_without_a_label_of_the_task_are_found_before_training(local_template, tmp_path, labels):
    job = local_template.copy(tmp_path / "job")
    job.task["labels"] = list(labels)
    gold = (job.folder / "gold.csv").read_text()
    (job.folder / "gold.csv").write_text(f"{gold}rain and snow,\n")
    with pytest.raises(DataError, match=r"^teacher\.fit\.data: every row needs a gold label; 1 of 141 have none"):
        job.open().make_data()
    (job.folder / "gold.csv").write_text(f"{gold}rain and snow,{labels[0].upper()}\n")
    with pytest.raises(DataError, match=rf"^teacher\.fit\.data: gold labels .* looks like '{labels[0]}'"):
        job.open().make_data()


# A teacher that is audited


@pytest.fixture
def audited(fresh, rows, keyword_rows, write_csv, labels) -> Job:
    """The job with 150 gold rows, which the recording knows too, and one student. The teacher is overconfident."""
    gold = keyword_rows(150, 77)
    write_csv(fresh.folder / "gold.csv", gold)
    write_csv(fresh.folder / "recorded.csv", [*rows, *gold])
    noise = np.random.default_rng(1).normal(size=(len(rows) + len(gold), len(labels)))
    truth = np.eye(len(labels))[[labels.index(label) for _, label in [*rows, *gold]]]
    np.savez(fresh.folder / "logits.npz", labels=np.array(labels), all=6 * truth + 5 * noise)
    del fresh.task["students"]["deep"]
    fresh.task["labelling"] = {"calibration": {"data": GOLD}, "self_agreement": 20}
    return fresh


def test_gold_rows_calibrate_the_labels_and_are_no_part_of_them(audited):
    run = audited.run()
    soft = run.soft_labels()
    assert len(soft) == TRAIN + TEST == audited.asked()
    assert soft.scaling is not None
    assert soft.scaling.scale[0] < 0.8
    np.testing.assert_array_equal(soft.probabilities, soft.scaling.apply(soft.raw))
    record = audited.record("labels")
    assert record["calibration"]["scaling"] == soft.scaling.as_dict()
    assert (record["calibration"]["rows"], record["calibration"]["asked"]) == (150, 150)
    assert record["calibration"]["saved"]["lower"] > 0
    assert record["self_agreement"]["by_construction"]


def test_what_students_learn_depends_on_calibration_and_not_on_self_agreement(audited):
    audited.run()
    before = audited.stages()
    audited.task["labelling"]["self_agreement"] = 5
    audited.run()
    assert audited.made_anew(before) == {"labels"}
    before = audited.stages()
    audited.task["labelling"]["calibration"]["method"] = "temperature"
    audited.run()
    assert audited.made_anew(before) == {"labels", "students/words"}
    before = audited.stages()
    del audited.task["labelling"]
    run = audited.run()
    assert audited.made_anew(before) == {"data", "labels", "students/words"}
    assert (run.soft_labels().raw, audited.asked()) == (None, 0)


def test_changed_gold_rows_calibrate_anew(audited, keyword_rows, write_csv):
    first = audited.run().soft_labels()
    write_csv(audited.folder / "gold.csv", keyword_rows(150, 77)[:120])
    second = audited.run().soft_labels()
    np.testing.assert_array_equal(first.raw, second.raw)
    assert first.scaling != second.scaling
    assert audited.asked() == 0


def test_gold_rows_that_also_judge_are_found(audited, rows, keyword_rows, write_csv):
    write_csv(audited.folder / "gold.csv", [*keyword_rows(150, 77), *rows[TRAIN : TRAIN + 7]])
    messages = [finding.message for finding in audited.open().make_data().findings]
    assert any(one.startswith("labelling.calibration.data: 7 of 157 texts are also in test") for one in messages)


def test_gold_rows_that_also_fitted_the_teacher_are_found(local_template, tmp_path):
    job = local_template.copy(tmp_path / "job")
    job.task["labelling"] = {"calibration": {"data": GOLD}}
    messages = [finding.message for finding in job.open().make_data().findings]
    assert any("140 of 140 texts are also in teacher.fit.data" in one for one in messages)


def test_too_few_gold_rows_are_refused_before_anything_is_asked(audited, monkeypatch, keyword_rows, write_csv):
    monkeypatch.setattr(teachers, "create", lambda *_: pytest.fail("the teacher was called"))
    write_csv(audited.folder / "gold.csv", keyword_rows(40, 77))
    with pytest.raises(DataError, match=r"labelling\.calibration\.data: 40 gold rows"):
        audited.run()
    assert audited.stages() == {}


def test_labels_may_be_known_from_gold_rows_alone(audited):
    for name in ("train", "test"):
        del audited.task["data"][name]["label"]
    assert audited.open().make_data().labels == ("account", "billing", "shipping", "technical")


class Wavering(StubTeacher):
    """A teacher that gives another label, drawn anew, at each repeat."""

    name, batch_size = "wavering", 16

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.again: list[str] = []

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> list[Answer]:
        self.again += texts if repeat else ()
        drawn = np.random.default_rng(repeat).integers(0, len(self.labels), len(texts))
        return [Answer(row, "votes") for row in (0.1 + 0.6 * np.eye(len(self.labels))[drawn]).astype(np.float32)]


def test_a_teacher_behind_an_api_is_asked_twice_and_its_terms_are_kept(fresh, monkeypatch):
    made = create_instead(monkeypatch, Wavering)
    terms = {"acknowledged": True, "reference": "https://example.org/terms"}
    fresh.task["teacher"] = {
        "kind": "openai",
        "model": "m",
        "usd_per_million": {"input": 1, "output": 1},
        "terms": terms,
    }
    fresh.task["labelling"] = {"self_agreement": 25}
    run = fresh.labelled()
    assert run.soft_labels().terms == (terms,)
    (teacher,) = made
    assert len(teacher.again) == 25
    assert set(teacher.again) <= set(run.splits().validation.texts)
    record = fresh.record("labels")["self_agreement"]
    assert (record["rows"], record["by_construction"]) == (25, False)
    assert 0 < record["agreement"]["value"] < 0.7 < record["ceiling"]["upper"]


# Kills


HARNESS = """
import json, os, signal, sys
from importlib import import_module
from pathlib import Path

import torch

torch.set_num_threads(1)

import distill.students.encoder, distill.students.static, distill.training.loop
from distill.run import Run
from distill.task import load_task
from distill.teachers.recorded import RecordedTeacher

task, root, log, points = load_task(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], json.loads(sys.argv[4])


def die_after(module, path, count):
    # The function at this place kills the process when it has returned so many times.
    *owners, name = path.split(".")
    owner = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    function, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        result = function(*args, **kwargs)
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, wrapped)


def count_questions():
    ask = RecordedTeacher.ask

    async def counted(self, texts, repeat=0):
        with open(log, "a") as file:
            file.writelines(f"{text}\\n" for text in texts)
        return await ask(self, texts, repeat)

    RecordedTeacher.ask, RecordedTeacher.batch_size = counted, 32


def live(point):
    count_questions()
    if point:
        die_after(*point)
    run = Run(task, root)
    run.make_data()
    run.make_labels()
    for name in task.students:
        run.make_student(name)
    os._exit(0)


for point in [*points, None]:
    child = os.fork()
    if child == 0:
        live(point)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

POINTS = [
    ("distill.data.prepared", "_write_split", 1),  # within the data
    ("distill.run", "Run.make_data", 1),  # between data and labels
    ("distill.labelling.sqlite_store", "Store._commit", 1),  # within the labels, the first batch stored
    ("distill.labelling.sqlite_store", "Store._commit", 4),
    ("distill.labelling.soft_labels", "SoftLabels.write", 1),  # all answers stored, the stage not finished
    ("distill.run", "Run.make_labels", 1),  # between labels and students
    ("distill.training.loop", "_epoch", 2),  # within the training of the first student
    ("distill.students.student", "Student.save", 1),  # the first student saved, its stage not finished
    ("distill.run", "Run.make_student", 1),  # between the students
    ("distill.stages", "write_atomic", 1),  # the record of the second student written, its stage not in place
]


def test_a_run_that_is_killed_at_any_point_finishes_and_asks_nothing_twice(fresh, template, tmp_path):
    log = tmp_path / "asked.txt"
    arguments = [str(fresh.file), str(fresh.root), str(log), json.dumps(POINTS)]
    out = subprocess.run(
        [sys.executable, "-c", HARNESS, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert out.stdout.split() == ["-9"] * len(POINTS) + ["0"], out.stderr
    asked = log.read_text().splitlines()
    assert len(asked) == len(set(asked)) == TRAIN + TEST
    assert set(fresh.stages()) == set(template.stages())
    assert not list(fresh.root.rglob(".*-*"))  # no staging folder is left
    mine, theirs = fresh.open().soft_labels(), template.open().soft_labels()
    np.testing.assert_array_equal(mine.probabilities, theirs.probabilities)
    for name, file in (("deep", "head.safetensors"), ("words", "static.safetensors")):
        paths = [job.root / "students" / name / file for job in (fresh, template)]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_two_processes_train_one_student_together(fresh, template):
    fresh.labelled()
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = Path(sys.executable).with_name("reflux")
    launch = [sys.executable, *torchrun, str(command), "train", str(fresh.file), "--output", str(fresh.root)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1"}
    out = subprocess.run(launch, cwd=fresh.folder, env=environment, capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    assert out.stdout.count("deep: ") == 2
    assert set(fresh.stages()) == set(template.stages())
    records = [job.record("students/deep") for job in (fresh, template)]
    assert records[0]["losses"] != records[1]["losses"]  # each took every other batch, and not all of them
    assert records[0]["validation_agreement"] > 0.8
