"""A decoder that was trained by LoRA becomes a bundle that computes what it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from distill.students.config import DecoderStudent
from distill.students.student import load_student, probabilities
from distill.training.distil import build_student
from export.bundle.classifier import Classifier

pytest.importorskip("peft", reason="students of the family `decoder` are trained by peft (the extra `lora`)")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_bundle_computes_what_the_decoder_does(kind, tiny_causal, build, labels, validation, tmp_path):
    torch.manual_seed(0)
    config = DecoderStudent(family="decoder", model=str(tiny_causal(kind)), rank=4, max_tokens=24)
    student = build_student(config, labels, validation)
    with torch.no_grad():
        for name, value in student.network.module.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    expected = probabilities(student.logits(validation.texts), 1.0)
    student.save(tmp_path / "student")
    bundle = build(load_student(tmp_path / "student"), tmp_path / "bundle")
    assert bundle.manifest.family == "decoder"
    np.testing.assert_allclose(Classifier.load(bundle).probabilities(validation.texts), expected, atol=1e-4)
    assert f"of this {kind} model" in bundle.manifest.measured["reason"]
