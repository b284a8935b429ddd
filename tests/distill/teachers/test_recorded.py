"""A recording is read whole or refused, its labels are brought into the task's order, and it invents no answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

from distill.sections import FileSource
from distill.teachers import TeacherError, create
from distill.teachers.recorded import RecordedConfig, RecordedTeacher

LABELS = ("a", "b", "c")
TRAIN, TEST = ["one", "two", "three"], ["four", "two"]
LOGITS = {"train": np.array([[3.0, 0, 0], [0, 2, 0], [0, 0, 1]]), "test": np.array([[1.0, 1, 0], [0, 0, 4]])}


@pytest.fixture
def make(tmp_path, write_csv):
    """`make(labels, **options)`: a recording of two files; `arrays` replaces what the recording holds."""
    for name, texts in (("train", TRAIN), ("test", TEST)):
        write_csv(tmp_path / f"{name}.csv", [[text, "x"] for text in texts])

    def teacher(labels=LABELS, *, arrays=None, rows=None, **options) -> RecordedTeacher:
        path = tmp_path / "logits.npz"
        np.savez(path, **(arrays if arrays is not None else {"labels": np.array(LABELS), **LOGITS}))
        recordings = [
            {"array": name, "rows": FileSource(path=tmp_path / f"{file}.csv")}
            for name, file in (rows or {"train": "train", "test": "test"}).items()
        ]
        made = create(RecordedConfig(logits=path, recordings=recordings, **options), labels)
        assert isinstance(made, RecordedTeacher)
        return made

    return teacher


async def probabilities(teacher, *texts):
    return np.stack([answer.probabilities for answer in await teacher.ask(texts)])


async def test_answers_are_the_softmax_of_the_recorded_logits(make):
    teacher = make()
    (one, four) = await teacher.ask(["one", "four"])
    np.testing.assert_allclose(one.probabilities, softmax([3, 0, 0]), rtol=1e-6)
    np.testing.assert_allclose(four.probabilities, softmax([1, 1, 0]), rtol=1e-6)
    assert (one.outcome, one.method, one.probabilities.dtype) == ("ok", "recorded", np.float32)
    assert (teacher.name, teacher.labels) == ("recorded:recorded", LABELS)


async def test_a_text_with_several_answers_gets_their_mean(make):
    mean = (softmax([0, 2, 0]) + softmax([0, 0, 4])) / 2
    np.testing.assert_allclose(await probabilities(make(), "two"), [mean], rtol=1e-6)


async def test_temperature_softens(make):
    np.testing.assert_allclose(await probabilities(make(temperature=2.0), "one"), [softmax([1.5, 0, 0])], rtol=1e-6)


async def test_extreme_logits_stay_finite(make):
    arrays = {"labels": np.array(LABELS), "train": np.array([[1e4, 0, 0], [-1e4, -1e4, 0], [0, 0, 0]])}
    rows = await probabilities(make(arrays=arrays, rows={"train": "train"}), *TRAIN)
    np.testing.assert_allclose(rows, np.array([[1, 0, 0], [0, 0, 1], [1 / 3] * 3]), atol=1e-6)


async def test_labels_are_brought_into_the_tasks_order(make):
    mine, theirs = make(), make(("c", "a", "b"))
    assert theirs.labels == ("c", "a", "b")
    reordered = (await probabilities(mine, *TRAIN))[:, [2, 0, 1]]
    np.testing.assert_array_equal(await probabilities(theirs, *TRAIN), reordered)


async def test_what_an_answer_cost_is_told(make):
    (answer,) = await make(usd_per_1000=5.0).ask(["one"])
    assert answer.cost_usd == pytest.approx(0.005)


async def test_a_text_that_was_not_recorded_is_refused(make):
    with pytest.raises(TeacherError, match=r"recorded:big has no answer for 2 of 3 texts, such as 'five'"):
        await make(name="big").ask(["one", "five", "six"])


@pytest.mark.parametrize("labels", [("a", "b"), ("a", "b", "c", "d"), ("a", "b", "z")])
def test_other_labels_are_refused(make, labels):
    with pytest.raises(TeacherError, match=r"logits\.npz does not know the task's labels"):
        make(labels)


ARRAYS: Any = {"labels": np.array(LABELS), **LOGITS}


@pytest.mark.parametrize(
    "train",
    [
        LOGITS["train"][:2],
        np.zeros((4, 3)),
        np.zeros((3, 2)),
        np.zeros((3, 4)),
        np.zeros(3),
        np.zeros((3, 3, 1)),
        np.array([[np.nan, 0, 0], [0, 2, 0], [0, 0, 1]]),
        np.array([[np.inf, 0, 0], [0, 2, 0], [0, 0, 1]]),
        np.array([["1", "2", "3"]] * 3),
        np.zeros((3, 3), dtype=np.complex128),
    ],
    ids=lambda value: f"{value.dtype}{value.shape}",
)
def test_an_array_that_does_not_fit_its_file_is_refused(make, train):
    with pytest.raises(
        TeacherError, match=r"array 'train' .*expected finite numbers of shape \(3, 3\): the rows of .*csv"
    ):
        make(arrays={**ARRAYS, "train": train})


def test_an_array_that_is_missing_names_those_that_are_there(make):
    with pytest.raises(TeacherError, match="no array 'test'; there are labels, train"):
        make(arrays={"labels": ARRAYS["labels"], "train": LOGITS["train"]})


@pytest.mark.parametrize(
    ("recorded", "labels"),
    [
        (np.array([0, 1, 2]), ("0", "1", "2")),
        (np.array([0.0, 1.0, 2.5]), ("0", "1", "2.5")),
        (np.array([b"a", b"b", b"c"]), LABELS),
        (np.array([" a", "b ", "c"]), LABELS),
    ],
    ids=lambda value: str(getattr(value, "dtype", "")),
)
async def test_labels_of_any_type_are_spelled_as_those_of_data_files(make, recorded, labels):
    teacher = make(labels, arrays={**ARRAYS, "labels": recorded})
    np.testing.assert_array_equal(await probabilities(teacher, "one"), await probabilities(make(), "one"))


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (np.array(["a", "", "c"]), "label 1 of array 'labels' is empty"),
        (np.array([0, 1, np.inf]), "holds the number Infinity, which is out of range"),
        (np.array(["a", "a ", "c"]), "has 'a' twice"),
    ],
)
def test_labels_that_are_no_names_are_refused(make, recorded, said):
    with pytest.raises(TeacherError, match=said):
        make(arrays={**ARRAYS, "labels": recorded})


def test_a_recording_without_labels_is_refused(make):
    with pytest.raises(TeacherError, match=r"missing \['a', 'b', 'c'\]"):
        make(arrays=LOGITS)


def test_a_data_file_that_is_missing_is_named(make):
    with pytest.raises(TeacherError, match=r"gone\.csv: cannot be read"):
        make(rows={"train": "gone"})


@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "cut off", "flipped", "one array", "pickled"])
def test_what_is_no_recording_is_refused(tmp_path, write_csv, damage):
    path = tmp_path / "logits.npz"
    np.savez(path, **ARRAYS)
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "one array":
        np.save(tmp_path / "one.npy", LOGITS["train"])
        path.write_bytes((tmp_path / "one.npy").read_bytes())
    elif damage == "pickled":
        np.savez(path, labels=np.array([object()], dtype=object))
    else:
        content[100] ^= 255
        left = {"empty": b"", "garbage": b"x" * 99, "cut off": content[:300], "flipped": content}
        path.write_bytes(left[damage])
    rows = FileSource(path=write_csv(tmp_path / "train.csv", [["one", "x"]]))
    with pytest.raises(TeacherError, match=r"logits\.npz: not a recording .*expected an \.npz of arrays"):
        RecordedTeacher.from_config(RecordedConfig(logits=path, recordings=[{"array": "train", "rows": rows}]), LABELS)


def test_the_version_follows_everything_that_decides_an_answer(make, tmp_path, write_csv):
    versions = [make().version, make(temperature=2.0).version]
    versions.append(make(arrays={**ARRAYS, "train": LOGITS["train"] + [[0, 0, 1]]}).version)
    versions.append(make(rows={"train": "train"}).version)
    write_csv(tmp_path / "train.csv", [[text, "x"] for text in reversed(TRAIN)])
    versions.append(make().version)
    assert len(set(versions)) == len(versions)


def test_the_version_does_not_follow_the_name_or_the_price(make):
    assert make().version == make(name="other", usd_per_1000=3.0).version
