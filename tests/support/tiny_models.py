"""Folders of tiny random models that transformers loads. Importing this file loads torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    set_seed,
)

from tests.support.tiny_bundle import NEUTRAL, WORDS

ALL_WORDS = [word for words in WORDS.values() for word in words]


def write_encoder(
    folder: Path,
    kind: type[Any],
    *,
    labels: Sequence[str] = (),
    tokenizer: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Write an encoder of the configuration class `kind` with `settings`; with `labels`, a sequence classifier.

    Its tokenizer knows the words of `WORDS`. `tokenizer` has keys of `tokenizer_config.json`.
    """
    vocabulary = ["[UNK]", "[CLS]", "[SEP]", *NEUTRAL, *ALL_WORDS]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = kind(**{"vocab_size": len(vocabulary) + 1, **shape, **settings})
    vocabulary.insert(config.pad_token_id or 0, "[PAD]")
    pieces = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.Lowercase()
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(token, vocabulary.index(token)) for token in ("[CLS]", "[SEP]")]
    pieces.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=pieces, unk_token="[UNK]", pad_token="[PAD]", **tokenizer or {}
    ).save_pretrained(folder)
    torch.manual_seed(0)
    if labels:
        config.id2label = dict(enumerate(labels))
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    else:
        AutoModel.from_config(config).save_pretrained(folder)
    return folder


def write_causal(
    folder: Path, family: str = "llama", *, positions: int = 1024, template: str | None = None, seed: int = 0
) -> Path:
    """Write a causal language model with a tokenizer of bytes and some words: letters are single tokens, numbers not.

    `family` is `gpt2` (learned positions), `llama` (rotary ones) or `mistral` (each token sees the 12 before it alone).
    `positions` is how many tokens it reads, `template` its chat template.
    """
    corpus = [word for word in ALL_WORDS for _ in range(3)]
    corpus += [f" {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabc" for _ in range(99)]
    corpus += ["<text>\n", "</text>\n", " billing", " shipping"] * 9
    tokenizer = _byte_tokenizer(corpus, 460, ["<|end|>"])
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", chat_template=template)
    fast.save_pretrained(folder)
    shape = {
        "vocab_size": len(fast),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": positions,
        "initializer_range": 0.2,  # so that answers differ
    }
    grouped = {**shape, "num_key_value_heads": 2, "intermediate_size": 64}
    config = {
        "gpt2": lambda: GPT2Config(**shape),
        "llama": lambda: LlamaConfig(**grouped),
        "mistral": lambda: MistralConfig(**grouped, sliding_window=12),
    }[family]()
    set_seed(seed)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
    **dict.fromkeys(("intermediate_size", "d_ff", "d_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
    **dict.fromkeys(("head_dim", "d_kv"), 16),
}


def write_classifier(folder: Path, kind: str, *, special: bool = True, types: bool = False, **settings: Any) -> Path:
    """Write a sequence classifier over the labels of `WORDS`, of the type `kind` of transformers.

    `settings` go into its configuration; `pad_token_id` is 5 unless they say otherwise. Its tokenizer knows bytes and
    some words; with `special` it puts `<s>` and `</s>` around a text, with `types` it gives types of tokens.
    """
    tokens = ["<s>", "</s>", "<unk>", "<mask>", "<more>", "<pad>"]
    tokenizer = _byte_tokenizer([word for word in ALL_WORDS for _ in range(3)], 400, tokens)
    if special:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, pad_token="<pad>")
    fast.save_pretrained(folder)
    own = AutoConfig.for_model(kind)
    known = {name: value for name, value in _SIZES.items() if name in own.to_dict() or name in own.attribute_map}
    known = {own.attribute_map.get(name, name): value for name, value in known.items()}
    given = {"pad_token_id": 5, "bos_token_id": 0, "eos_token_id": 1, "id2label": dict(enumerate(WORDS)), **settings}
    config = AutoConfig.for_model(kind, **{**known, "vocab_size": len(fast), **given})
    set_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)  # so that answers differ
    model.save_pretrained(folder)
    return folder


def _byte_tokenizer(corpus: Sequence[str], size: int, special: list[str]) -> Tokenizer:
    """Train a byte-pair encoding of `size` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def logits_of_transformers(folder: Path, texts: Sequence[str]) -> np.ndarray:
    """Return the logits [N, K] that transformers itself gives each text alone."""
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        return np.concatenate([model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in texts])
