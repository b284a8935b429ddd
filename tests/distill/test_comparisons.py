"""A student that a task compares is trained in the other ways too, each on the labels that it is named for."""

import dataclasses
import json

import numpy as np
import pytest
import yaml
from scipy.special import softmax

from distill.comparisons import Comparisons
from distill.data.splits import gold_classes
from distill.errors import StoppedError, TaskError
from distill.run import RECORD, Run
from distill.students.student import load_student
from distill.task import load_task
from tests.support import task_files
from tests.support.interrupted import epochs
from tests.support.task_files import LABELLED, optimisation


@pytest.fixture
def run(tmp_path, keyword_rows, tiny_encoder, write_csv):
    """`run(**task)`: a run whose students are trained; its local teacher is fitted on gold labels."""

    def make(student="teacher", **more):
        for seed, (name, count) in enumerate({"gold": 120, "train": 200, "test": 60}.items(), start=1):
            write_csv(tmp_path / f"{name}.csv", keyword_rows(count, seed))
        fit = {"data": {"path": "gold.csv", "label": "label"}, "optimisation": optimisation(1, 3e-3, batch_size=16)}
        task = {
            "name": "keywords",
            "data": LABELLED,
            "teacher": {"kind": "local", "model": str(tiny_encoder), "fit": fit, "max_tokens": 32},
            "students": {"small": task_files.static(student, 2, batch_size=16)},
            "comparisons": {},
            **more,
        }
        (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
        made = Run(load_task(tmp_path / "task.yaml"), tmp_path / "run")
        made.make_data()
        made.make_labels()
        made.make_student("small")
        return made

    return make


def test_every_way_is_trained_once(run, monkeypatch):
    made = Comparisons(run())
    assert set(made.ways("small")) == {"hard", "gold", "human", "pretrained"}
    made.make()
    weights: dict[str, np.ndarray] = {}
    for way in made.ways("small"):
        folder = made.stage("small", way).require("train")
        weights[way] = load_student(folder).logits(["my invoice is late"])
        assert json.loads((folder / RECORD).read_text())["losses"]
    weights["soft"] = load_student(made.run.student("small").path).logits(["my invoice is late"])
    assert len({tuple(logits.ravel().tolist()) for logits in weights.values()}) == 5
    monkeypatch.setattr(Comparisons, "_train", lambda *_: pytest.fail("it is up to date"))
    made.make()


def test_an_interrupted_comparison_goes_on_after_its_last_whole_epoch(run):
    made = Comparisons(run())
    ways = made.ways("small")
    for done in range(len(ways)):  # each is interrupted in its second epoch, of two
        before = 1 if done else 0  # what is left of the one before
        with epochs(interrupted=before + 2) as trained, pytest.raises(StoppedError, match="run the command again"):
            made.make()
        assert len(trained) == before + 1
    with epochs() as trained:
        made.make()
    assert len(trained) == 1
    assert not list(made.run.root.rglob(".checkpoint-*"))


def test_gold_labels_train_where_the_teacher_is_wrong(run, monkeypatch):
    made = run()
    soft, splits = made.soft_labels(), made.splits()
    wrong = np.eye(len(soft.labels), dtype=np.float32)[(gold_classes(splits.everything, soft.labels) + 1) % 4]
    contrary = dataclasses.replace(soft, probabilities=wrong, ids=splits.everything.ids)
    monkeypatch.setattr(Run, "soft_labels", lambda _: contrary)
    config = task_files.static(made.task.teacher.model, 12, batch_size=16)
    task = made.task.model_copy(update={"students": {"small": type(made.task.students["small"])(**config)}})
    made = Run(task, made.root)
    made.make_student("small")
    compared = Comparisons(made)
    compared.make()
    gold = gold_classes(splits.test, soft.labels)

    def right(folder):
        return (load_student(folder).logits(splits.test.texts).argmax(1) == gold).mean()

    by_gold = right(compared.stage("small", "gold").path)
    assert by_gold > 0.7
    for folder in (made.student("small").path, compared.stage("small", "hard").path):
        assert right(folder) < 0.2

    def trust(folder):  # in the gold labels, which the choice alone does not show in so few epochs
        logits = load_student(folder).logits(splits.test.texts)
        return softmax(logits, axis=1)[np.arange(len(gold)), gold].mean()

    assert trust(compared.stage("small", "human").path) > trust(made.student("small").path) + 0.02


def test_without_gold_labels_or_a_fitted_teacher_fewer_ways_are_left(run, tiny_encoder):
    made = run(student=str(tiny_encoder))
    assert Comparisons(made).ways("small") == ["hard", "gold", "human"]
    data = {name: {"path": f"{name}.csv"} if name == "train" else part for name, part in LABELLED.items()}
    labels = list(made.splits().labels)
    assert Comparisons(run(data=data, labels=labels)).ways("small") == ["hard"]


def test_with_views_every_way_trains_on_the_same_texts(run):
    made = Comparisons(run(labelling={"views": {"per_text": 2}}))
    learn, _ = made.rows("soft")
    assert len(learn) > 2 * len(made.run.splits().train)
    for way in made.ways("small"):
        assert made.rows(way)[0].ids == learn.ids
    made.make()


def test_students_are_trained_anew_on_gold_labels_of_views_only(run):
    made = Comparisons(run())
    assert "gold" not in made.stage("small", "gold").inputs
    altered = Comparisons(run(labelling={"views": {}}))
    assert altered.stage("small", "gold").inputs["gold"] == "inherited"
    assert "gold" not in altered.stage("small", "hard").inputs


def test_a_task_that_compares_nothing_trains_nothing(run):
    made = run(comparisons=None)
    assert made.task.compared == ()
    assert Comparisons(made).ways("small") == []
    Comparisons(made).make()
    assert not (made.root / "comparisons").exists()


@pytest.mark.parametrize(
    ("comparisons", "family", "message"),
    [
        ({"students": ["big"]}, "static", r"comparisons\.students: there is no student 'big', but small"),
        ({}, "encoder", "comparisons: no student is `static`"),
        ({"students": []}, "static", r"comparisons\.students"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, comparisons, family, message):
    task = {
        "name": "keywords",
        "data": LABELLED,
        "teacher": {"kind": "local", "model": "some/model"},
        "students": {"small": {"family": family, "model": "some/model"}},
        "comparisons": comparisons,
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    with pytest.raises(TaskError, match=message):
        load_task(tmp_path / "task.yaml")
