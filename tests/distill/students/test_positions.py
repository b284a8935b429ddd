"""A model reads as many tokens as it has positions for, not one more: that is found, or a task for more is refused.

What is expected is what transformers does with texts of each length.
"""

import json

import pytest
import torch
from transformers import (
    AutoModel,
    BartConfig,
    BertConfig,
    BloomConfig,
    CamembertConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LongformerConfig,
    MPNetConfig,
    MptConfig,
    OPTConfig,
    RobertaConfig,
    XLMRobertaConfig,
    XLNetConfig,
)

from distill.data.splits import Examples
from distill.errors import DistillError
from distill.sections import Optimisation
from distill.students import encoder
from distill.students import student as base
from distill.students.config import EncoderStudent, StaticStudent
from distill.students.encoder import build, load_pretrained
from distill.students.positions import max_positions
from distill.students.sequence_classifier import load_classifier
from distill.students.static import build as build_static
from distill.students.student import CARD, load_student
from distill.teachers import TeacherError
from distill.teachers.local import LocalConfig, LocalTeacher
from distill.training.finetune import finetune

LONG = "invoice " * 100
SHORT = {"max_position_embeddings": 20}
RELATIVE = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"]}
DISTANCES = {"position_embedding_type": "relative_key_query"}
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}


@pytest.mark.parametrize(
    ("config", "settings", "most"),
    [
        (BertConfig, SHORT, 20),
        (BertConfig, {**SHORT, **DISTANCES}, 20),
        (ElectraConfig, SHORT, 20),
        (DistilBertConfig, {**SHORT, "dim": 16, "n_heads": 2}, 20),
        (RobertaConfig, SHORT, 18),
        (RobertaConfig, {**SHORT, "pad_token_id": 0}, 19),
        (XLMRobertaConfig, SHORT, 18),
        (CamembertConfig, SHORT, 18),
        (MPNetConfig, SHORT, 18),
        (LongformerConfig, {**SHORT, "attention_window": 4}, 18),
        (DebertaV2Config, SHORT, 20),
        (DebertaV2Config, {**SHORT, **RELATIVE}, None),
        (DebertaV2Config, {**SHORT, **RELATIVE, "position_buckets": 8}, None),
        (XLNetConfig, {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16}, None),
        (BloomConfig, {}, None),
        (MptConfig, {"d_model": 16, "n_layers": 1, "n_heads": 2, "max_seq_len": 20}, 20),
        (BartConfig, {**SHORT, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1}, 20),
        (OPTConfig, {**SHORT, "ffn_dim": 16, "word_embed_proj_dim": 16}, 20),
    ],
)
def test_the_most_that_is_found_is_the_most_that_works(config, settings, most):
    own = {} if config in (XLNetConfig, MptConfig) else SIZES
    model = AutoModel.from_config(config(**{**own, **settings})).eval()
    assert max_positions(model) == most

    def read(length):
        ids = torch.full((1, length), 7)
        with torch.inference_mode():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))

    read(most or 200)
    if most is not None:
        with pytest.raises((IndexError, RuntimeError)):
            read(most + 1)


@pytest.fixture
def student(labels):
    """`student(folder, max_tokens)`: an untrained student over a model."""

    def make(folder, max_tokens):
        return build(EncoderStudent(family="encoder", model=str(folder), layers=(0, 1), max_tokens=max_tokens), labels)

    return make


@pytest.mark.parametrize(("config", "most"), [(RobertaConfig, 18), (MPNetConfig, 18), (BertConfig, 20)])
def test_a_student_may_read_the_most_and_no_more(tiny_model, student, config, most):
    folder = tiny_model(config, **SHORT)
    assert student(folder, most).logits([LONG]).shape == (1, 4)
    for asked in (most + 1, 512):
        message = rf"max_tokens is {asked}, but the model has {most} positions; set max_tokens to {most} or less$"
        with pytest.raises(DistillError, match=message):
            student(folder, asked)


def test_a_model_of_distances_may_be_read_at_any_length(tiny_model, student):
    folder = tiny_model(DebertaV2Config, **SHORT, **RELATIVE)
    assert len(student(folder, 90).encode([LONG])[0]) == 90


def test_the_length_that_a_tokenizer_names_is_kept_to(tiny_model, student, labels):
    folder = tiny_model(RobertaConfig, **SHORT, tokenizer={"model_max_length": 12}, labels=labels)
    assert student(folder, 12).logits([LONG]).shape == (1, 4)
    with pytest.raises(
        DistillError, match=r"model_max_length in its tokenizer_config.json is 12; set max_tokens to 12"
    ):
        student(folder, 13)
    assert load_classifier(str(folder), 512).max_tokens == 12


def test_a_static_student_has_no_positions_and_reads_on(tiny_model, labels):
    folder = tiny_model(RobertaConfig, **SHORT, tokenizer={"model_max_length": 12})
    config = StaticStudent(family="static", model=str(folder), hidden=8, max_tokens=90)
    assert len(build_static(config, labels, [LONG]).encode([LONG])[0]) == 90


@pytest.mark.parametrize(
    ("config", "settings", "asked", "most"),
    [
        (RobertaConfig, SHORT, 512, 18),
        (RobertaConfig, SHORT, 10, 10),
        (MPNetConfig, SHORT, 512, 18),
        (BertConfig, SHORT, 512, 20),
        (DebertaV2Config, {**SHORT, **RELATIVE}, 64, 64),
        (BloomConfig, {}, 64, 64),
    ],
)
async def test_a_local_teacher_reads_what_it_can(tiny_model, labels, config, settings, asked, most):
    folder = tiny_model(config, labels=labels, **settings)
    teacher = LocalTeacher.from_config(LocalConfig(model=str(folder), max_tokens=asked), labels)
    (answer,) = await teacher.ask([LONG])
    assert (teacher.model.max_tokens, answer.tokens, answer.outcome) == (most, most, "ok")


def test_a_teacher_that_could_not_read_what_it_is_finetuned_on_is_refused(tiny_model, labels):
    gold = Examples(tuple("123456"), ("invoice parcel",) * 6, ("billing", "shipping") * 3)
    optimisation, folder = Optimisation(epochs=1), str(tiny_model(RobertaConfig, **SHORT))
    with pytest.raises(DistillError, match="max_tokens is 19, but the model has 18 positions; set max_tokens to 18"):
        finetune(folder, gold, labels, max_tokens=19, validation=0.4, optimisation=optimisation)


@pytest.mark.parametrize("family", ["encoder", "sequence-classifier"])
def test_a_student_kept_with_more_than_its_positions_is_refused(tiny_model, student, labels, tmp_path, family):
    folder = tiny_model(RobertaConfig, **SHORT, labels=labels)
    one = student(folder, 18) if family == "encoder" else load_classifier(str(folder), 18)
    one.save(tmp_path / "kept")
    assert load_student(tmp_path / "kept").max_tokens == 18
    card = json.loads((tmp_path / "kept" / CARD).read_text())
    (tmp_path / "kept" / CARD).write_text(json.dumps({**card, "max_tokens": 20}))
    message = r"kept: max_tokens is 20, but the model has 18 positions; set max_tokens to 18 or less and train it again"
    with pytest.raises(DistillError, match=message):
        load_student(tmp_path / "kept")
    with pytest.raises(DistillError, match=message):
        load_pretrained(str(tmp_path / "kept"), 8)
    with pytest.raises(TeacherError, match=message):
        LocalTeacher.from_config(LocalConfig(model=str(tmp_path / "kept")), labels)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_model_that_says_nothing_of_its_limit_is_tried(tiny_model, student, monkeypatch, side):
    folder = tiny_model(RobertaConfig, **SHORT, tokenizer={"truncation_side": side})
    monkeypatch.setattr(encoder, "max_positions", lambda model: None)
    assert student(folder, 18).max_tokens == 18
    message = r"max_tokens is 40, but the model fails on a text of that many .*; set max_tokens to 18 or less$"
    with pytest.raises(DistillError, match=message):
        student(folder, 40)


def test_a_model_that_reads_nothing_is_refused(tiny_encoder, student, monkeypatch):
    def fail(*args, **kwargs):
        raise ValueError("no\nway")

    monkeypatch.setattr(base, "predict", fail)
    with pytest.raises(DistillError, match=r"fails on a text of that many \(no way\); use another model$"):
        student(tiny_encoder, 20)
