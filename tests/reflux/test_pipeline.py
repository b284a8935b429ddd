"""A whole task in Python: what comes of it, what it says meanwhile, and that it runs where a loop does."""

import json

import pytest
import yaml

from distill.errors import DistillError
from distill.run import ANSWERS
from distill.task import load_task
from export.bundle.classifier import Classifier
from reflux import pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "one"


@pytest.fixture(scope="module")
def result(task, folder):
    """What the whole task ends with, in `folder`."""
    return pipeline.run(task, folder, warn=lambda message: None)


def test_it_gives_the_bundle_to_serve_and_the_gap_where_they_lie(result, folder):
    assert result.bundle.path == folder / "bundle"
    assert Classifier.load(result.bundle).classify("my invoice").probabilities.shape == (4,)
    assert result.report == folder / "report"
    assert result.gap == json.loads((result.report / "gap.json").read_text())
    assert result.gap["chosen"] == result.bundle.manifest.name == "small"


@pytest.mark.parametrize("given", [str, load_task], ids=["str", "Task"])
def test_a_path_as_text_or_a_task_is_the_same_task_and_is_not_run_twice(result, task, folder, given):
    again = pipeline.run(given(task), str(folder), warn=lambda message: None)
    assert (again.gap, again.report) == (result.gap, result.report)
    assert again.bundle.manifest == result.bundle.manifest


async def test_a_notebook_whose_loop_runs_may_run_a_task(task, tmp_path):
    assert pipeline.run(task, tmp_path / "run", warn=lambda message: None).gap["task"] == "keywords"


def test_without_a_folder_it_is_that_of_the_command(task, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(pipeline.open_run(task).root) == "runs/keywords"


def test_what_is_doubtful_is_a_warning_of_python_or_told_to_who_asked(result, task, folder):
    with pytest.warns(UserWarning, match="60 rows give wide intervals"):
        pipeline.run(task, folder)
    told = []
    pipeline.run(task, folder, warn=told.append)
    assert any("60 rows give wide intervals" in message for message in told)


def test_a_student_that_cannot_be_exported_by_its_name_is_refused_before_the_teacher_is_asked(task, tmp_path):
    described = yaml.safe_load(task.read_text())
    described["students"]["teacher"] = described["students"].pop("small")
    file = task.with_name("named.yaml")
    file.write_text(yaml.safe_dump(described))
    with pytest.raises(DistillError, match=r"students\.teacher: .*choose another"):
        pipeline.run(file, tmp_path / "run")
    assert not (tmp_path / "run" / ANSWERS).exists()


def test_money_is_bounded(task, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("distill.run.Run.make_labels", lambda self, means: given.append(means) or stop())
    with pytest.raises(DistillError, match="stopped here"):
        pipeline.run(task, tmp_path / "run", max_usd=0.5, warn=lambda message: None)
    assert [means.max_usd for means in given] == [0.5]


def stop():
    raise DistillError("stopped here")
