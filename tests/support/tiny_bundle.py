"""Tiny bundles: made in milliseconds without torch, with answers that a reader can predict.

A word speaks for one label (`WORDS`), a word that is not in the vocabulary for none. The label with the most words in a
text wins, the more clearly the larger its share. The word `poison` makes the graph return NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from export.bundle.cascade import Cascade, load_classifier, write_cascade
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
from export.bundle.witness import WITNESS, WitnessReference, joint_confidences
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


def _tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    """Split into lower-cased words and punctuation, after a `[CLS]`: an empty text is one token."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A", special_tokens=[("[CLS]", vocabulary.index("[CLS]"))]
    )
    return tokenizer


def _graph(embeddings: np.ndarray, classes: int, multi_label: bool) -> onnx.ModelProto:
    """Build the graph: the mean embedding of the tokens, its first `classes` dimensions, softmax or sigmoid of them.

    Before the sigmoid, BIAS is subtracted: a text with one word for each of up to three labels has them all.
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


def mixed_texts(labels: Sequence[str], count: int) -> list[str]:
    """Return texts of one to eight words, from clear to undecided."""
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

    `flip` maps a word to the label that this bundle, unlike others, takes it for: `{"refund": "shipping"}`. A
    `multi_label` bundle gives a text every label whose probability is `threshold` or more.
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
    top = classifier.probabilities(mixed_texts(labels, 400)).max(axis=1).astype(np.float64)
    reference = fit_reference(top, np.random.default_rng(2).random(len(top)) < (1 - top) / 2)
    golden = [
        Golden(text, labels[int(row.argmax())], tuple(row.tolist()))
        for text in ["", "my invoice is late", *(" ".join(WORDS[label][:3]) for label in labels)]
        for row in [classifier.classify(text).probabilities]
    ]
    return write_bundle(path, {**contents, REFERENCE: reference.to_bytes(), GOLDEN: golden_jsonl(golden)}, manifest)


def build_cascade(
    path: Path,
    stages: Sequence[Bundle],
    cut_offs: Sequence[float],
    name: str = "tiny-cascade",
    *,
    defer: float | None = None,
    **facts: Any,
) -> Bundle:
    """Write a cascade of tiny bundles at `path`, which leaves texts below the score `defer` to a teacher, if given.

    Its golden texts are those of its first stage.
    """
    own = stages[0].manifest
    manifest = replace(own, name=name, files={}, portable=None, **facts)
    contents: dict[str, bytes | Path] = {REFERENCE: stages[-1].path / REFERENCE, GOLDEN: b"", CARD: b"# A cascade\n"}
    cascade = Cascade.load(write_cascade(path, stages, cut_offs, contents, manifest, defer=defer))
    golden = [
        Golden(row.text, own.labels[answer.best], tuple(answer.probabilities.tolist()))
        for row in stages[0].golden()
        for answer in [cascade.classify(row.text)]
    ]
    top = cascade.probabilities(mixed_texts(own.labels, 400)).max(axis=1).astype(np.float64)
    reference = fit_reference(top, np.random.default_rng(2).random(len(top)) < (1 - top) / 2)
    contents |= {REFERENCE: reference.to_bytes(), GOLDEN: golden_jsonl(golden)}
    return write_cascade(path, stages, cut_offs, contents, manifest, defer=defer)


def build_witness(path: Path, student: Bundle, better: Bundle) -> Bundle:
    """Write at `path` a copy of a bundle as the witness of a student, for a teacher that answers as it does."""
    labels = student.manifest.labels
    texts = [*(word for label in labels for word in WORDS[label]), *mixed_texts(labels, 400)]
    own, beside = (load_classifier(bundle).probabilities(texts) for bundle in (student, better))
    beside = beside[:, [better.manifest.labels.index(label) for label in labels]]
    joint = fit_reference(joint_confidences(own, beside), own.argmax(axis=1) != beside.argmax(axis=1))
    return rewritten(better, path, {WITNESS: WitnessReference(student.manifest.version, joint).to_bytes()})


def keyword_rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Return rows of (text, label), each text with more words of its label than of another."""
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        label, other = generator.choice(list(WORDS), size=2, replace=False)
        own = list(generator.choice(WORDS[label], size=4, replace=False))
        mixed = [*own, *generator.choice(WORDS[other], size=1), *generator.choice(NEUTRAL, size=3)]
        generator.shuffle(mixed)
        rows.append((" ".join(mixed), str(label)))
    return rows


def rewritten(
    bundle: Bundle, path: Path, files: Mapping[str, bytes | Path | None] | None = None, **facts: Any
) -> Bundle:
    """Write a bundle like another, sealed anew, with other files, of which None leaves one out, and other facts."""
    contents = {name: bundle.path / name for name in bundle.manifest.files} | dict(files or {})
    kept = {name: content for name, content in contents.items() if content is not None}
    return write_bundle(path, kept, replace(bundle.manifest, **facts))
