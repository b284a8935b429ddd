"""A tokenizer is what its `tokenizer.json` says, whichever version of transformers saved it and whichever reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, GPT2Config, Qwen2Config

from distill.errors import DistillError
from distill.students.encoder import core_of, load_tokenizer
from distill.teachers.language_model import LanguageModel
from distill.truncation import truncation_side
from tests.support.tiny_models import write_encoder

TEXTS = ["My parcel is LATE", "card-charged twice\n\nrefund", "call <agent> now", ""]
WORDS = [
    "[UNK]",
    "<s>",
    "</s>",
    "<pad>",
    "<agent>",
    "my",
    "parcel",
    "late",
    "MY",
    "LATE",
    "My",
    "card-charged",
    "refund",
]


def write(folder, tokenizer_class, **settings):
    """A tokenizer of whole words, cased, with a class of transformers that would read them in another way."""
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+"), "removed")
    tokenizer.add_special_tokens(["<s>", "</s>", "<pad>", "<agent>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    config = {
        "tokenizer_class": tokenizer_class,
        "model_max_length": 77,
        "truncation_side": "left",
        **named,
        **settings,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return tokenizer


def same(ours, theirs):
    assert [ours.encode(text).ids for text in TEXTS] == [theirs.encode(text).ids for text in TEXTS]


FIFTH: dict[str, Any] = {"backend": "tokenizers", "is_local": True, "extra_special_tokens": ["<agent>"]}
"""What transformers 5 writes into `tokenizer_config.json`: its extra tokens are a list."""


@pytest.mark.parametrize("named", ["TokenizersBackend", "PreTrainedTokenizerFast"])
def test_a_tokenizer_that_transformers_5_saved_is_read(tmp_path, named):
    written = write(tmp_path, named, **FIFTH)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    tokenizer = load_tokenizer(str(tmp_path))
    core = core_of(tokenizer)
    same(core, written)
    assert (tokenizer.pad_token, tokenizer.eos_token, tokenizer.model_max_length) == ("<pad>", "</s>", 77)
    assert (truncation_side(core), core.truncation["max_length"]) == ("left", 77)
    assert core.encode("call <agent> now").ids[1] == WORDS.index("<agent>")


@pytest.mark.parametrize(("named", "kind"), [("GPT2TokenizerFast", GPT2Config), ("Qwen2TokenizerFast", Qwen2Config)])
def test_the_file_is_obeyed_where_a_class_would_read_the_vocabulary_in_its_own_way(tmp_path, named, kind):
    written = write(tmp_path, named)
    kind().save_pretrained(tmp_path)
    core = core_of(load_tokenizer(str(tmp_path)))
    same(core, written)
    assert set(core.get_vocab()) >= set(WORDS)


def test_a_language_model_reads_its_prompt_by_the_file_too(tiny_causal):
    folder = tiny_causal("gpt2")
    parts = json.loads((folder / "tokenizer.json").read_text())
    parts["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(parts))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "tokenizer_class": "GPT2TokenizerFast"}))
    tokenizer = LanguageModel.load(str(folder)).tokenizer
    expected = Tokenizer.from_file(str(folder / "tokenizer.json")).encode("My PARCEL").ids
    assert tokenizer("My PARCEL")["input_ids"] == tokenizer("my parcel")["input_ids"] == expected
    assert (tokenizer.eos_token, tokenizer.chat_template) == ("<|end|>", None)


@pytest.mark.parametrize("kind", [BertConfig, Qwen2Config])
def test_a_model_without_a_tokenizer_is_refused(tmp_path, kind):
    write_encoder(tmp_path, kind)
    for path in tmp_path.glob("*token*"):
        path.unlink()
    with pytest.raises(DistillError, match=r"has no fast tokenizer \(.+\); use a model with a tokenizer.json"):
        load_tokenizer(str(tmp_path))
