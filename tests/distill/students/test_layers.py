"""Chosen layers stay of the kind that they are of: in training, on disk, and as layers of a student of that student."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BigBirdConfig,
    Cohere2Config,
    DebertaV2Config,
    DistilBertConfig,
    Gemma3TextConfig,
    LlamaConfig,
    LongformerConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    Qwen2Config,
    SmolLM3Config,
)

from distill.errors import DistillError
from distill.students.config import EncoderStudent
from distill.students.encoder import build
from distill.students.student import load_student
from distill.training.distil import distil

POSITIONS = {"max_position_embeddings": 130, "num_hidden_layers": 8}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODERN = {**POSITIONS, **SPECIAL, "cls_token_id": 1, "sep_token_id": 2, "local_attention": 8}
GROUPED = {**POSITIONS, **SPECIAL, "num_key_value_heads": 2, "sliding_window": 8}
WINDOWS = [4, 8, 4, 16, 4, 8, 4, 8]
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "every third attends globally": (ModernBertConfig, MODERN),
    "a window for each": (LongformerConfig, {**POSITIONS, "attention_window": WINDOWS}),
    "the last half slides": (Qwen2Config, {**GROUPED, "use_sliding_window": True, "max_window_layers": 4}),
    "every sixth attends to all": (Gemma3TextConfig, {**GROUPED, "head_dim": 16}),
    "every fourth attends to all": (Cohere2Config, GROUPED),
    "every fourth knows no positions": (
        SmolLM3Config,
        {**POSITIONS, **SPECIAL, "num_key_value_heads": 2, "no_rope_layer_interval": 4},
    ),
    "a convolution after the first": (DebertaV2Config, {**POSITIONS, "conv_kernel_size": 3, "conv_act": "gelu"}),
    "all of a kind": (BertConfig, POSITIONS),
    "all of a kind, differently named": (DistilBertConfig, POSITIONS),
    "a bias for all": (MPNetConfig, POSITIONS),
    "a decoder": (LlamaConfig, {**POSITIONS, **SPECIAL, "num_key_value_heads": 2}),
    "a decoder that slides": (MistralConfig, GROUPED),
}
TEXTS = ["invoice", "parcel late " * 9, "the courier has my invoice and refund " * 14, "login " * 90, "tax fee " * 60]


@pytest.fixture
def make(labels):
    """`make(folder, layers)`: an untrained student with weights as large as trained ones."""

    def build_with(folder, layers, max_tokens=96):
        torch.manual_seed(0)
        config = EncoderStudent(family="encoder", model=str(folder), layers=layers, max_tokens=max_tokens)
        return grown(build(config, labels))

    return build_with


def grown(student):
    """The student with weights as large as trained ones."""
    with torch.no_grad():
        for parameter in student.network.module.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return student


def same(one, other):
    np.testing.assert_allclose(one.logits(TEXTS), other.logits(TEXTS), atol=1e-5)


@pytest.mark.parametrize("layers", [(0, 3, 6), (7, 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_comes_back_from_disk_as_it_was_trained(tiny_model, make, tmp_path, kind, layers):
    config, settings = KINDS[kind]
    student = make(tiny_model(config, **settings), layers)
    student.save(tmp_path / "student")
    same(load_student(tmp_path / "student"), student)


def kinds(student):
    return [kind(layer) for layer in student.network.module.encoder.layers]


def kind(layer):
    """Whether a layer of ModernBERT attends to all tokens."""
    known = getattr(layer, "attention_type", None)  # since transformers 5
    return layer.attn.local_attention == (-1, -1) if known is None else known == "full_attention"


def test_the_kinds_are_those_of_the_chosen_layers(tiny_model, make, tmp_path):
    folder = tiny_model(ModernBertConfig, **MODERN)
    whole = [kind(layer) for layer in AutoModel.from_pretrained(folder).layers]
    assert 0 < sum(whole) < len(whole)
    for layers in ((0, 3, 6), (1, 2), (0, 2, 5), (4, 0, 3)):
        student = make(folder, layers)
        assert kinds(student) == [whole[index] for index in layers]
        student.save(tmp_path / "student")
        assert kinds(load_student(tmp_path / "student")) == [whole[index] for index in layers]
        assert cast(Any, load_student(tmp_path / "student").network.module).config.num_hidden_layers == len(layers)
        shutil.rmtree(tmp_path / "student")


def test_layers_are_taken_of_a_student_of_some_layers(tiny_model, make, tmp_path):
    folder = tiny_model(ModernBertConfig, **MODERN)
    first = make(folder, (1, 3, 5, 6))
    first.save(tmp_path / "first")
    second = make(tmp_path / "first", (3, 0, 1))
    assert kinds(second) == [kinds(make(folder, (6, 1, 3)))[index] for index in range(3)]
    second.save(tmp_path / "second")
    same(load_student(tmp_path / "second"), second)
    third = make(tmp_path / "second", (0, 2))
    third.save(tmp_path / "third")
    same(load_student(tmp_path / "third"), third)
    assert kinds(third) == [True, True]


def test_an_encoder_of_one_kind_of_layer_is_written_as_any_of_transformers(tiny_model, make, tmp_path):
    student = make(tiny_model(BertConfig, **POSITIONS), (0, 2))
    student.save(tmp_path / "student")
    config = json.loads((tmp_path / "student" / "encoder" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    assert not [key for key in config if "taken" in key]
    theirs = AutoModel.from_pretrained(tmp_path / "student" / "encoder").eval()
    ours = student.network.module.encoder
    ids = torch.tensor(student.encode(TEXTS[2:3]))
    with torch.inference_mode():
        torch.testing.assert_close(theirs(ids).last_hidden_state, ours(ids).last_hidden_state)


def test_small_weights_hide_no_kind(tiny_model, labels, tmp_path):
    """What a layer's kind changes is too little to see in an encoder that has learned nothing, until it has."""
    folder = tiny_model(ModernBertConfig, **{**MODERN, "initializer_range": 1e-4})
    config = EncoderStudent(family="encoder", model=str(folder), layers=(0, 3, 6), max_tokens=96)
    student = grown(build(config, labels))
    student.save(tmp_path / "student")
    same(load_student(tmp_path / "student"), student)


def test_trained_layers_answer_on_disk_as_they_did_in_memory(tiny_model, soft_for, splits, tmp_path):
    learn, choose, _ = splits
    learn, choose = learn.take(range(64)), choose.take(range(32))
    config = EncoderStudent(
        family="encoder",
        model=str(tiny_model(ModernBertConfig, **{**MODERN, "local_attention": 4})),
        layers=(1, 2, 6),
        max_tokens=32,
        optimisation={"epochs": 2, "learning_rate": 1e-2},
    )
    student = distil(config, soft_for(learn, choose), learn, choose, "training").student
    student.save(tmp_path / "student")
    np.testing.assert_allclose(
        load_student(tmp_path / "student").logits(choose.texts), student.logits(choose.texts), atol=1e-5
    )


def test_an_encoder_that_no_folder_gives_back_is_refused_before_it_is_trained(tiny_model, make, monkeypatch):
    """As with ModernBERT's decoder of transformers 4, whose configuration writes no `local_attention`."""
    folder = tiny_model(BertConfig, **POSITIONS, hidden_act="relu")
    written = BertConfig.to_dict
    monkeypatch.setattr(
        BertConfig, "to_dict", lambda self: {key: value for key, value in written(self).items() if key != "hidden_act"}
    )
    with pytest.raises(DistillError, match=r"layers \[1, 2\]: .* gives other answers when it is rebuilt from its"):
        make(folder, (1, 2))


def test_an_encoder_whose_answers_hang_on_what_it_read_before_is_refused(tiny_model, make):
    """BigBird attends to random blocks until it meets a text that is short, and to all tokens from then on."""
    settings = {**POSITIONS, "block_size": 4, "num_random_blocks": 1, "attention_type": "block_sparse"}
    with pytest.raises(DistillError, match="96 tokens changes once it has read a short one; lower max_tokens, or use"):
        make(tiny_model(BigBirdConfig, initializer_range=0.5, **settings), (0, 1))
    settings["attention_type"] = "original_full"
    assert make(tiny_model(BigBirdConfig, **settings), (0, 1)).logits(TEXTS).shape == (5, 4)


def test_a_student_that_was_kept_with_other_layers_than_its_own_is_refused(tiny_model, make, tmp_path):
    student = make(tiny_model(ModernBertConfig, **MODERN), (1, 2))
    student.save(tmp_path / "student")
    path = tmp_path / "student" / "encoder" / "config.json"
    config = json.loads(path.read_text())
    config["num_hidden_layers"] = len(config["taken_layers"])
    own = {key: value for key, value in config.items() if "taken" not in key and key != "layer_types"}
    path.write_text(json.dumps(own))
    with pytest.raises(DistillError, match=r"its layers do not match its weights: layers\.0\.attn_norm\.weight"):
        load_student(tmp_path / "student")


def test_a_student_that_does_not_come_back_as_it_was_is_not_kept(tiny_model, make, tmp_path, monkeypatch):
    student = make(tiny_model(BertConfig, **POSITIONS), (0, 2))
    load = type(student.network).load.__func__

    def other(cls, folder, classes):
        network = load(cls, folder, classes)
        with torch.no_grad():
            network.module.head.bias.add_(0.5)
        return network

    monkeypatch.setattr(type(student.network), "load", classmethod(other))
    message = re.escape("gives other answers than the trained one (a logit is off by 0.5)")
    with pytest.raises(DistillError, match=message):
        student.save(tmp_path / "student")
