"""A student without some heads and neurons computes what the whole one does when their outputs are 0."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, DistilBertConfig, ElectraConfig, ModernBertConfig, RobertaConfig, XLMRobertaConfig

from distill.errors import DistillError
from distill.students.config import EncoderStudent
from distill.students.encoder import build as build_encoder
from distill.students.prunable import prunable_layers

SHAPE: dict[str, Any] = {"num_attention_heads": 4, "intermediate_size": 24, "max_position_embeddings": 66}
KEPT = [([1, 2, 3], [0, 5, 6, 23]), ([0], list(range(20)))]
"""The heads and the neurons of each of two layers."""


def zeroed(student, heads, neurons):
    """A copy whose products read 0 from all but these heads and neurons."""
    copy = deepcopy(student)
    for layer, own_heads, own_neurons in zip(prunable_layers(copy.network.module.encoder), heads, neurons, strict=True):
        for product, count, kept in (
            (layer.behind_attention, layer.heads, own_heads),
            (layer.behind_neurons, layer.neurons, own_neurons),
        ):
            gone = torch.ones(count, dtype=torch.bool)
            gone[kept] = False
            with torch.no_grad():
                product.weight[:, gone.repeat_interleave(product.in_features // count)] = 0
    return copy


@pytest.mark.parametrize("config", [BertConfig, RobertaConfig, XLMRobertaConfig, ElectraConfig, DistilBertConfig])
def test_what_is_left_computes_what_the_whole_does_without_the_rest(config, tiny_model, labels):
    torch.manual_seed(0)
    folder = tiny_model(config, initializer_range=0.2, **SHAPE)
    student = build_encoder(EncoderStudent(family="encoder", model=str(folder), layers=2, max_tokens=24), labels)
    texts = ["my invoice is late", "please help me with my parcel today", "refund"]
    expected = zeroed(student, *zip(*KEPT, strict=True)).logits(texts)
    assert np.abs(student.logits(texts) - expected).max() > 1e-2
    before = sum(parameter.numel() for parameter in student.network.module.parameters())
    for layer, (heads, neurons) in zip(prunable_layers(student.network.module.encoder), KEPT, strict=True):
        layer.keep_heads(heads)
        layer.keep_neurons(neurons)
        assert (layer.heads, layer.neurons) == (len(heads), len(neurons))
    np.testing.assert_allclose(student.logits(texts), expected, atol=1e-5)
    assert sum(parameter.numel() for parameter in student.network.module.parameters()) < before


def test_an_architecture_whose_parts_have_other_names_is_refused(tiny_model, labels):
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    folder = tiny_model(ModernBertConfig, **SHAPE, **special)
    student = build_encoder(EncoderStudent(family="encoder", model=str(folder), layers=2, max_tokens=24), labels)
    with pytest.raises(DistillError, match=r"export\.prune: cannot prune a modernbert model, only bert, .* remove the"):
        prunable_layers(student.network.module.encoder)
