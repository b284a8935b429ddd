"""`check` measures what a task has, asks the teacher nothing, and says so where it cannot measure."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from distill.data.prepared import read_splits
from distill.run import Run
from distill.sufficiency.check import check
from distill.sufficiency.report import lines
from distill.task import Task
from tests.support.task_files import LABELLED, static

ROWS = 600
WORDS = [[f"w{label}x{word}" for word in range(40)] for label in range(3)]


def write(path, generator, count, label=lambda own: f"label-{own}"):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for row in range(count):
            own = int(generator.integers(3))
            writer.writerow((f"{' '.join(generator.choice(WORDS[own], 4))} {row}", label(own)))


@pytest.fixture
def make_run(tmp_path):
    """`make_run(label)`: the run of a task whose rows of train have the labels that `label(class)` gives."""

    def make(label=lambda own: f"label-{own}", **teacher):
        generator = np.random.default_rng(0)
        write(tmp_path / "train.csv", generator, ROWS, label)
        write(tmp_path / "test.csv", generator, 60)
        data = {**LABELLED}
        for name in ("train", "test"):
            data[name] = {**LABELLED[name], "path": str(tmp_path / f"{name}.csv")}
        labels = np.array(["label-0", "label-1", "label-2"])
        arrays = {name: recorded(tmp_path / f"{name}.csv") for name in ("train", "test")}
        np.savez(tmp_path / "logits.npz", labels=labels, **arrays)
        described = {
            "name": "words",
            "data": data,
            "labels": list(labels),
            "teacher": {
                "kind": "recorded",
                "logits": str(tmp_path / "logits.npz"),
                "recordings": [{"array": name, "rows": data[name]} for name in arrays],
                **teacher,
            },
            "students": {"small": static(tmp_path, 1)},
        }
        return Run(Task.model_validate(described), tmp_path / "run")

    return make


def recorded(path):
    """Logits of a teacher that goes by the first word."""
    with path.open() as file:
        first = [int(row["text"][1]) for row in csv.DictReader(file)]
    return 4 * np.eye(3, dtype=np.float32)[first]


def test_gold_labels_give_a_curve_and_a_verdict_that_the_report_tells(make_run):
    found = check(make_run(usd_per_1000=2.0))
    assert found["teacher"]["usd_per_1000"] == 2.0
    assert found["labels"]["of"] == "gold"
    assert found["labels"]["rows"] == found["size"]["train"] == sum(found["labels"]["per_label"].values())
    curve = found["learning_curve"]
    assert len(curve["sizes"]) == 5
    assert curve["right"] == sorted(curve["right"])
    assert curve["gain"]["lower"] <= curve["gain"]["value"] <= curve["gain"]["upper"]
    assert curve["twice"]["value"] - curve["now"]["value"] == pytest.approx(curve["gain"]["value"])
    assert f"expect {100 * curve['gain']['value']:+.1f} points [" in found["reason"]
    assert json.loads(json.dumps(found)) == found
    told = "\n".join(lines(found))
    assert "fewer than the 10,000 to 50,000 that distillation profits from" in told
    assert "accuracy on gold labels" in told
    assert "count like 3.0 equally frequent ones" in told
    assert told.endswith("students with pretrained weights know more before the first text)")
    assert f"\nverdict: {found['verdict']}: with twice the data expect +" in told


def test_once_the_teacher_has_labelled_its_labels_count(make_run):
    run = make_run(lambda own: "")  # no gold label at all
    before = check(run)
    assert before["labels"] == {"of": "gold", "rows": 0, "per_label": {}}
    assert before["verdict"] == "too little"
    told = "\n".join(lines(before))
    assert "no text to train on has one yet" in told
    assert "points of the linear student" not in told
    assert "not measured: 0 texts to train on have a label, and it needs 200 or more" in told
    run.make_labels()
    after = check(run)
    assert after["labels"]["of"] == "teacher"
    assert after["labels"]["rows"] == len(read_splits(run.data.path).train)
    assert after["learning_curve"]["right"][-1] > 0.9
    assert "agreement with the teacher" in "\n".join(lines(after))


def test_a_price_that_is_given_after_labelling_counts(make_run):
    run = make_run(usd_per_1000=2.0)
    run.make_data()
    run.make_labels()
    later = make_run(usd_per_1000=6.0)
    assert check(later)["teacher"]["usd_per_1000"] == pytest.approx(6.0)
    assert later.labels.done


def test_labels_that_look_wrong_are_listed_with_what_they_should_be(make_run):
    chance = np.random.default_rng(5)
    found = check(make_run(lambda own: f"label-{(own + (chance.random() < 0.1)) % 3}"))
    noise = found["label_noise"]
    assert 0.07 < noise["suspects"] / noise["rows"] < 0.22
    assert len(noise["listed"]) == noise["suspects"]
    first = noise["listed"][0]
    assert first["likely"] == f"label-{first['text'][1]}" != first["label"]
    assert "labels that look wrong" in found["remedies"][-1]["action"]
    told = "\n".join(lines(found))
    assert f"label noise: {noise['suspects']} of {noise['rows']} labels look wrong" in told
    assert f"{first['id']}, {first['label']}: rather {first['likely']}? “{first['text']}”" in told


def test_rows_of_one_label_have_no_curve(make_run):
    found = check(make_run(lambda own: "label-1"))
    assert found["learning_curve"] == {"measured": False, "why": "all rows have the same label"}
    assert found["verdict"] == "too little"
    assert found["label_noise"] is None
