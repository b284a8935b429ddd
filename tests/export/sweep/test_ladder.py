"""A sweep trains the task's own students, and the rungs that the task names or that its model has."""

from __future__ import annotations

import pytest

from distill.errors import DistillError, TaskError
from distill.students.config import EncoderStudent, NgramsStudent, StaticStudent
from distill.task import load_task
from export.sweep.ladder import ladder


@pytest.fixture
def task(task_file):
    return load_task(task_file)


def test_the_default_ladder_has_the_families_and_depths_that_the_task_lacks(task):
    found = ladder(task)
    assert list(found) == ["large", "small", "ngrams", "layers-1", "layers-3"]  # large has two of three layers, evenly
    assert isinstance(found["ngrams"], NgramsStudent)
    large, whole = found["large"], found["layers-3"]
    assert whole == large.model_copy(update={"layers": 3})


def test_a_task_of_one_static_student_gets_encoders_of_its_model(task):
    alone = task.model_copy(update={"students": {"small": task.students["small"]}})
    found = ladder(alone)
    assert list(found) == ["small", "ngrams", "layers-1", "layers-2", "layers-3"]
    assert found["layers-2"] == EncoderStudent(family="encoder", model=task.students["small"].model, layers=2)


def test_where_vocabularies_are_trimmed_there_are_no_ngrams_which_have_none(task):
    trimming = task.model_copy(update={"export": task.export.model_copy(update={"trim_vocabulary": True})})
    assert set(ladder(task)) - set(ladder(trimming)) == {"ngrams"}


def test_the_fitted_teacher_is_a_model_like_any(task):
    large = task.students["large"].model_copy(update={"model": "teacher", "layers": 1})
    found = ladder(task.model_copy(update={"students": {"large": large}}))
    assert list(found) == ["large", "ngrams", "static", "layers-2", "layers-3"]
    assert {each.model for each in found.values()} == {"teacher"}
    assert isinstance(found["static"], StaticStudent)


def test_a_name_that_the_task_has_is_kept(task):
    own = {"ngrams": task.students["small"]}
    assert ladder(task.model_copy(update={"students": own}))["ngrams"] is own["ngrams"]


@pytest.fixture
def written(task_file, tmp_path):
    """`written(text)`: the task with more lines, read."""

    def read(more):
        path = tmp_path / "task.yaml"
        path.write_text(task_file.read_text() + more)
        return load_task(path)

    return read


def test_a_task_may_name_its_rungs(written):
    task = written("sweep: {students: {tiny: {family: ngrams, model: x}}}\n")
    assert list(ladder(task)) == ["large", "small", "tiny"]
    assert list(ladder(written("sweep: {}\n"))) == ["large", "small"]


@pytest.mark.parametrize(
    ("students", "message"),
    [
        ("{small: {family: ngrams, model: x}}", "sweep.students: the task has a student 'small' already"),
        ("{tiny: {family: tree}}", r"sweep\.students\.tiny: Input tag 'tree'"),
    ],
)
def test_rungs_that_cannot_be_are_refused(written, students, message):
    with pytest.raises(TaskError, match=message):
        written(f"sweep: {{students: {students}}}\n")


def test_a_model_that_is_not_there_is_refused(task):
    lost = task.students["small"].model_copy(update={"model": "/nowhere"})
    with pytest.raises(DistillError, match="model /nowhere: cannot be loaded"):
        ladder(task.model_copy(update={"students": {"small": lost}}))
