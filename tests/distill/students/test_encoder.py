"""An encoder student has the layers that were chosen, answers alike alone and in a batch, and survives the disk."""

from __future__ import annotations

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
)

from distill.errors import DistillError
from distill.students.config import EncoderStudent
from distill.students.encoder import build, load_pretrained, load_tokenizer
from distill.students.layers import select_layers, spread
from distill.students.padding import pad
from distill.students.student import CARD, load_student, network_class
from tests.support.tiny_models import write_encoder

TEXTS = ["invoice", "my parcel is late and the courier has no address please help", "login password", "the"]


@pytest.fixture
def make(tiny_encoder, labels):
    def build_with(**settings):
        given = {"family": "encoder", "model": str(tiny_encoder), "layers": (0, 2), "max_tokens": 32, **settings}
        return build(EncoderStudent(**given), labels)

    return build_with


@pytest.mark.parametrize("attention", [0.0, 0.5])
@pytest.mark.parametrize("kind", [BertConfig, MPNetConfig, DistilBertConfig, DebertaV2Config])
def test_dropout_of_attention_weights_stays_and_no_other_does(kind, attention, labels, tmp_path):
    key, hidden = "attention_probs_dropout_prob", {"hidden_dropout_prob": 0.5}
    if kind is DistilBertConfig:
        key, hidden = "attention_dropout", {"dropout": 0.5}
    write_encoder(tmp_path, kind, **{key: attention, **hidden})
    config = EncoderStudent(family="encoder", model=str(tmp_path), layers=2, max_tokens=16)
    student = build(config, labels)
    ids, mask = pad(student.encode(TEXTS))
    student.network.module.train()
    answers = [student.network.module(ids, mask)[0] for _ in range(2)]
    assert torch.equal(*answers) == (attention == 0)


@pytest.mark.parametrize("layers", [(0,), (0, 2), (2, 0), (0, 1, 2)])
def test_the_layers_are_those_that_were_chosen(make, tiny_encoder, layers):
    whole = AutoModel.from_pretrained(tiny_encoder).encoder.layer
    encoder = make(layers=layers).network.module.encoder
    assert len(encoder.encoder.layer) == encoder.config.num_hidden_layers == len(layers)
    for kept, index in zip(encoder.encoder.layer, layers, strict=True):
        for name, value in kept.state_dict().items():
            assert torch.equal(value, whole[index].state_dict()[name])


def test_a_number_of_layers_is_taken_evenly(make, tiny_encoder):
    whole = AutoModel.from_pretrained(tiny_encoder).encoder.layer
    for count, taken in ((1, [0]), (2, [0, 2]), (3, [0, 1, 2])):
        kept = make(layers=count).network.module.encoder.encoder.layer
        names = [
            [at for at in range(3) if torch.equal(each.output.dense.weight, whole[at].output.dense.weight)]
            for each in kept
        ]
        assert names == [[at] for at in taken]
    with pytest.raises(DistillError, match=r"layers 4: the model has 3; set layers to 1 to 3"):
        make(layers=4)


@pytest.mark.parametrize(
    ("count", "depth", "taken"),
    [
        (1, 6, (0,)),
        (2, 6, (0, 5)),
        (3, 6, (0, 2, 5)),
        (4, 6, (0, 2, 3, 5)),
        (6, 6, (0, 1, 2, 3, 4, 5)),
        (6, 12, (0, 2, 4, 7, 9, 11)),
        (1, 1, (0,)),
    ],
)
def test_evenly_means_from_the_first_to_the_last(count, depth, taken):
    assert spread(count, depth) == taken


@pytest.mark.parametrize("layers", [(), (3,), (0, 5), (-1,), (1, 1)])
def test_layers_that_are_not_there_are_refused(make, layers):
    with pytest.raises(DistillError, match=r"the model has layers 0 to 2"):
        make(layers=layers)


def test_other_architectures_have_their_layers_taken_too():
    config = DistilBertConfig(vocab_size=20, dim=8, hidden_dim=16, n_layers=4, n_heads=2, max_position_embeddings=16)
    model = DistilBertModel(config)
    last = model.transformer.layer[3].ffn.lin1.weight
    select_layers(model, (1, 3))
    assert model.config.n_layers == 2
    assert model.transformer.layer[1].ffn.lin1.weight is last


def test_a_model_without_layers_is_refused():
    with pytest.raises(DistillError, match="cannot find the layers of a Linear; use a BERT-like encoder"):
        select_layers(torch.nn.Linear(2, 2), (0,))


def test_padding_by_hand_changes_neither_logits_nor_embedding(make):
    student = make()
    module = student.network.module.eval()
    ids, mask = pad(student.encode(TEXTS[:1]))
    wide = torch.nn.functional.pad(ids, (0, 20)), torch.nn.functional.pad(mask, (0, 20))
    with torch.inference_mode():
        for narrow, padded in zip(module(ids, mask), module(*wide), strict=True):
            torch.testing.assert_close(narrow, padded, atol=1e-5, rtol=0)


def test_texts_are_cut_at_max_tokens(make):
    student = make(max_tokens=8)
    (row,) = student.encode(["invoice " * 50])
    assert len(row) == 8
    np.testing.assert_array_equal(student.logits(["invoice " * 50]), student.logits(["invoice " * 6]))


def test_max_tokens_may_be_as_many_as_the_positions_and_no_more(make):
    assert make(max_tokens=64).logits(["invoice " * 200]).shape == (1, 4)
    with pytest.raises(DistillError, match="tiny-bert: max_tokens is 65, but the model has 64 positions"):
        make(max_tokens=65)


@pytest.fixture(scope="module")
def ours(trained_encoder, tmp_path_factory):
    """The folder of a student that was trained before."""
    folder = tmp_path_factory.mktemp("students") / "ours"
    trained_encoder.student.save(folder)
    return folder


def test_a_student_of_ours_lends_its_layers_and_its_head(make, ours, trained_encoder):
    taught = trained_encoder.student.network.module
    module = make(model=str(ours), layers=(1,)).network.module
    for name, value in module.encoder.encoder.layer[0].state_dict().items():
        assert torch.equal(value, taught.encoder.encoder.layer[1].state_dict()[name])
    assert torch.equal(module.head.weight, taught.head.weight)
    whole = make(model=str(ours), layers=(0, 1))
    np.testing.assert_array_equal(whole.logits(TEXTS), trained_encoder.student.logits(TEXTS))
    assert whole.temperature == 1.0


def test_a_head_is_lent_for_the_same_labels_alone(ours, labels, trained_encoder):
    config = EncoderStudent(family="encoder", model=str(ours), layers=(0,), max_tokens=32)
    heads = trained_encoder.student.network.module.head
    for other in (labels[::-1], labels[:2]):
        module: Any = build(config, other).network.module
        assert module.head.out_features == len(other)
        assert not torch.equal(module.head.weight[:2], heads.weight[:2])


def test_a_student_of_ours_has_no_more_positions_than_its_encoder(make, ours):
    with pytest.raises(DistillError, match="ours: max_tokens is 65, but the model has 64 positions"):
        make(model=str(ours), layers=(0,), max_tokens=65)


def test_a_student_without_an_encoder_lends_none(make, trained_static, tmp_path):
    trained_static.student.save(tmp_path)
    with pytest.raises(DistillError, match="a static student has no encoder to start from"):
        make(model=str(tmp_path))


def test_a_student_comes_back_with_no_parameter_more_or_less(trained_encoder, ours):
    loaded, trained = (student.network.module.state_dict() for student in (load_student(ours), trained_encoder.student))
    assert set(loaded) == set(trained)
    assert all(torch.equal(loaded[name], trained[name]) for name in trained)


def test_a_student_gives_several_labels_as_before_it_was_kept_and_one_where_its_card_says_nothing(
    trained_encoder, tmp_path
):
    dataclasses.replace(trained_encoder.student, multi_label=True).save(tmp_path)
    assert load_student(tmp_path).multi_label
    card = json.loads((tmp_path / CARD).read_text())
    del card["multi_label"]
    (tmp_path / CARD).write_text(json.dumps(card))
    assert not load_student(tmp_path).multi_label


def test_a_student_of_other_labels_than_its_head_is_refused(make, tmp_path):
    make().save(tmp_path)
    card = json.loads((tmp_path / "student.json").read_text())
    (tmp_path / "student.json").write_text(json.dumps({**card, "labels": ["a", "b"]}))
    with pytest.raises(DistillError, match="not a trained student"):
        load_student(tmp_path)


def test_an_unknown_family_is_refused():
    with pytest.raises(DistillError, match="unknown family 'tree'; expected one of encoder, decoder, ngrams, static"):
        network_class("tree")


@pytest.mark.parametrize("damage", ["nothing there", "no weights", "weights cut off"])
def test_a_model_that_cannot_be_loaded_is_refused(tiny_encoder, tmp_path, damage):
    folder = tmp_path / "model"
    if damage != "nothing there":
        shutil.copytree(tiny_encoder, folder)
        (folder / "model.safetensors").unlink()
    if damage == "weights cut off":
        (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(DistillError, match=r"cannot be loaded .*give a folder, package:NAME or a hub id"):
        load_pretrained(str(folder), 16)


def test_a_model_without_a_fast_tokenizer_is_refused(tmp_path):
    config = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(DistillError, match="has no fast tokenizer"):
        load_tokenizer(str(tmp_path))
