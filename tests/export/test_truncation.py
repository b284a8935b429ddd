"""A model that reads the end of a long text does so as a teacher, as a student, on disk, as a bundle and served."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.students.config import EncoderStudent, StaticStudent
from distill.students.encoder import build as build_encoder
from distill.students.sequence_classifier import load_classifier
from distill.students.static import build as build_static
from distill.students.student import load_student
from distill.teachers.local import LocalConfig, LocalTeacher
from export.bundle.classifier import Classifier
from export.bundle.format import CARD
from export.bundle.teacher import BundleTeacher, BundleTeacherConfig
from export.bundle.verify import verify

MOST = 16
LONG = ["invoice " * 9 + "parcel " * 11, "login " * 30 + "refund", "late " * MOST]
SHORT = ["invoice", "my parcel is late", ""]


@pytest.fixture(scope="module")
def folder(tiny_encoder, labels, tmp_path_factory):
    """A sequence classifier of transformers whose tokenizer leaves out the beginning."""
    path = tmp_path_factory.mktemp("left") / "classifier"
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_encoder, num_labels=len(labels), id2label=dict(enumerate(labels)), initializer_range=2.0
    )
    with torch.no_grad():
        for table in (model.get_input_embeddings(), model.classifier):
            table.weight.mul_(20)
    model.save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_encoder).save_pretrained(path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    (path / "tokenizer_config.json").write_text(json.dumps({**config, "truncation_side": "left"}))
    return path


@pytest.fixture(scope="module")
def theirs(folder):
    """What transformers makes of texts: token ids, and probabilities."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def answer(texts):
        batch = tokenizer(texts, truncation=True, max_length=MOST, padding=True, return_tensors="pt")
        with torch.inference_mode():
            return model(**batch).logits.softmax(-1).numpy()

    answer.ids = lambda texts: tokenizer(texts, truncation=True, max_length=MOST)["input_ids"]  # type: ignore[attr-defined]
    return answer


@pytest.fixture(scope="module", params=["encoder", "static", "sequence-classifier"])
def student(request, folder, labels):
    """A student of each family that starts from it."""
    torch.manual_seed(0)
    if request.param == "encoder":
        return build_encoder(
            EncoderStudent(family="encoder", model=str(folder), layers=(0, 2), max_tokens=MOST), labels
        )
    if request.param == "static":
        return build_static(StaticStudent(family="static", model=str(folder), hidden=8, max_tokens=MOST), labels, LONG)
    return load_classifier(str(folder), MOST)


@pytest.fixture(scope="module")
def bundle(student, build, tmp_path_factory):
    return build(student, tmp_path_factory.mktemp("left") / "bundle")


def test_the_end_is_what_a_student_reads_before_and_after_it_was_kept(student, theirs, tmp_path):
    student.save(tmp_path)
    for one in (student, load_student(tmp_path)):
        assert one.encode(LONG + SHORT) == theirs.ids(LONG + SHORT)


def test_the_end_is_what_a_bundle_reads(bundle, student, theirs):
    classifier = Classifier.load(bundle)
    for text, ids in zip(LONG + SHORT, theirs.ids(LONG + SHORT), strict=True):
        encoded = classifier.encode(text)
        assert (encoded.ids, encoded.truncated) == (ids, text in LONG)
    logits = np.stack([classifier.classify(text).logits for text in LONG + SHORT])
    np.testing.assert_allclose(logits, student.logits(LONG + SHORT), atol=1e-3)
    assert verify(bundle.path) == bundle
    assert bundle.manifest.truncation_side == "left"
    assert "Of a longer text it reads the end" in (bundle.path / CARD).read_text()


@pytest.mark.parametrize("student", ["sequence-classifier"], indirect=True)
async def test_teachers_answer_as_transformers_does(bundle, folder, labels, theirs):
    texts = LONG + SHORT
    expected = theirs(texts)
    assert np.ptp(expected, axis=0).max() > 0.05  # it matters what is read
    for teacher in (
        LocalTeacher.from_config(LocalConfig(model=str(folder), max_tokens=MOST), labels),
        BundleTeacher.from_config(BundleTeacherConfig(path=bundle.path), labels),
    ):
        answers = np.stack([answer.probabilities for answer in await teacher.ask(texts)])
        np.testing.assert_allclose(answers, expected, atol=1e-3)
