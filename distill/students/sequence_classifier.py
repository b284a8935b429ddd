"""The family `sequence-classifier`: a classifier of transformers as somebody left it, which a teacher may be.

It has the shape of a student, so that it is exported by the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from distill.errors import DistillError
from distill.students.encoder import backend, load_tokenizer, require_sound, require_tokens
from distill.students.label_map import is_multi_label, labels_of
from distill.students.padding import add_pad_id, fill, pad_id_of
from distill.students.positions import most_tokens
from distill.students.pretrained import locate
from distill.students.student import Student, StudentModule, masked_mean

_FOLDER = "classifier"
_TYPES = "reads_token_types"


class ClassifierModule(StudentModule):
    """Token ids to logits through a sequence classifier of transformers, which has a padding id.

    Where its `config` has `reads_token_types`, it is told that all tokens are of the type 0: without, some models
    compute something else.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier
        self.config = classifier.config
        self.config.use_cache = False  # of use only where a text goes on
        self.pad_id = pad_id_of(classifier) or 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and the mean-pooled last layer [B, d]."""
        ids = fill(input_ids, attention_mask, self.pad_id)
        types = {"token_type_ids": torch.zeros_like(ids)} if getattr(self.config, _TYPES, False) else {}
        output = self.classifier(input_ids=ids, attention_mask=attention_mask, output_hidden_states=True, **types)
        return output.logits, masked_mean(output.hidden_states[-1], attention_mask)

    def most_tokens(self) -> int | None:
        """As many as the classifier has positions for."""
        return most_tokens(self.classifier)

    def tables(self) -> dict[str, nn.Embedding]:
        """The token embeddings."""
        return {"words": self.classifier.get_input_embeddings()}

    def set_table(self, name: str, table: nn.Embedding) -> None:
        """Exchange the token embeddings."""
        self.classifier.set_input_embeddings(table)


class SequenceClassifier:
    """The network of a local teacher."""

    family: ClassVar[str] = "sequence-classifier"

    def __init__(self, module: ClassifierModule) -> None:
        self.module = module

    def save(self, folder: Path) -> None:
        """Write the classifier as transformers does."""
        self.module.classifier.save_pretrained(folder / _FOLDER)

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""
        model = AutoModelForSequenceClassification.from_pretrained(folder / _FOLDER, local_files_only=True)
        return cls(ClassifierModule(model))


def load_classifier(model: str, max_tokens: int) -> Student:
    """A classifier somebody else fine-tuned. It reads at most `max_tokens`, or fewer where it cannot read so many.

    Raises DistillError when it cannot be had, names no labels, gives no distribution or several labels as one, fails on
    a text of that length, or is of an architecture that answers otherwise than transformers does for each text alone.
    """
    name = locate(model)
    config = _or_refuse(model, lambda: PretrainedConfig.get_config_dict(name)[0])
    labels = labels_of(config, model)
    classifier = _load(name, model)
    _or_refuse(model, classifier.get_input_embeddings)
    if classifier.config.is_encoder_decoder:
        raise DistillError(
            f"model {model}: a {classifier.config.model_type} model reads a text twice, as encoder and decoder, which "
            "is not supported; use an encoder, such as BERT, or a decoder, such as GPT-2"
        )
    whole = load_tokenizer(name)
    if pad_id_of(classifier) is None:
        _or_refuse(model, lambda: add_pad_id(classifier))
    tokenizer, positions = backend(whole), most_tokens(classifier)
    require_tokens(classifier, tokenizer, model)
    setattr(classifier.config, _TYPES, _reads_types(classifier, whole, model))
    limits = [max_tokens, tokenizer.truncation["max_length"], *([] if positions is None else [positions])]
    student = Student(
        SequenceClassifier(ClassifierModule(classifier)),
        tokenizer,
        labels,
        min(limits),
        multi_label=is_multi_label(config),
    )
    require_sound(student, classifier.config, model)
    return student


def _load(name: str, model: str) -> Any:
    """The classifier with all of its weights."""
    classifier, loaded = _or_refuse(
        model,
        lambda: AutoModelForSequenceClassification.from_pretrained(
            name, output_loading_info=True, ignore_mismatched_sizes=True
        ),
    )
    if mismatched := sorted(loaded["mismatched_keys"]):
        raise DistillError(
            f"model {model}: the weights {mismatched[:3]} have another shape than its configuration says, which names "
            f"{classifier.config.num_labels} labels; id2label must name every label that it was trained with"
        )
    if missing := sorted(loaded["missing_keys"]):
        raise DistillError(
            f"model {model}: carries no weights for {missing[:3]}; use a fine-tuned classifier, or a `fit`"
        )
    return classifier


@torch.inference_mode()
def _reads_types(classifier: Any, tokenizer: Any, model: str) -> bool:
    """Whether a classifier computes something else when it is told that all tokens are of the type 0.

    transformers tells it wherever the tokenizer has types, and GPT-2 adds the embedding of the token 0 to each then.
    Raises DistillError when the tokens of one text are of several types.
    """
    given = tokenizer("a", return_tensors="pt")
    if "token_type_ids" not in given or "token_type_ids" not in signature(classifier.forward).parameters:
        return False
    types = given.pop("token_type_ids")
    if types.any():
        raise DistillError(
            f"model {model}: its tokenizer gives tokens of one text several types, which is not supported; "
            "use another architecture, such as BERT, RoBERTa, GPT-2 or Qwen2"
        )
    try:
        told, plain = classifier.eval()(**given, token_type_ids=types).logits, classifier(**given).logits
    except Exception:  # what cannot be read is refused, with a reason, by `require_sound`
        return False
    return not torch.equal(told, plain)


def _or_refuse(model: str, load: Callable[[], Any]) -> Any:
    """What `load` gives. Raises DistillError when it cannot."""
    try:
        return load()
    except Exception as error:  # of many kinds, as in `pretrained`
        reason = " ".join(str(error).split())
        raise DistillError(
            f"model {model}: cannot be loaded ({reason}); give a folder, package:NAME or a hub id"
        ) from error
