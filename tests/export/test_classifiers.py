"""A bundle of somebody else's classifier answers as transformers does, each text alone and in any run."""

import numpy as np
import pytest

from distill.data.splits import Validation
from distill.errors import DistillError
from distill.students.sequence_classifier import load_classifier
from distill.students.student import probabilities
from distill.task import Gates
from export import selection, served_graph
from export.build import Baseline
from export.bundle.classifier import Classifier, InferenceError
from export.bundle.verify import verify
from export.gates import GateError
from export.graph.speed import Speeds
from export.torch_to_onnx import export_onnx
from tests.support.tiny_models import logits_of_transformers

TEXTS = (
    "refund",
    "my parcel is late again and nobody answers",
    "login",
    "the invoice was wrong, please help",
    "box <pad> address",
    "it ends with <pad>",
)
MAX_TOKENS = 40


@pytest.fixture
def bundle_of(build, tmp_path):
    """`bundle_of(student, variant)`: its bundle, over `TEXTS`."""

    def make(student, variant="fp32"):
        count = len(student.labels)
        texts = Validation(tuple(map(str, range(len(TEXTS)))), TEXTS, (None,) * len(TEXTS))
        baseline = Baseline(texts, np.full((len(TEXTS), count), 1 / count, dtype=np.float32))
        return build(
            student, tmp_path / "bundle", variant, gates=Gates(agreement=0.1), name="classifier", baseline=baseline
        )

    return make


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("gpt2", {"special": False}),
        ("gpt2", {"special": False, "pad_token_id": None}),
        ("gpt2", {"special": False, "types": True}),
        ("qwen2", {"special": False}),
        ("llama", {"special": False, "pad_token_id": 0}),
        ("opt", {"special": False}),
        ("roberta", {}),
        ("bert", {}),
        ("deberta-v2", {}),
        ("modernbert", {}),
    ],
)
def test_answers_are_those_of_transformers_alone_and_in_any_run(tiny_classifier, bundle_of, kind, settings):
    folder = tiny_classifier(kind, **settings)
    expected = probabilities(logits_of_transformers(folder, TEXTS), 1.0)
    bundle = bundle_of(load_classifier(str(folder), MAX_TOKENS))
    classifier = Classifier.load(bundle)
    rows = [classifier.encode(text) for text in TEXTS]
    alone = [classifier.run([row])[0].probabilities for row in rows]
    together = [answer.probabilities for answer in classifier.run(rows)]
    np.testing.assert_allclose(alone, expected, atol=1e-5)
    np.testing.assert_allclose(together, expected, atol=1e-5)


def test_a_graph_in_which_texts_that_share_a_run_change_each_other_is_refused(tiny_classifier, bundle_of, monkeypatch):
    def badly(student, path):
        monkeypatch.setattr(student.network.module, "pad_id", 0)
        export_onnx(student, path)
        monkeypatch.undo()

    student = load_classifier(str(tiny_classifier("gpt2", special=False)), MAX_TOKENS)
    monkeypatch.setattr(served_graph, "export_onnx", badly)
    with pytest.raises(GateError, match="classifier, 6 texts in one run, plain graph does not pass: parity: largest"):
        bundle_of(student)


def test_a_text_without_tokens_has_no_answer(tiny_classifier, bundle_of):
    student = load_classifier(str(tiny_classifier("gpt2", special=False)), MAX_TOKENS)
    classifier = Classifier.load(bundle_of(student))
    with pytest.raises(InferenceError, match="the tokenizer finds no token in this text"):
        classifier.encode("")


def test_an_architecture_that_cannot_be_exported_is_refused_by_name(tiny_classifier, tmp_path):
    student = load_classifier(str(tiny_classifier("diffllama", special=False)), MAX_TOKENS)
    with pytest.raises(
        DistillError, match=r"^a diffllama model cannot be exported as ONNX \(.*\); use another"
    ) as refused:
        export_onnx(student, tmp_path / "model.onnx")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_one_label_by_a_sigmoid_becomes_a_bundle_that_passes(tiny_classifier, bundle_of, monkeypatch, variant):
    monkeypatch.setattr(
        selection,
        "measure",
        lambda graphs, *_, **__: Speeds({name: np.full(1, 1 - at / 9) for at, name in enumerate(graphs)}),
    )
    folder = tiny_classifier("bert", id2label={0: "toxic"}, problem_type="multi_label_classification")
    bundle = bundle_of(load_classifier(str(folder), MAX_TOKENS), variant)
    assert (bundle.manifest.labels, bundle.manifest.multi_label) == (("toxic",), True)
    verify(bundle.path)
    expected = 1 / (1 + np.exp(-logits_of_transformers(folder, TEXTS)))
    found = Classifier.load(bundle).probabilities(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5 if variant == "fp32" else 0.1)
