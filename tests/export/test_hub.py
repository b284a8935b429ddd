"""A bundle in the hub's layout answers in other libraries as it does here: the softmax of its logits is calibrated."""

import copy
import dataclasses
import errno
import json
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer, models

from distill.errors import DistillError
from export.bundle.classifier import Classifier
from export.bundle.format import PORTABLE, BundleError
from export.graph.speed import Speeds
from export.hub import GRAPH, export_hub, special_tokens
from tests.support.tiny_bundle import rewritten

SHORT_AND_LONG = ["late", " ".join(["my parcel is late"] * 20)]


def asked_as_others_do(folder, texts):
    """The logits of texts, by transformers' tokenizer and ONNX Runtime."""
    from transformers import AutoTokenizer

    encoded = AutoTokenizer.from_pretrained(folder)(texts, padding=True, truncation=True, return_tensors="np")
    session = onnxruntime.InferenceSession(folder / GRAPH)
    assert [value.name for value in session.get_inputs()] == ["input_ids", "attention_mask"] == list(encoded)
    (logits,) = session.run(None, {name: values.astype(np.int64) for name, values in encoded.items()})
    return logits


def asked_by_optimum(folder, texts, labels):
    """The probabilities of texts, by optimum's model in transformers' pipeline."""
    pytest.importorskip("optimum.onnxruntime", reason="optimum-onnx needs transformers 4", exc_type=ImportError)
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    model, tokenizer = ORTModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None, device="cpu")
    answers = [{each["label"]: each["score"] for each in scores} for scores in classify(texts, truncation=True)]
    return [[scores[label] for label in labels] for scores in answers]


@pytest.fixture(scope="session")
def hubs(students, build, tmp_path_factory):
    """For each family a bundle whose graph is int8, and its folder in the hub's layout."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "export.selection.measure",
            lambda graphs, *_, **__: Speeds({name: np.full(1, 0.5 if name == "int8" else 1.0) for name in graphs}),
        )
        for family, student in students.items():
            folder = tmp_path_factory.mktemp(family)
            bundle = build(student, folder / "bundle", "int8")
            export_hub(bundle, folder / "hub")
            made[family] = bundle, folder / "hub"
    return made


@pytest.fixture(params=["encoder", "static", "ngrams", "sequence-classifier"])
def hub(request, hubs):
    """Each of them in turn."""
    return hubs[request.param]


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_others_compute_the_bundles_probabilities(hub, validation):
    bundle, folder = hub
    texts = [*validation.texts[:20], *SHORT_AND_LONG]
    found = softmax(asked_as_others_do(folder, texts))
    np.testing.assert_allclose(found, Classifier.load(bundle).probabilities(texts), atol=1e-4)


def test_optimum_computes_the_bundles_probabilities(hub, validation):
    bundle, folder = hub
    texts = [*validation.texts[:5], *SHORT_AND_LONG]
    found = asked_by_optimum(folder, texts, bundle.manifest.labels)
    np.testing.assert_allclose(found, Classifier.load(bundle).probabilities(texts), atol=1e-4)


def test_optimum_takes_a_multi_label_bundle_for_one(students, build, tmp_path):
    bundle = build(dataclasses.replace(students["static"], multi_label=True), tmp_path / "bundle")
    export_hub(bundle, tmp_path / "hub")
    found = asked_by_optimum(tmp_path / "hub", ["late"], bundle.manifest.labels)
    np.testing.assert_allclose(found, Classifier.load(bundle).probabilities(["late"]), atol=1e-5)


def test_the_sigmoids_of_a_multi_label_bundle_are_its_probabilities(students, build, tmp_path):
    student = dataclasses.replace(students["sequence-classifier"], multi_label=True)
    bundle = build(student, tmp_path / "bundle", threshold=0.3)
    export_hub(bundle, tmp_path / "hub")
    expected = Classifier.load(bundle).probabilities(SHORT_AND_LONG)
    logits = asked_as_others_do(tmp_path / "hub", SHORT_AND_LONG)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, atol=1e-5)
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["problem_type"] == "multi_label_classification"
    assert "A text has every label from 0.3." in (tmp_path / "hub" / "README.md").read_text()


def test_a_text_is_cut_on_the_students_side(students, build, tmp_path):
    student = copy.deepcopy(students["static"])
    student.tokenizer.enable_truncation(student.max_tokens, direction="left")
    bundle = build(student, tmp_path / "bundle")
    export_hub(bundle, tmp_path / "hub")
    text = " ".join(["invoice"] * 30 + ["crash"] * 30)
    found = softmax(asked_as_others_do(tmp_path / "hub", [text]))
    np.testing.assert_allclose(found, Classifier.load(bundle).probabilities([text]), atol=1e-5)


def test_a_bundle_of_before_there_were_portable_graphs_is_written_too(hubs, tmp_path):
    bundle, folder = hubs["encoder"]
    export_hub(rewritten(bundle, tmp_path / "old", {PORTABLE: None}, portable=None), tmp_path / "hub")
    assert (tmp_path / "hub" / GRAPH).read_bytes() == (folder / GRAPH).read_bytes()


def test_logits_that_do_not_give_the_bundles_answers_are_not_written(hubs, tmp_path):
    other = rewritten(hubs["static"][0], tmp_path / "other", temperature=9.0)
    with pytest.raises(BundleError, match=r"golden row 1, .*: a probability of the written graph is off by"):
        export_hub(other, tmp_path / "hub")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_full_disk_is_told_by_the_folders_name_and_leaves_nothing(hubs, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(onnx, "save", fail)
    with pytest.raises(DistillError, match=r"hub: cannot be written \(.*No space left on device\)"):
        export_hub(hubs["static"][0], tmp_path / "hub")
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_may_be_the_current_one(hubs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export_hub(hubs["static"][0], Path())
    assert (tmp_path / GRAPH).is_file()


@pytest.mark.parametrize(
    ("added", "pad"), [((), None), (("<|endoftext|>",), "<|endoftext|>"), (("<s>", "<pad>", "</s>"), "<pad>")]
)
def test_padding_has_a_token_that_the_tokenizer_holds_for_special(added, pad):
    tokenizer = Tokenizer(models.WordLevel({"late": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(added))
    assert special_tokens(tokenizer).get("pad_token") == pad
    assert "unk_token" not in special_tokens(tokenizer)


def test_the_graph_has_operators_of_the_standard_alone_and_the_configuration_the_labels(hub, labels):
    config = json.loads((hub[1] / "config.json").read_text())
    assert config["id2label"] == {str(place): label for place, label in enumerate(labels)}
    assert config["label2id"] == {label: place for place, label in enumerate(labels)}
    assert config["problem_type"] == "single_label_classification"
    model = onnx.load(hub[1] / GRAPH)
    assert {node.domain for node in model.graph.node} == {""}
    assert [entry.domain for entry in model.opset_import] == [""]
    onnx.checker.check_model(model, full_check=True)
