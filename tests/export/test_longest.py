"""A bundle answers a text of `max_tokens`, or is neither written, verified nor loaded."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from transformers import BertConfig, DebertaV2Config, LongformerConfig, ModernBertConfig, MPNetConfig, RobertaConfig

from distill.students.config import EncoderStudent
from distill.students.encoder import build as build_encoder
from distill.students.sequence_classifier import load_classifier
from distill.students.static import Static, StaticModule
from distill.students.student import load_student
from distill.teachers import TeacherError
from export.bundle.classifier import Classifier
from export.bundle.format import BundleError
from export.bundle.teacher import BundleTeacher, BundleTeacherConfig
from export.bundle.verify import verify
from export.gates import GateError
from service.errors import StartupError
from service.inference.load import load
from tests.support.tiny_bundle import rewritten

SHORT = {"max_position_embeddings": 20}
RELATIVE = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]}
LONG = "parcel refund " * 100


@pytest.fixture
def export(tiny_model, labels, baseline, build, tmp_path):
    """`export(Config, max_tokens=, **settings)`: the bundle of a random classifier."""

    def make(config, max_tokens=512, beyond=None, **settings):
        student = load_classifier(str(tiny_model(config, labels=labels, **settings)), max_tokens)
        if beyond is not None:
            student = dataclasses.replace(student, max_tokens=beyond)
        few = dataclasses.replace(
            baseline, validation=baseline.validation.take(range(20)), teacher=baseline.teacher[:20]
        )
        return build(student, tmp_path / "bundle", name="tiny", baseline=few)

    return make


@pytest.mark.parametrize(
    ("config", "settings", "most"),
    [
        (BertConfig, SHORT, 20),
        (RobertaConfig, SHORT, 18),
        (MPNetConfig, SHORT, 18),
        (DebertaV2Config, {**SHORT, **RELATIVE}, 48),
    ],
)
def test_a_bundle_reads_as_much_as_the_model(export, config, settings, most):
    bundle = export(config, max_tokens=48, **settings)
    assert bundle.manifest.max_tokens == most
    assert verify(bundle.path) == bundle
    answer = load(bundle.path).stages[0].classifier.classify(LONG)
    assert (answer.tokens, answer.truncated) == (most, True)
    assert np.isfinite(answer.probabilities).all()


def test_a_bundle_has_the_kinds_of_layers_that_the_student_in_memory_has(tiny_model, labels, baseline, build, tmp_path):
    """Of ModernBERT's layers every third attends globally: built by their new indices, two of these would not."""
    special = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 4}
    folder = tiny_model(ModernBertConfig, num_hidden_layers=7, **special)
    config = EncoderStudent(family="encoder", model=str(folder), layers=(0, 3, 6), max_tokens=48)
    student = build_encoder(config, labels)
    with torch.no_grad():
        for parameter in student.network.module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    student.save(tmp_path / "student")
    bundle = build(load_student(tmp_path / "student"), tmp_path / "bundle")
    classifier = Classifier.load(verify(bundle.path))
    texts = [*baseline.validation.texts[:20], LONG, "invoice " * 30 + "login " * 10, "card"]
    answers = np.stack([classifier.classify(text).logits for text in texts])
    np.testing.assert_allclose(answers, student.logits(texts), atol=1e-3)


def test_a_student_that_fails_on_its_longest_text_is_not_exported(export):
    message = r"tiny, a text of 20 tokens \(max_tokens\): the student fails on it \(.*\)\. Lower max_tokens and train"
    with pytest.raises(GateError, match=message):
        export(RobertaConfig, beyond=20, **SHORT)


def test_a_graph_that_fails_on_other_lengths_than_it_was_traced_with_is_not_exported(export):
    """Longformer pads to its window by a length that tracing takes for a constant."""
    with pytest.raises(GateError, match=r"^tiny, plain graph: the graph failed on .*Report this") as refused:
        export(LongformerConfig, max_tokens=60, max_position_embeddings=70, attention_window=16)
    assert "\n" not in str(refused.value)


class LongTextsBranch(StaticModule):
    """Takes another way for long texts, of which a trace of a short one knows nothing."""

    def forward(self, input_ids, attention_mask):
        logits, embedding = super().forward(input_ids, attention_mask)
        return (logits if input_ids.shape[1] < 20 else -logits), embedding


def test_a_graph_that_answers_otherwise_on_long_texts_alone_is_not_exported(students, baseline, build, tmp_path):
    trained = students["static"]
    words, width = trained.network.module.words.weight.shape
    module = LongTextsBranch(words, width, 16, len(trained.labels), pairs=True)
    module.load_state_dict(trained.network.module.state_dict())
    student = dataclasses.replace(trained, network=Static(module))
    assert max(map(len, student.encode(baseline.validation.texts))) < 20
    message = (
        r"^tiny, a text of 24 tokens \(max_tokens\), plain graph does not pass: parity.* Lower max_tokens and train"
    )
    with pytest.raises(GateError, match=message):
        build(student, tmp_path / "bundle", name="tiny")


@pytest.fixture
def overlong(export, tmp_path):
    """A bundle that was written when nothing looked at its `max_tokens`, which are two more than its graph reads."""
    return rewritten(export(RobertaConfig, **SHORT), tmp_path / "overlong", max_tokens=20).path


def test_a_bundle_of_more_tokens_than_its_graph_reads_is_refused_by_all(overlong, labels):
    message = (
        r"overlong: max_tokens is 20, but on a text of that many the graph failed .*train it with max_tokens of 18 "
    )
    with pytest.raises(BundleError, match=message) as refused:
        verify(overlong)
    assert "\n" not in str(refused.value)
    with pytest.raises(StartupError, match=message):
        load(overlong)
    with pytest.raises(TeacherError, match=message):
        BundleTeacher.from_config(BundleTeacherConfig(path=overlong), labels)
    assert json.loads((overlong / "manifest.json").read_text())["max_tokens"] == 20


def test_the_text_that_is_tried_is_as_long_as_may_be(tiny_bundle, monkeypatch):
    lengths = []
    run = Classifier.run
    monkeypatch.setattr(
        Classifier, "run", lambda one, rows: lengths.extend(len(row.ids) for row in rows) or run(one, rows)
    )
    verify(tiny_bundle.path)
    assert max(lengths) == tiny_bundle.manifest.max_tokens
