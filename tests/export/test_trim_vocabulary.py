"""A trimmed vocabulary reads texts like those of the pool as the whole one does, and a gate limits what others cost."""

import dataclasses
import itertools

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from distill.data.splits import Train
from distill.errors import DistillError
from distill.students.encoder import Encoder, EncoderModule
from distill.students.static import Static, StaticModule
from distill.students.student import Student
from distill.task import Export, Gates
from export.build import build_bundle
from export.bundle.classifier import Classifier
from export.bundle.format import CARD, MODEL, TOKENIZER
from export.bundle.reference import Reference
from export.bundle.verify import verify
from export.model_card import card
from export.trim_vocabulary import kept_tokens, trim_vocabulary, trimmed_tokenizer
from tests.support.tiny_bundle import NEUTRAL, WORDS

LETTERS = "abcdefghijklmnopqrstuvwxyz"
PIECES = ["ab", "abc", "##bc", "##ab", "ca", "##cab", "##cß", "ø"]
"""`ß` has no token of its own."""

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def wordpiece(pieces=PIECES, post=None):
    own = [*SPECIAL, "[unused]", "[", "##]", *LETTERS, *(f"##{letter}" for letter in LETTERS), *pieces]
    vocabulary = list(dict.fromkeys(own))
    tokenizer = Tokenizer(models.WordPiece({token: place for place, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(SPECIAL)
    ends = [(token, vocabulary.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = post or processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def static(tokenizer, labels=("no", "yes"), texts=()):
    torch.manual_seed(0)
    module = StaticModule(tokenizer.get_vocab_size(), 16, 16, len(labels), pairs=True)
    with torch.no_grad():
        module.head.weight.mul_(20)
    return Student(Static(module), tokenizer, tuple(labels), 32)


def tokens(tokenizer, text):
    return tokenizer.encode(text).tokens


@pytest.fixture(scope="module")
def whole():
    return static(wordpiece())


@pytest.fixture(scope="module")
def trimmed(whole):
    """With the pool `abc`, `cab`."""
    return trim_vocabulary(whole, ["abc", "cab"], ["abc"], 1.0, "small").student


def test_what_the_pool_has_is_kept_with_all_characters_and_all_that_is_not_split(whole, trimmed):
    vocabulary = trimmed.tokenizer.get_vocab()
    assert set(wordpiece().get_vocab()) - set(vocabulary) == {"ab", "##bc", "##ab", "##cab", "[unused]"}
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert all(table.num_embeddings == len(vocabulary) for table in trimmed.network.module.tables().values())
    assert whole.network.module.tables()["words"].num_embeddings == len(wordpiece().get_vocab())
    assert vocabulary["[PAD]"] == 0


@given(st.text("abcß ø", max_size=20))
@example("bbcß")  # unknown as b ##bc ß, and known as b ##b ##cß
def test_a_text_of_known_words_whose_tokens_are_kept_has_the_same_tokens_and_the_same_answer(whole, trimmed, text):
    before = tokens(whole.tokenizer, text)
    if "[UNK]" not in before and set(before) <= set(trimmed.tokenizer.get_vocab()):
        assert tokens(trimmed.tokenizer, text) == before
        np.testing.assert_array_equal(trimmed.logits([text]), whole.logits([text]))


@given(st.sets(st.text("abc", min_size=2, max_size=4)), st.sets(st.text("abc", min_size=2, max_size=4)), st.data())
def test_so_it_is_with_any_vocabulary(beginnings, continuations, data):
    student = static(wordpiece([*beginnings, *(f"##{piece}" for piece in continuations)]))
    pool = data.draw(st.lists(st.text("abc ", max_size=12), max_size=3))
    smaller = trimmed_tokenizer(student.tokenizer, kept_tokens(student, pool))
    for text in [*pool, data.draw(st.text("abcd ", max_size=20))]:
        before = tokens(student.tokenizer, text)
        if text in pool or set(before) <= set(smaller.get_vocab()):
            assert tokens(smaller, text) == before


def test_a_word_with_a_dropped_token_is_spelt_and_an_unknown_one_stays_unknown(trimmed):
    assert tokens(trimmed.tokenizer, "ab") == ["[CLS]", "a", "##b", "[SEP]"]
    for unknown in ("aßb", "ß", "aø"):
        assert tokens(trimmed.tokenizer, unknown)[1] == "[UNK]"


@pytest.mark.parametrize(
    "post",
    [
        None,
        processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        processors.Sequence([processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))]),
    ],
)
def test_the_tokens_around_a_text_are_numbered_anew(post):
    student = static(wordpiece(["ab"], post))
    encoding = trimmed_tokenizer(student.tokenizer, [1, 0, 3, 2, 7, 8]).encode("a")
    assert (encoding.tokens, encoding.ids) == (["[CLS]", "a", "[SEP]"], [3, 4, 2])


def test_a_trimmed_vocabulary_that_costs_too_much_does_not_pass_its_gate(whole):
    texts = [" ".join(words) for words in itertools.product(["ab", "cab", "abab", "ca", "bcb"], repeat=2)]
    gates = [trim_vocabulary(whole, ["abc"], [text], 0.99, "small").gate for text in texts]
    assert {(gate.measured, gate.required, gate.passed) for gate in gates} == {(0.0, 0.99, False), (1.0, 0.99, True)}


def test_a_tokenizer_of_another_kind_is_refused_by_name():
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(DistillError, match=r"small: export\.trim_vocabulary: the tokenizer is of the kind BPE"):
        trim_vocabulary(static(tokenizer), ["a"], ["a"], 0.5, "small")


def test_a_family_without_a_table_of_tokens_is_refused_by_name(students):
    with pytest.raises(DistillError, match=r"export\.trim_vocabulary: the family ngrams has no table of tokens"):
        trim_vocabulary(students["ngrams"], ["a"], ["a"], 0.5, "small")


@pytest.fixture(params=["static", "encoder"])
def keyword_student(request, labels):
    """A student whose tokenizer also knows five hundred words that no keyword row has."""
    words = [*NEUTRAL, *(word for words in WORDS.values() for word in words)]
    tokenizer = wordpiece([*(f"q{a}{b}{a}" for a in LETTERS[:25] for b in LETTERS[:20]), *words])
    if request.param == "static":
        return static(tokenizer, labels)
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    encoder = BertModel(BertConfig(vocab_size=tokenizer.get_vocab_size(), **shape), add_pooling_layer=False)
    return Student(Encoder(EncoderModule(encoder, len(labels))), tokenizer, labels, 32)


def test_a_bundle_with_a_trimmed_vocabulary_answers_as_one_with_the_whole(keyword_student, baseline, tmp_path):
    texts = baseline.validation.texts
    pool = Train(baseline.validation.ids, texts, baseline.validation.gold)
    made = {
        trim: build_bundle(
            keyword_student,
            tmp_path / str(trim),
            name="small",
            baseline=dataclasses.replace(baseline, train=pool),
            settings=Export(variant="fp32", gates=Gates(agreement=1.0), trim_vocabulary=trim),
            teacher={},
        )
        for trim in (False, True)
    }
    whole, trimmed = made[False], made[True]
    found = trimmed.manifest.measured["vocabulary"]
    assert found["whole"] - found["kept"] >= 500
    assert Tokenizer.from_file(str(trimmed.path / TOKENIZER)).get_vocab_size() == found["kept"]
    for name in (MODEL, TOKENIZER):
        assert (trimmed.path / name).stat().st_size < (whole.path / name).stat().st_size
    before, after = (Classifier.load(bundle).probabilities(texts) for bundle in (whole, trimmed))
    np.testing.assert_allclose(after, before, atol=1e-5)
    assert verify(trimmed.path) == trimmed
    assert trimmed.manifest.gates["trimmed vocabulary: agreement with the whole one"]["passed"]
    line = f"- Its vocabulary is trimmed to {found['kept']:,} of {found['whole']:,} tokens, those of the training texts"
    assert line in card(trimmed.manifest, Reference.open(trimmed)).splitlines()
    rows = {tensor.dims[0] for tensor in onnx.load(trimmed.path / MODEL).graph.initializer if len(tensor.dims) == 2}
    assert found["kept"] in rows
    assert found["whole"] not in rows


def test_the_whole_vocabulary_is_served_where_the_trimmed_one_does_not_pass_and_the_card_says_why(
    labels, baseline, tmp_path
):
    student = static(wordpiece([*NEUTRAL, *(word for words in WORDS.values() for word in words)]), labels)
    bundle = build_bundle(
        student,
        tmp_path / "bundle",
        name="small",
        baseline=dataclasses.replace(baseline, train=Train(("0",), (NEUTRAL[0],), (None,))),
        settings=Export(variant="fp32", gates=Gates(agreement=1.0), trim_vocabulary=True),
        teacher={},
    )
    gate = bundle.manifest.gates["trimmed vocabulary: agreement with the whole one"]
    assert gate["measured"] < gate["required"] == 1
    assert not gate["passed"]
    size = student.tokenizer.get_vocab_size()
    assert Tokenizer.from_file(str(bundle.path / TOKENIZER)).get_vocab_size() == size
    assert "vocabulary" not in bundle.manifest.measured
    measured = f"{gate['measured']:.4g}, required 1"
    why = f"the vocabulary was not trimmed (trimmed vocabulary: agreement with the whole one: {measured})"
    assert why in bundle.manifest.measured["reason"]
    assert why in (bundle.path / CARD).read_text(encoding="utf-8")
    assert verify(bundle.path) == bundle
