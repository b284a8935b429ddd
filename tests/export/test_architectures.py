"""Encoders of other architectures become bundles, which say where ONNX Runtime does not fuse their attention."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, DistilBertConfig, ModernBertConfig, MPNetConfig, RobertaConfig

from distill.students.config import EncoderStudent
from distill.students.encoder import build as build_encoder
from export.bundle.format import CARD, FUSED
from export.gates import GateError
from export.graph import variants

SHAPE: dict[str, Any] = {"num_hidden_layers": 4, "max_position_embeddings": 66}
MODERN = {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}


@pytest.fixture
def bundle_of(tiny_model, build, labels, tmp_path):
    """`bundle_of(Config, **settings)`: the fp32 bundle of two layers of an encoder with large random weights."""

    def make(config, **settings):
        torch.manual_seed(0)
        folder = tiny_model(config, initializer_range=0.2, **SHAPE, **settings)
        student = build_encoder(EncoderStudent(family="encoder", model=str(folder), layers=2, max_tokens=24), labels)
        return build(student, tmp_path / "bundle")

    return make


@pytest.mark.parametrize(
    ("config", "settings", "unpadded"),
    [(BertConfig, {}, True), (DistilBertConfig, {}, True), (RobertaConfig, {}, False)],
)
def test_an_architecture_that_is_fused_says_so(bundle_of, config, settings, unpadded):
    bundle = bundle_of(config, **settings)
    expected = {"architecture": config.model_type, "layers": 2, "fused": 2, "unpadded": unpadded}
    assert bundle.manifest.measured["attention"] == expected
    assert bundle.manifest.gates["fused: layers with fused attention"]["passed"]
    assert FUSED in bundle.manifest.measured["milliseconds_by_variant"]
    reason = bundle.manifest.measured["reason"]
    assert "fuses" not in reason
    assert ("padding is computed for this roberta model: it is slower than a BERT" in reason) == (not unpadded)


@pytest.mark.parametrize(("config", "settings"), [(MPNetConfig, {}), (ModernBertConfig, {"pad_token_id": 0, **MODERN})])
def test_an_architecture_that_is_not_fused_is_measured_and_said_to_be_slower(bundle_of, config, settings):
    bundle = bundle_of(config, **settings)
    measured = bundle.manifest.measured
    assert (measured["attention"]["layers"], measured["attention"]["fused"]) == (2, 0)
    assert not [name for name in bundle.manifest.gates if name.startswith("fused")]
    assert measured["milliseconds"] > 0
    sentence = (
        f"ONNX Runtime fuses the attention of 0 of the 2 layers of this {config.model_type} model, and padding is "
        "computed: it is slower than a BERT of its size, mostly where texts share a run"
    )
    assert measured["reason"].endswith(sentence)
    assert sentence in (bundle.path / CARD).read_text(encoding="utf-8")


def test_a_graph_whose_attention_should_be_fused_and_is_not_is_refused(bundle_of, monkeypatch):
    monkeypatch.setattr(variants, "fuse", lambda plain, target, config: Path(shutil.copyfile(plain, target)))
    message = r"small, fused graph does not pass: fused: layers with fused attention: 0, required 2\. .* to plain"
    with pytest.raises(GateError, match=message):
        bundle_of(BertConfig)


def test_a_student_without_attention_has_none_to_fuse(students, build, tmp_path):
    assert build(students["ngrams"], tmp_path / "bundle").manifest.measured["attention"] is None
