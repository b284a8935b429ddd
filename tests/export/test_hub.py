"""A bundle in the hub's layout answers in other libraries as it does here: the softmax of its logits is calibrated."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from distill.task import Export, Gates
from export.build import build_bundle
from export.bundle.classifier import Classifier
from export.hub import GRAPH, export_hub

LOOSE = Gates(agreement=0.5)


def build_one(student, path, baseline, variant):
    return build_bundle(
        student, path, name="small", baseline=baseline, settings=Export(variant=variant, gates=LOOSE), teacher={}
    )


@pytest.fixture(scope="session")
def hubs(students, baseline, tmp_path_factory):
    """For each family a bundle whose graph is int8, and its folder in the hub's layout."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("export.build.measure", lambda graphs, *_, **__: {name: float(name != "int8") for name in graphs})
        for family, student in students.items():
            folder = tmp_path_factory.mktemp(family)
            bundle = build_one(student, folder / "bundle", baseline, "int8")
            export_hub(bundle, folder / "hub")
            made[family] = bundle, folder / "hub"
    return made


@pytest.fixture(params=["encoder", "static", "sequence-classifier"])
def hub(request, hubs):
    """Each of the three in turn."""
    return hubs[request.param]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_others_compute_the_bundles_probabilities(hub, validation):
    from transformers import AutoTokenizer

    bundle, folder = hub
    texts = [*validation.texts[:20], "late", " ".join(["my parcel is late"] * 20)]
    encoded = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
    session = onnxruntime.InferenceSession(folder / GRAPH)
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"] == list(encoded)
    (logits,) = session.run(None, {name: values.astype(np.int64) for name, values in encoded.items()})
    np.testing.assert_allclose(softmax(logits), Classifier.load(bundle).probabilities(texts), atol=1e-4)


def test_the_graph_has_operators_of_the_standard_alone(hub):
    model = onnx.load(hub[1] / GRAPH)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    onnx.checker.check_model(model, full_check=True)


def test_the_configuration_has_the_labels(hub, labels):
    config = json.loads((hub[1] / "config.json").read_text())
    assert config["id2label"] == {str(place): label for place, label in enumerate(labels)}
    assert config["label2id"] == {label: place for place, label in enumerate(labels)}
    assert config["problem_type"] == "single_label_classification"
