"""A classifier answers each text as transformers does for that text alone, whatever it shares a batch with."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from distill.errors import DistillError
from distill.sections import Optimisation
from distill.students.config import StaticStudent
from distill.students.encoder import classifier_over
from distill.students.padding import fill_padding, pad
from distill.students.sequence_classifier import load_classifier
from distill.students.static import build as build_static
from distill.students.student import load_student, predict, probabilities
from distill.students.transformers_versions import FIVE
from distill.students.vocabulary import compact_tables
from distill.training.loop import train
from tests.support.tiny_models import logits_of_transformers

TEXTS = (
    "refund",
    "my parcel is late again and nobody answers the phone",
    "login",
    "the invoice was wrong, please help: crash after update",
    "box <pad> address",
    "ends with what pads <pad>",
    "twice <pad><pad>",
    "<pad>",
)
MAX_TOKENS = 48
NONE, OUTSIDE = None, 50_000


def answers_of(student, *, batch_size) -> np.ndarray:
    return probabilities(student.logits(TEXTS, batch_size=batch_size), student.temperature)


def assert_right(folder) -> None:
    """Alone, in one batch and in pairs, and after the classifier was saved, the answers are those of transformers."""
    expected = probabilities(logits_of_transformers(folder, TEXTS), 1.0)
    assert np.ptp(expected, axis=0).max() > 0.05
    student = load_classifier(str(folder), MAX_TOKENS)
    for batch_size in (1, 2, len(TEXTS)):
        np.testing.assert_allclose(answers_of(student, batch_size=batch_size), expected, atol=1e-5)
    student.save(folder / "saved")
    np.testing.assert_allclose(answers_of(load_student(folder / "saved"), batch_size=3), expected, atol=1e-5)


# Which architectures are right


@pytest.mark.parametrize(
    ("kind", "pad_id"),
    [*((kind, pad_id) for kind in ("gpt2", "qwen2", "opt") for pad_id in (5, 0, 1, NONE, -1)), ("gpt2", OUTSIDE)],
)
def test_a_classifier_over_a_decoder_answers_as_transformers_does_for_each_text_alone(tiny_classifier, kind, pad_id):
    folder = tiny_classifier(kind, special=False)
    card = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**card, "pad_token_id": pad_id}))
    assert_right(folder)


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma", "bloom", "qwen3", "gpt_neox", "phi", "falcon"])
def test_so_do_decoders_of_other_families(tiny_classifier, kind):
    assert_right(tiny_classifier(kind, special=False))


@pytest.mark.parametrize(
    "kind", ["bert", "roberta", "xlm-roberta", "distilbert", "albert", "electra", "deberta-v2", "mpnet", "modernbert"]
)
@pytest.mark.parametrize("pad_id", [5, 0])
def test_encoders_do_whatever_their_padding_id(tiny_classifier, kind, pad_id):
    assert_right(tiny_classifier(kind, pad_token_id=pad_id))


@pytest.mark.parametrize(("kind", "told"), [("gpt2", True), ("bert", False), ("roberta", False)])
def test_types_of_tokens_are_told_where_that_changes_answers(tiny_classifier, kind, told):
    folder = tiny_classifier(kind, types=True)
    assert_right(folder)
    given = []
    module: Any = load_classifier(str(folder), MAX_TOKENS).network.module
    module.classifier.register_forward_pre_hook(lambda _, __, named: given.append(named), with_kwargs=True)
    module(*pad([[0, 30, 1]]))
    assert ["token_type_ids" in named for named in given] == [told]


def test_weights_of_16_bits_are_computed_in_32(tiny_classifier):
    folder = tiny_classifier("gpt2", special=False)
    AutoModelForSequenceClassification.from_pretrained(folder).half().save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert_right(folder)


def test_how_a_tokenizer_pads_itself_does_not_matter(tiny_classifier):
    folder = tiny_classifier("gpt2", special=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    tokenizer.backend_tokenizer.enable_padding(direction="left", pad_id=5, pad_token="<pad>", length=20)
    expected = probabilities(logits_of_transformers(folder, TEXTS), 1.0)
    tokenizer.save_pretrained(folder)
    student = load_classifier(str(folder), MAX_TOKENS)
    np.testing.assert_allclose(answers_of(student, batch_size=8), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["roberta", "gpt2", "modernbert"])
def test_a_student_over_an_encoder_answers_alone_as_in_a_batch_before_training_and_after(tiny_classifier, kind):
    student = classifier_over(str(tiny_classifier(kind)), ("a", "b"), 32)
    module, rows = student.network.module, student.encode(TEXTS)
    with compact_tables(module, rows) as (small,):
        train(
            module,
            small,
            np.eye(2)[np.arange(len(rows)) % 2],
            functional.cross_entropy,
            lambda trained: float(predict(trained, small)[0, 0]),
            Optimisation(epochs=2, batch_size=4, learning_rate=1e-3),
            "training",
        )
        inside = predict(module, small)
    together = student.logits(TEXTS)
    np.testing.assert_allclose(together, inside, atol=1e-5)
    np.testing.assert_allclose(together, student.logits(TEXTS, batch_size=1), atol=1e-5)


# Which are refused


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("bart", "a bart model reads a text twice, as encoder and decoder"),
        ("xlnet", "a xlnet model answers differently where texts share a batch"),
        ("convbert", "a convbert model answers differently where texts share a batch"),
        # Since transformers 5 it takes a mask, and ignores it.
        ("fnet", f"a fnet model {'answers differently' if FIVE else 'cannot read token ids with a mask'}"),
        ("canine", "cannot be loaded .*get_input_embeddings"),
    ],
)
def test_an_architecture_that_cannot_be_right_is_refused_by_name(tiny_classifier, kind, message):
    folder = tiny_classifier(kind)
    with pytest.raises(DistillError, match=message) as refused:
        load_classifier(str(folder), MAX_TOKENS)
    assert str(folder) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_ids_without_an_embedding_are_refused(tiny_classifier, kind):
    folder = tiny_classifier(kind, vocab_size=300)
    with pytest.raises(DistillError, match=r"tokenizer gives ids up to \d+ \(.*\), but .* embeddings for 0 to 299;"):
        load_classifier(str(folder), 32)


def test_positions_that_depend_on_the_longest_of_a_batch_are_refused(tiny_classifier):
    short, long = [1.0] * 8, [4.0] * 8
    scaling = {"type": "longrope", "short_factor": short, "long_factor": long}
    folder = tiny_classifier(
        "phi3", special=False, original_max_position_embeddings=32, rope_scaling=scaling, max_position_embeddings=64
    )
    assert load_classifier(str(folder), 32).max_tokens == 32
    with pytest.raises(DistillError, match="share a batch, here with one of 48 tokens"):
        load_classifier(str(folder), MAX_TOKENS)


def test_a_tokenizer_whose_types_tell_tokens_of_one_text_apart_is_refused(tiny_classifier):
    folder = tiny_classifier("bert", types=True)
    parts = json.loads((folder / "tokenizer.json").read_text())
    parts["post_processor"]["single"][-1]["SpecialToken"]["type_id"] = 1
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    with pytest.raises(DistillError, match="gives tokens of one text several types, which is not supported"):
        load_classifier(str(folder), MAX_TOKENS)


@pytest.mark.parametrize(
    ("kind", "message"),
    [("convbert", "answers differently where texts share a batch"), ("t5", "cannot read token ids")],
)
def test_a_student_of_such_an_architecture_is_refused_too(tiny_classifier, kind, message):
    folder = tiny_classifier(kind, decoder_start_token_id=0)
    with pytest.raises(DistillError, match=f"a {kind} model {message}"):
        classifier_over(str(folder), ("a", "b"), 32)


@pytest.mark.parametrize(
    "kind", ["t5", pytest.param("fnet", marks=pytest.mark.skipif(FIVE, reason="transformers 5 gives it a mask"))]
)
def test_so_is_a_static_student_whose_encoder_cannot_read_a_token(tiny_classifier, kind):
    folder = tiny_classifier(kind, **({"decoder_start_token_id": 0} if kind == "t5" else {}))
    config = StaticStudent(family="static", model=str(folder), hidden=8)
    with pytest.raises(DistillError, match=f"a {kind} model cannot read token ids with a mask"):
        build_static(config, ("a", "b"), TEXTS)


# Padding


def test_rows_are_padded_on_the_right_and_what_is_masked_gets_the_models_id():
    ids, mask = pad([[7, 8, 9], [5]])
    assert (ids.tolist(), mask.tolist()) == ([[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]])
    assert fill_padding(ids, mask, 3).tolist() == [[7, 8, 9], [5, 3, 3]]
    assert fill_padding(ids, mask, 0) is ids


@pytest.mark.parametrize("kind", ["roberta", "gpt2"])
def test_what_stands_where_the_mask_is_0_does_not_matter(tiny_classifier, kind):
    module = load_classifier(str(tiny_classifier(kind)), MAX_TOKENS).network.module.eval()
    ids, mask = pad([[0, 30, 31, 32, 1], [0, 40, 1]])
    with torch.inference_mode():
        expected = module(ids, mask)[0]
        torch.testing.assert_close(module(ids.masked_fill(mask == 0, 77), mask)[0], expected)
        torch.testing.assert_close(module(ids[1:, :3], mask[1:, :3])[0][0], expected[1], atol=1e-5, rtol=0)
