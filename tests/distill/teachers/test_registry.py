"""Kinds of teachers are found by name, a kind of one's own too, and nothing heavy is loaded for it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from distill import teachers
from distill.sections import FileSource
from distill.teachers import TeacherError, label_order
from distill.teachers.local import LocalConfig
from distill.teachers.recorded import RecordedConfig

ROOT = Path(__file__).parents[3]


def test_the_kinds_are_there():
    assert {"bundle", "causal", "ensemble", "local", "recorded"} <= set(teachers.kinds())


@pytest.mark.parametrize("kind", ["oracle", None, ["local"], {}])
def test_an_unknown_kind_lists_the_known_ones(kind):
    with pytest.raises(TeacherError, match=f"kind: expected one of {', '.join(teachers.kinds())}$"):
        teachers.parse({"kind": kind})
    with pytest.raises(TeacherError, match="kind: expected one of"):
        teachers.create({"kind": kind}, ("a", "b"))


def test_a_configuration_is_typed_by_its_kind():
    assert teachers.parse({"kind": "local", "model": "x"}) == LocalConfig(model="x")
    given = {"kind": "recorded", "logits": "a.npz", "recordings": [{"array": "x", "rows": {"path": "a.csv"}}]}
    parsed = teachers.parse(given)
    assert isinstance(parsed, RecordedConfig)
    assert parsed.recordings[0].rows == FileSource(path=Path("a.csv"))


def test_what_does_not_fit_a_kind_is_named():
    with pytest.raises(ValidationError, match="modle"):
        teachers.parse({"kind": "local", "modle": "x"})


OWN = """
from pydantic import BaseModel

class Config(BaseModel):
    kind: str = "own"

class OwnTeacher:
    config_type = Config
    batch_size = 1
    concurrency = 1
    name, version = "own", "1"

    def __init__(self, labels):
        self.labels = tuple(labels)

    @classmethod
    def from_config(cls, config, labels, account=None):
        return cls(labels)
"""


def test_a_kind_of_ones_own_is_an_entry_point_away(tmp_path, monkeypatch):
    (tmp_path / "own_teacher.py").write_text(OWN)
    info = tmp_path / "own_teacher-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-teacher\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[reflux.teachers]\nown = own_teacher:OwnTeacher\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "own" in teachers.kinds()
    teacher = teachers.create({"kind": "own"}, ("a", "b"))
    assert (teacher.name, teacher.labels) == ("own", ("a", "b"))


def test_importing_teachers_loads_no_model_library():
    code = (
        "import sys, distill.teachers as teachers;"
        "[teachers.teacher_class(kind) for kind in teachers.kinds()];"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()
    heavy = {"torch", "transformers", "pyarrow", "scipy", "accelerate", "datasketch", "matplotlib", "onnx", "optimum"}
    assert "distill" in loaded
    assert not heavy & set(loaded)


def test_label_order_brings_one_order_into_another():
    order = label_order(["c", "a", "b"], ["a", "b", "c"], "it")
    assert np.array([30, 10, 20])[order].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("has", "missing", "unknown"),
    [
        (["a"], "['b']", "[]"),
        (["a", "b", "c"], "[]", "['c']"),
        (["a", "c"], "['b']", "['c']"),
        (["a", "a"], "['b']", "[]"),
    ],
)
def test_other_labels_are_refused_by_name(has, missing, unknown):
    with pytest.raises(TeacherError) as caught:
        label_order(has, ["a", "b"], "the model")
    assert f"the model does not know the task's labels: missing {missing}, unknown {unknown}" in str(caught.value)


def test_a_label_given_twice_is_refused():
    with pytest.raises(TeacherError):
        label_order(["a", "b", "b"], ["a", "b"], "it")
