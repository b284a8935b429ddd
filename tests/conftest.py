"""Tiny bundles for every test: made in milliseconds without torch, with answers that a reader can predict.

A word speaks for one label (`words`), a word that is not in the vocabulary for none, and the label with the most
words in a text wins, the more clearly the larger its share. The word `poison` makes the graph return NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from export.bundle.classifier import Classifier
from export.bundle.format import (
    CARD,
    GOLDEN,
    MODEL,
    REFERENCE,
    TOKENIZER,
    Bundle,
    Golden,
    Manifest,
    golden_jsonl,
    write_bundle,
)
from export.fit_reference import fit_reference

WORDS: dict[str, tuple[str, ...]] = {
    "billing": ("invoice", "refund", "charge", "payment", "card", "price", "subscription", "receipt", "tax", "fee"),
    "shipping": ("parcel", "delivery", "courier", "tracking", "address", "late", "box", "ship", "customs", "arrive"),
    "account": ("login", "password", "email", "profile", "user", "locked", "verify", "logout", "register", "reset"),
    "technical": ("crash", "error", "bug", "slow", "screen", "install", "update", "freeze", "network", "timeout"),
}
NEUTRAL = ("the", "my", "is", "and", "please", "help")
POISON = "poison"
SPECIAL = ("[UNK]", "[CLS]")
WIDTH = 8
STRENGTH = 12.0
TEMPERATURE = 2.0
BIAS = 2.5
MAX_TOKENS = 32

MakeBundle = Callable[..., Bundle]


def _tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """Lower-cased words and punctuation; `[CLS]` first, so that an empty text is one token."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", vocabulary.index("[CLS]"))]
    )
    return tokenizer


def _graph(embeddings: np.ndarray, classes: int, multi_label: bool) -> onnx.ModelProto:
    """Gather, mean over the mask, a matrix that reads the first K dimensions, softmax or sigmoid at TEMPERATURE.

    Before the sigmoid BIAS is taken off: a text with one word for each of up to three labels has them all.
    """
    weights = np.eye(embeddings.shape[1], classes, dtype=np.float32)
    constants = {
        "embeddings": embeddings,
        "weights": weights,
        "temperature": np.array(TEMPERATURE, dtype=np.float32),
        "axis_tokens": np.array([1], dtype=np.int64),
        "axis_last": np.array([2], dtype=np.int64),
        **({"bias": np.array(BIAS, dtype=np.float32)} if multi_label else {}),
    }
    nodes = [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "axis_last"], ["mask3"]),
        helper.make_node("Mul", ["vectors", "mask3"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "axis_tokens"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["mask3", "axis_tokens"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["embedding"]),
        helper.make_node("MatMul", ["embedding", "weights"], ["product" if multi_label else "logits"]),
        *([helper.make_node("Sub", ["product", "bias"], ["logits"])] if multi_label else []),
        helper.make_node("Div", ["logits", "temperature"], ["scaled"]),
        helper.make_node("Sigmoid", ["scaled"], ["probabilities"])
        if multi_label
        else helper.make_node("Softmax", ["scaled"], ["probabilities"], axis=-1),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", classes]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", embeddings.shape[1]]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _mixed_texts(labels: Sequence[str], count: int) -> list[str]:
    """Texts of one to eight words, from clear to undecided."""
    generator = np.random.default_rng(0)
    pool = [word for label in labels for word in WORDS[label]] + list(NEUTRAL)
    return [" ".join(generator.choice(pool, size=generator.integers(1, 9))) for _ in range(count)]


def build_bundle(
    path: Path,
    *,
    name: str = "tiny",
    role: str = "student",
    labels: Sequence[str] = tuple(WORDS),
    flip: Mapping[str, str] | None = None,
    multi_label: bool = False,
    threshold: float = 0.5,
) -> Bundle:
    """Write a tiny bundle at `path`. `labels` are keys of WORDS, in any order.

    `flip` maps words to the label that this bundle, unlike others, takes them for: `{"refund": "shipping"}`. A
    `multi_label` one gives a text every label from `threshold`.
    """
    meaning = {word: label for label in labels for word in WORDS[label]} | dict(flip or {})
    vocabulary = [*SPECIAL, *NEUTRAL, *(word for words in WORDS.values() for word in words), POISON]
    embeddings = np.zeros((len(vocabulary), WIDTH), dtype=np.float32)
    embeddings[:, len(labels) :] = np.random.default_rng(1).normal(size=(len(vocabulary), WIDTH - len(labels)))
    for index, word in enumerate(vocabulary):
        if word in meaning:
            embeddings[index, labels.index(meaning[word])] = STRENGTH
    embeddings[vocabulary.index(POISON)] = np.nan
    contents: dict[str, bytes | Path] = {
        MODEL: _graph(embeddings, len(labels), multi_label).SerializeToString(),
        TOKENIZER: _tokenizer(vocabulary).to_str().encode(),
        REFERENCE: b"",
        GOLDEN: b"",
        CARD: f"# {name}\n".encode(),
    }
    manifest = Manifest(
        name=name,
        family="tiny",
        labels=tuple(labels),
        max_tokens=MAX_TOKENS,
        variant="fp32",
        temperature=TEMPERATURE,
        files={},
        role=role,
        multi_label=multi_label,
        threshold=threshold,
    )
    classifier = Classifier.load(write_bundle(path, contents, manifest))
    top = classifier.probabilities(_mixed_texts(labels, 400)).max(axis=1).astype(np.float64)
    reference = fit_reference(top, np.random.default_rng(2).random(len(top)) < (1 - top) / 2)
    golden = [
        Golden(text, labels[int(row.argmax())], tuple(row.tolist()))
        for text in ["", "my invoice is late", *(" ".join(WORDS[label][:3]) for label in labels)]
        for row in [classifier.classify(text).probabilities]
    ]
    return write_bundle(path, {**contents, REFERENCE: reference.to_bytes(), GOLDEN: golden_jsonl(golden)}, manifest)


@pytest.fixture(scope="session")
def words() -> Mapping[str, tuple[str, ...]]:
    """The ten words that speak for each label; `" ".join(words[label][:n])` is a text of that label."""
    return WORDS


@pytest.fixture(scope="session")
def make_bundle() -> MakeBundle:
    """`make_bundle(path, *, name=, role=, labels=, flip=, multi_label=, threshold=)` writes one; see `build_bundle`."""
    return build_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A student over the four labels of `words`. Shared: copy it before changing its files."""
    return build_bundle(tmp_path_factory.mktemp("bundles") / "student")


@pytest.fixture(scope="session")
def tiny_teacher(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A teacher for `{"kind": "bundle", "path": ...}`: it takes `refund` for shipping and `late` for technical."""
    return build_bundle(
        tmp_path_factory.mktemp("bundles") / "teacher",
        name="tiny-teacher",
        role="teacher",
        flip={"refund": "shipping", "late": "technical"},
    )


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that transformers loads: a random BERT of three layers, 32 wide, that knows the words of `words`."""
    from transformers import BertConfig

    config = {"max_position_embeddings": 64, "num_hidden_layers": 3, "intermediate_size": 64}
    return _write_model(tmp_path_factory.mktemp("encoders") / "tiny-bert", BertConfig, config, {}, ())


@pytest.fixture
def tiny_model(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_model(Config, **settings)`: a folder of a random encoder of that configuration, with a tokenizer.

    With `labels` it is a sequence classifier. `tokenizer` has keys of `tokenizer_config.json`.
    """

    def make(
        config: type[Any], *, labels: Sequence[str] = (), tokenizer: Mapping[str, Any] | None = None, **settings: Any
    ) -> Path:
        folder = tmp_path / f"tiny-{config.model_type}"
        return _write_model(folder, config, settings, tokenizer or {}, labels)

    return make


def _write_model(
    folder: Path, kind: type[Any], settings: dict[str, Any], tokenizer_keys: Mapping[str, Any], labels: Sequence[str]
) -> Path:
    import torch
    from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = ["[UNK]", "[CLS]", "[SEP]", *NEUTRAL, *(word for words in WORDS.values() for word in words)]
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = kind(**{"vocab_size": len(vocabulary) + 1, **shape, **settings})
    vocabulary.insert(config.pad_token_id or 0, "[PAD]")
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(token, vocabulary.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", **tokenizer_keys
    ).save_pretrained(folder)
    torch.manual_seed(0)
    if labels:
        config.id2label = dict(enumerate(labels))
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    else:
        AutoModel.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_causal(family)`: a folder with a random causal language model and a tokenizer of bytes and some words.

    `family` is `gpt2` (learned positions), `llama` (rotary ones) or `mistral` (each token sees the 12 before it alone).
    `positions` is how many tokens it reads, `template` its chat template. Letters are single tokens, numbers are not.
    """
    from tokenizers import decoders, trainers
    from transformers import (
        AutoModelForCausalLM,
        GPT2Config,
        LlamaConfig,
        MistralConfig,
        PreTrainedTokenizerFast,
        set_seed,
    )

    corpus = [word for words in WORDS.values() for word in words for _ in range(3)]
    corpus += [f" {letter}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabc" for _ in range(99)]
    corpus += ["<text>\n", "</text>\n", " billing", " shipping"] * 9
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=460,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)

    def make(family: str = "llama", *, positions: int = 1024, template: str | None = None, seed: int = 0) -> Path:
        folder = tmp_path_factory.mktemp("causal") / f"tiny-{family}"
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

    return make


@pytest.fixture(scope="session")
def tiny_classifier(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tiny_classifier(kind, **settings)`: a folder with a random sequence classifier over the labels of `words`.

    `kind` is a type of transformers, `settings` go into its configuration; `pad_token_id` is 5 unless they say
    otherwise. `special` says that its tokenizer, of bytes and some words, puts `<s>` and `</s>` about a text; `types`
    that it gives types of tokens.
    """
    import torch
    from tokenizers import trainers
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast, set_seed

    sizes = {
        **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embedding_size", "word_embed_proj_dim"), 32),
        **dict.fromkeys(("num_hidden_layers", "n_layer", "num_layers", "encoder_layers", "decoder_layers"), 2),
        **dict.fromkeys(("num_attention_heads", "n_head", "num_heads", "num_key_value_heads"), 2),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
        **dict.fromkeys(("intermediate_size", "d_ff", "d_inner", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim"), 64),
        **dict.fromkeys(("max_position_embeddings", "n_positions"), 64),
        **dict.fromkeys(("head_dim", "d_kv"), 16),
    }

    def make(kind: str, *, special: bool = True, types: bool = False, **settings: Any) -> Path:
        folder = tmp_path_factory.mktemp("classifiers") / f"tiny-{kind}"
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<s>", "</s>", "<unk>", "<mask>", "<more>", "<pad>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator([word for words in WORDS.values() for word in words for _ in range(3)], trainer)
        if special:
            tokenizer.post_processor = processors.TemplateProcessing(
                single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
            )
        names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, pad_token="<pad>")
        fast.save_pretrained(folder)
        own = AutoConfig.for_model(kind)
        known = {name: value for name, value in sizes.items() if name in own.to_dict() or name in own.attribute_map}
        known = {own.attribute_map.get(name, name): value for name, value in known.items()}
        config = AutoConfig.for_model(
            kind,
            **{
                **known,
                "vocab_size": len(fast),
                "pad_token_id": 5,
                "bos_token_id": 0,
                "eos_token_id": 1,
                "id2label": dict(enumerate(WORDS)),
                **settings,
            },
        )
        set_seed(0)
        model = AutoModelForSequenceClassification.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.3)  # so that answers differ
        model.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def keyword_rows() -> Callable[[int, int], list[tuple[str, str]]]:
    """`keyword_rows(count, seed)`: rows of (text, label), each text with more words of its label than of another."""

    def make(count: int, seed: int) -> list[tuple[str, str]]:
        generator = np.random.default_rng(seed)
        rows = []
        for _ in range(count):
            label, other = generator.choice(list(WORDS), size=2, replace=False)
            own = list(generator.choice(WORDS[label], size=4, replace=False))
            mixed = [*own, *generator.choice(WORDS[other], size=1), *generator.choice(NEUTRAL, size=3)]
            generator.shuffle(mixed)
            rows.append((" ".join(mixed), str(label)))
        return rows

    return make
