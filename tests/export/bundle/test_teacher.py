"""A bundle as a teacher answers what the bundle answers, in the order of the labels it is asked for."""

import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from distill import teachers
from distill.teachers import TeacherError
from export.bundle.classifier import Classifier
from export.bundle.teacher import BundleTeacher, BundleTeacherConfig
from tests.support.broken_bundles import FAULTS
from tests.support.tiny_bundle import rewritten

ROOT = Path(__file__).parents[3]
TEXTS = ["my invoice", "login login", "a parcel and a refund", ""]


@pytest.fixture
def create(tiny_teacher, words):
    """`create(labels, **settings)`: the teacher of `tiny_teacher`, made as a task makes it."""

    def make(labels=tuple(words), **settings):
        return teachers.create({"kind": "bundle", "path": str(tiny_teacher.path), **settings}, labels)

    return make


@pytest.fixture
def expected(tiny_teacher):
    """What the bundle answers to TEXTS."""
    return Classifier.load(tiny_teacher).probabilities(TEXTS)


async def test_it_answers_what_the_bundle_answers(create, expected):
    answers = await create().ask(TEXTS)
    np.testing.assert_array_equal(np.stack([answer.probabilities for answer in answers]), expected)
    assert {(answer.method, answer.outcome) for answer in answers} == {("local", "ok")}


def test_its_hidden_states_are_the_embeddings_of_the_bundle(create, tiny_teacher):
    classifier = Classifier.load(tiny_teacher)
    states = create().embed(TEXTS)
    assert states.shape == (len(TEXTS), len(classifier.classify(TEXTS[0]).embedding))
    np.testing.assert_array_equal(states, np.stack([classifier.classify(text).embedding for text in TEXTS]))


async def test_labels_in_another_order_get_their_own_probabilities(create, words, expected):
    labels = list(words)[::-1]
    teacher = create(labels)
    assert teacher.labels == tuple(labels)
    answers = await teacher.ask(TEXTS)
    np.testing.assert_array_equal(np.stack([answer.probabilities for answer in answers]), expected[:, ::-1])
    assert labels[answers[0].probabilities.argmax()] == "billing"


def test_a_multi_label_bundle_is_no_teacher(make_bundle, tmp_path, words):
    bundle = make_bundle(tmp_path / "bundle", multi_label=True)
    with pytest.raises(TeacherError, match=rf"{bundle.path} is multi-label"):
        teachers.create({"kind": "bundle", "path": str(bundle.path)}, tuple(words))


def test_it_is_the_kind_bundle_and_known_by_name_and_version(create, tiny_teacher):
    teacher = create()
    assert isinstance(teacher, BundleTeacher)
    assert teacher.name == "bundle:tiny-teacher"
    assert teacher.version == tiny_teacher.manifest.version
    assert "bundle" in teachers.kinds()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("billing", "shipping", "account", "returns"), r"missing \['returns'\], unknown \['technical'\]"),
        (("billing", "shipping"), "does not know the task's labels"),
        (("billing", "shipping", "account", "technical", "returns"), "does not know the task's labels"),
    ],
)
def test_other_labels_are_refused(create, labels, message):
    with pytest.raises(TeacherError, match=message):
        create(labels)


def test_a_directory_that_is_no_bundle_is_refused_by_name(tmp_path, words):
    with pytest.raises(TeacherError, match=f"{tmp_path}: no manifest.json"):
        teachers.create({"kind": "bundle", "path": str(tmp_path)}, list(words))


@pytest.mark.parametrize("settings", [{"threads": 0}, {"usd_per_hour": -1}, {"colour": "red"}])
def test_settings_that_do_not_fit_are_refused(create, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        create(**settings)


async def test_a_text_that_the_graph_fails_on_is_invalid_and_the_others_are_not(create):
    answers = await create(usd_per_hour=3600.0).ask(["my invoice", "poison", "login"])
    assert [answer.outcome for answer in answers] == ["ok", "invalid", "ok"]
    assert answers[1].probabilities is None
    assert answers[1].cost_usd == pytest.approx(answers[1].seconds)
    assert answers[2].probabilities is not None


async def test_tokens_time_and_cost_are_counted(create):
    answers = await create(usd_per_hour=3600.0).ask(["my invoice", "invoice " * 100])
    assert [answer.tokens for answer in answers] == [3, 32]
    for answer in answers:
        assert answer.seconds > 0
        assert answer.cost_usd == pytest.approx(answer.seconds)


async def test_without_a_price_an_answer_costs_nothing(create):
    (answer,) = await create().ask(["my invoice"])
    assert answer.cost_usd == 0


async def test_it_answers_off_the_event_loop(tiny_teacher, words, monkeypatch):
    threads = []
    classify = Classifier.classify
    monkeypatch.setattr(
        Classifier, "classify", lambda self, text: threads.append(threading.get_ident()) or classify(self, text)
    )
    teacher = BundleTeacher.from_config(BundleTeacherConfig(path=tiny_teacher.path), list(words))
    await teacher.ask(TEXTS)
    await teacher.aclose()
    assert len(threads) == len(TEXTS)
    assert threading.get_ident() not in threads


def test_importing_it_loads_no_training_library():
    code = "import export.bundle.teacher, sys, json; print(json.dumps(sorted({n.split('.')[0] for n in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "optimum", "accelerate", "onnx", "scipy", "pyarrow", "matplotlib", "datasketch"}
    assert set(json.loads(done.stdout)) & heavy == set()


@pytest.mark.parametrize(
    "name",
    ["labels: equal", "graph has three classes", "tokenizer has ids beyond the graph's", "graph is cut off at 0.5"],
)
def test_a_bundle_with_anything_wrong_is_no_teacher(tiny_bundle, tmp_path, words, name):
    folder = shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    FAULTS[name].apply(folder)
    with pytest.raises(TeacherError) as refused:
        teachers.create({"kind": "bundle", "path": str(folder)}, tuple(words))
    assert re.search(FAULTS[name].names, str(refused.value))


def test_the_bundle_of_a_teacher_names_the_teacher_that_it_was_exported_from(tiny_teacher, tmp_path, words):
    learned = {"name": "local:large", "version": "7"}
    for role, origin in (("teacher", ("local:large", "7")), ("student", None)):
        bundle = rewritten(tiny_teacher, tmp_path / role, role=role, teacher=learned)
        assert BundleTeacher(bundle, tuple(words)).origin == origin
