"""A decoder learns through adapters alone, reads a text by its last token, and is saved as a plain decoder."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModel

from distill.errors import DistillError
from distill.students import decoder as module
from distill.students.config import DecoderStudent
from distill.students.decoder import build
from distill.students.padding import pad
from distill.students.student import load_student
from distill.training.distil import distil

pytest.importorskip("peft", reason="students of the family `decoder` are trained by peft (the extra `lora`)")

TEXTS = ["invoice", "my parcel is late and the courier has no address please help", "login password", "the"]


@pytest.fixture(scope="module")
def config_of(tiny_causal):
    """`config_of(family, **settings)`: a student over a random language model of that family."""

    def make(family="llama", **settings):
        given = {"rank": 4, "max_tokens": 32, "optimisation": {"epochs": 4, "learning_rate": 5e-3}, **settings}
        return DecoderStudent(family="decoder", model=str(tiny_causal(family)), **given)

    return make


@pytest.fixture(params=["llama", "gpt2"])
def student(request, config_of, labels):
    torch.manual_seed(0)
    return build(config_of(request.param), labels)


def trainable(student):
    return {name for name, value in student.network.module.named_parameters() if value.requires_grad}


def test_only_adapters_and_head_are_trained(student):
    names = trainable(student)
    assert {"head.weight", "head.bias"} <= names
    assert all("lora_" in name for name in names - {"head.weight", "head.bias"})
    assert any("lora_" in name for name in names)


def test_padding_changes_no_logits(student):
    together = student.logits(TEXTS)
    alone = np.concatenate([student.logits([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert len({row.tobytes() for row in together}) == len(TEXTS)


def test_the_embedding_is_the_state_of_the_last_token(student):
    rows = student.encode(TEXTS)
    with torch.inference_mode():
        found = student.network.module.eval()(*pad(rows))[1]
        for row, embedding in zip(rows, found, strict=True):
            states = student.network.module.decoder(input_ids=torch.tensor([row])).last_hidden_state
            torch.testing.assert_close(embedding, states[0, -1], atol=1e-5, rtol=1e-4)


def test_it_learns_and_its_adapters_are_merged_where_it_is_saved(config_of, labels, soft_for, splits, tmp_path):
    learn, choose, _ = splits
    config = config_of()
    start = AutoModel.from_pretrained(config.model)
    distilled = distil(config, soft_for(learn, choose), learn, choose, "training")
    assert distilled.record["validation_agreement"] > 0.5  # of four labels
    student = distilled.student
    before = student.logits(TEXTS)
    student.save(tmp_path)
    loaded = load_student(tmp_path)
    np.testing.assert_allclose(loaded.logits(TEXTS), before, atol=1e-4)
    assert loaded.network.family == "decoder"
    plain = AutoModel.from_pretrained(tmp_path / "decoder")
    assert {name for name, _ in plain.named_parameters()} == {name for name, _ in start.named_parameters()}
    same = {name: torch.equal(value, start.state_dict()[name]) for name, value in plain.state_dict().items()}
    assert same["embed_tokens.weight"]
    assert not same["layers.0.self_attn.q_proj.weight"]


def test_merging_twice_changes_nothing_more(student):
    module_ = student.network.module
    with torch.no_grad():
        for name, value in module_.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.1)
    before = student.logits(TEXTS)
    module_.merge_adapters()
    merged = copy.deepcopy(module_.state_dict())
    module_.merge_adapters()
    assert all(torch.equal(value, merged[name]) for name, value in module_.state_dict().items())
    np.testing.assert_allclose(student.logits(TEXTS), before, atol=1e-4)


def test_more_tokens_than_positions_are_refused(config_of, labels):
    with pytest.raises(DistillError, match="max_tokens is 2000, but the model has 1024 positions"):
        build(config_of(max_tokens=2000), labels)


def test_without_peft_it_says_what_to_install(config_of, labels, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DistillError, match=r"needs peft; run `pip install 'reflux\[lora\]'`"):
        build(config_of(), labels)
