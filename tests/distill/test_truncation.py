"""A long text is cut where transformers cuts it: at as many tokens, on the side that its tokenizer names."""

import json
import shutil

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from distill.students.encoder import core_of, load_tokenizer
from distill.students.student import encode
from distill.truncation import truncate_at, truncation_length, truncation_side

CORPUS = [f"ticket {number} says my parcel is late and my card was charged" for number in range(40)]
TEXTS = [*CORPUS[:3], "first " + "parcel " * 40 + "last", "card", ""]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>"]


def word_pieces():
    return Tokenizer(models.WordPiece(unk_token="<unk>")), trainers.WordPieceTrainer, pre_tokenizers.Whitespace(), None


def bytes_in_pairs():
    return Tokenizer(models.BPE()), trainers.BpeTrainer, pre_tokenizers.ByteLevel(), decoders.ByteLevel()


def sentence_pieces():
    return Tokenizer(models.Unigram()), trainers.UnigramTrainer, pre_tokenizers.Metaspace(), decoders.Metaspace()


TEMPLATES = {
    "bert": {"single": "<s> $A </s>", "pair": "<s> $A </s> $B:1 </s>:1"},
    "roberta": {"single": "<s> $A </s>", "pair": "<s> $A </s> </s> $B </s>"},
    "t5": {"single": "$A </s>", "pair": "$A </s> $B </s>"},
    "none": None,
}


@pytest.fixture(params=[word_pieces, bytes_in_pairs, sentence_pieces], ids=lambda make: make.__name__)
def save(request, tmp_path):
    """`save(template, **config)`: a folder with a tokenizer whose `tokenizer_config.json` has those keys besides."""

    def write(template="bert", own=None, **config):
        tokenizer, trainer, splitter, decoder = request.param()
        tokenizer.pre_tokenizer, tokenizer.decoder = splitter, decoder
        unknown = {"unk_token": "<unk>"} if trainer is trainers.UnigramTrainer else {}
        tokenizer.train_from_iterator(
            CORPUS, trainer(vocab_size=90, special_tokens=SPECIAL, show_progress=False, **unknown)
        )
        if TEMPLATES[template]:
            special = [(token, tokenizer.token_to_id(token)) for token in SPECIAL]
            tokenizer.post_processor = processors.TemplateProcessing(**TEMPLATES[template], special_tokens=special)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(
            tmp_path
        )
        for name, changes in (("tokenizer.json", own or {}), ("tokenizer_config.json", config)):
            content = json.loads((tmp_path / name).read_text())
            (tmp_path / name).write_text(json.dumps({**content, **changes}))
        return tmp_path

    return write


def own(direction, stride=0, strategy="LongestFirst"):
    """What a `tokenizer.json` says that cuts and pads by itself."""
    return {
        "truncation": {"direction": direction, "max_length": 5, "strategy": strategy, "stride": stride},
        "padding": {
            "strategy": {"Fixed": 5},
            "direction": "Left",
            "pad_to_multiple_of": 8,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "<pad>",
        },
    }


def check(folder, side):
    theirs, ours = AutoTokenizer.from_pretrained(folder), core_of(load_tokenizer(str(folder)))
    assert theirs.truncation_side == truncation_side(ours) == side
    for most in (8, 13, 500):
        expected = theirs(TEXTS, truncation=True, max_length=most)["input_ids"]
        assert encode(ours, TEXTS, most) == expected
        again = Tokenizer.from_str(ours.to_str())  # as in a student's folder, or a bundle
        truncate_at(again, most)
        assert [again.encode(text).ids for text in TEXTS] == expected


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_side_that_the_configuration_names_is_left_out(save, template, side):
    check(save(template, truncation_side=side), side)


def test_without_a_side_the_end_is_left_out(save):
    check(save(), "right")


@pytest.mark.parametrize("direction", ["Left", "Right"])
@pytest.mark.parametrize("stride", [0, 2])
@pytest.mark.parametrize("strategy", ["LongestFirst", "OnlyFirst", "OnlySecond"])
def test_a_tokenizer_file_names_the_side_and_no_more(save, direction, stride, strategy):
    check(save(own=own(direction, stride, strategy)), direction.lower())


@pytest.mark.parametrize(("direction", "side"), [("Left", "right"), ("Right", "left")])
def test_the_configuration_has_the_last_word(save, direction, side):
    check(save(own=own(direction), truncation_side=side), side)


def test_what_a_tokenizer_says_of_padding_and_of_length_changes_no_tokens(save):
    check(save(padding_side="left", truncation_side="left", model_max_length=16), "left")


def test_a_tokenizer_cuts_by_itself_as_transformers_does(save):
    folder = save(truncation_side="left", model_max_length=12)
    tokenizer = core_of(load_tokenizer(str(folder)))
    tokenizer.no_padding()
    expected = AutoTokenizer.from_pretrained(folder)(TEXTS, truncation=True)["input_ids"]
    assert [tokenizer.encode(text).ids for text in TEXTS] == expected
    shutil.rmtree(folder)


def test_the_length_of_truncation_is_told_where_there_is_one():
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    with pytest.raises(ValueError, match="does not truncate"):
        truncation_length(tokenizer)
    truncate_at(tokenizer, 7)
    assert truncation_length(tokenizer) == 7
