"""What a classifier's configuration names its labels is taken as it is meant, or refused by name."""

import json

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer

from distill.errors import DistillError
from distill.students.label_map import is_multi_label, labels_of
from distill.students.sequence_classifier import load_classifier
from distill.teachers import TeacherError
from distill.teachers.local import LocalConfig, LocalTeacher
from tests.support.tiny_models import logits_of_transformers

NAMED = {"0": "a", "1": "b", "2": "c"}
MULTI_LABEL = "multi_label_classification"


@pytest.fixture
def change(tiny_classifier):
    """`change(**settings)`: the folder of a classifier of four labels whose configuration says something else."""

    def make(**settings):
        folder = tiny_classifier("bert")
        card = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**card, **settings}))
        return folder

    return make


@pytest.mark.parametrize(
    ("config", "labels"),
    [
        ({"id2label": NAMED}, ("a", "b", "c")),
        ({"id2label": {"2": "c", "0": "a", "1": "b"}}, ("a", "b", "c")),
        ({"id2label": {0: "a", 1: "b"}}, ("a", "b")),
        ({"id2label": {"0": 5, "1": 10, "2": -1}}, ("5", "10", "-1")),
        ({"id2label": {"0": 0.5, "1": 1.0, "2": "0"}}, ("0.5", "1", "0")),
        ({"id2label": {"0": False, "1": True}}, ("false", "true")),
        ({"id2label": {"0": " a ", "1": "b"}}, ("a", "b")),
        ({"id2label": {"0": "LABEL_1", "1": "b"}}, ("LABEL_1", "b")),
        ({"id2label": NAMED, "num_labels": 3, "problem_type": "single_label_classification"}, ("a", "b", "c")),
        ({"id2label": NAMED, "label2id": {"a": 0, "b": "1", "c": 2}}, ("a", "b", "c")),
        ({"id2label": NAMED, "label2id": {"a": 0.0, "b": 1.0}}, ("a", "b", "c")),
        ({"id2label": NAMED, "label2id": None}, ("a", "b", "c")),
        ({"id2label": NAMED, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}, ("a", "b", "c")),
        ({"id2label": {"0": "toxic"}, "problem_type": MULTI_LABEL}, ("toxic",)),
    ],
)
def test_labels_stand_at_the_places_of_their_logits(config, labels):
    assert labels_of(config, "m") == labels


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "names no labels (id2label); set them"),
        ({"id2label": None}, "names no labels (id2label); set them"),
        ({"id2label": {}}, "names no labels (id2label); set them"),
        ({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, "names no labels (id2label); set them"),
        ({"id2label": ["a", "b"]}, 'id2label is a list; write it as {"0": '),
        ({"id2label": {"1": "a", "2": "b"}}, "id2label numbers its 2 labels 1, 2; number them 0 to 1"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label numbers its 2 labels 0, 2; number them 0 to 1"),
        ({"id2label": {"-1": "a", "0": "b"}}, "id2label numbers its 2 labels -1, 0; number them 0 to 1"),
        ({"id2label": {"0": "a", "00": "b"}}, "id2label numbers its 2 labels 0, 00; number them 0 to 1"),
        ({"id2label": {"a": 0, "b": 1}}, "id2label numbers its 2 labels a, b; number them 0 to 1"),
        ({"id2label": {str(i): "a" for i in range(1, 20)}}, "19 labels 1, 2, 3, 4, 5, 6, 7, 8, …; number them 0 to 18"),
        ({"id2label": {"0": "a", "1": None}}, "id2label names the label 1 None; give it a name"),
        ({"id2label": {"0": "a", "1": "  "}}, "id2label names the label 1 '  '; give it a name"),
        ({"id2label": {"0": float("nan"), "1": "b"}}, "id2label names the label 0 nan; give it a name"),
        ({"id2label": {"0": {}, "1": "b"}}, "id2label names the label 0 {}; give it a name"),
        ({"id2label": {"0": "a", "1": ["b"]}}, "id2label names the label 1 ['b']; give it a name"),
        ({"id2label": {"0": "a", "1": "b", "2": "a"}}, "id2label calls both 0 and 2 'a'"),
        ({"id2label": {"0": 1, "1": "1"}}, "id2label calls both 0 and 1 '1'"),
        ({"id2label": NAMED, "num_labels": 4}, "num_labels is 4, but id2label names 3"),
        ({"id2label": NAMED, "num_labels": "3"}, "num_labels is '3', but id2label names 3"),
        ({"id2label": NAMED, "label2id": {"a": 1, "b": 0, "c": 2}}, "label2id says 'a' is 1, id2label 0"),
        ({"id2label": NAMED, "label2id": ["a", "b", "c"]}, "label2id is a list; leave it out"),
        ({"id2label": NAMED, "problem_type": "regression"}, "problem_type is regression"),
        ({"id2label": {"0": "score"}}, "num_labels is 1, which leaves no choice"),
        ({"id2label": {"0": "score"}, "problem_type": "single_label_classification"}, "set problem_type to multi"),
        ({"id2label": {"0": "LABEL_0"}, "problem_type": MULTI_LABEL}, "names no labels (id2label); set them"),
    ],
)
def test_labels_that_cannot_be_told_are_refused_by_name(config, message):
    with pytest.raises(DistillError) as refused:
        labels_of(config, "m")
    assert str(refused.value).startswith("model m: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_only_the_problem_type_says_that_there_are_several_labels_to_a_text():
    assert is_multi_label({"problem_type": MULTI_LABEL})
    assert not is_multi_label({"problem_type": None})
    assert not is_multi_label({"id2label": {"0": "toxic"}})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id2label": {"1": "a", "2": "b", "3": "c", "4": "d"}}, "id2label numbers its 4 labels 1, 2, 3, 4"),
        ({"id2label": NAMED}, r"weights \['classifier.bias', .* names 3 labels; id2label must"),
    ],
)
def test_a_local_teacher_refuses_them(change, settings, message):
    folder = change(**settings, label2id=None)
    with pytest.raises(TeacherError, match=message) as refused:
        LocalTeacher.from_config(LocalConfig(model=str(folder)), ("a", "b", "c"))
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


async def test_names_that_are_numbers_are_the_tasks_labels(change):
    folder = change(id2label={"0": 1, "1": 2, "2": 3, "3": 4}, label2id=None)
    teacher = LocalTeacher.from_config(LocalConfig(model=str(folder), max_tokens=32), ("4", "3", "2", "1"))
    (answer,) = await teacher.ask(["late parcel"])
    logits = load_classifier(str(folder), 32).logits(["late parcel"])[0]
    np.testing.assert_array_equal(np.argsort(answer.probabilities), np.argsort(logits[::-1]))


def test_one_label_by_a_sigmoid_is_a_classifier_of_several_labels(tiny_classifier):
    folder = tiny_classifier("bert", id2label={0: "toxic"}, problem_type=MULTI_LABEL)
    student = load_classifier(str(folder), 32)
    assert (student.labels, student.multi_label) == (("toxic",), True)
    expected = logits_of_transformers(folder, ["late parcel"])
    np.testing.assert_allclose(student.logits(["late parcel"]), expected, atol=1e-6)


def test_a_model_without_a_trained_head_is_refused(change):
    folder = change()
    AutoModel.from_pretrained(folder).save_pretrained(folder / "bare")
    AutoTokenizer.from_pretrained(folder).save_pretrained(folder / "bare")
    with pytest.raises(DistillError, match=r"carries no weights for \['classifier\.bias', 'classifier"):
        load_classifier(str(folder / "bare"), 32)
