"""The family `sequence-classifier`: an existing classifier of transformers, which may be a teacher.

It has the form of a student, so that the same code exports it.
"""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PretrainedConfig

from distill.errors import DistillError
from distill.students.encoder import TransformerModule, check_student, core_of, load_tokenizer, require_embeddings
from distill.students.label_map import is_multi_label, labels_of
from distill.students.padding import add_pad_id, fill_padding, pad_id_of
from distill.students.positions import max_positions
from distill.students.pretrained import loading, locate
from distill.students.student import Student, masked_mean
from distill.students.transformers_versions import mismatched_weights
from distill.truncation import truncation_length

_FOLDER = "classifier"
_TYPES = "reads_token_types"


class ClassifierModule(TransformerModule):
    """Maps token ids to logits through a sequence classifier of transformers.

    If its `config` has `reads_token_types`, it gets token types, all 0: some models compute something else without.
    """

    def __init__(self, classifier: Any) -> None:
        super().__init__(classifier)
        self.classifier = classifier
        self.config.use_cache = False  # the cache is for generation

    @property
    def transformer(self) -> Any:
        """The classifier."""
        return self.classifier

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits [B, K] and the mean-pooled last layer [B, d]."""
        ids = fill_padding(input_ids, attention_mask, self.pad_id)
        types = {"token_type_ids": torch.zeros_like(ids)} if getattr(self.config, _TYPES, False) else {}
        output = self.classifier(input_ids=ids, attention_mask=attention_mask, output_hidden_states=True, **types)
        return output.logits, masked_mean(output.hidden_states[-1], attention_mask)


class SequenceClassifier:
    """The network of this family."""

    family: ClassVar[str] = "sequence-classifier"

    def __init__(self, module: ClassifierModule) -> None:
        self.module = module

    def save(self, folder: Path) -> None:
        """Write the classifier as transformers does."""
        self.module.classifier.save_pretrained(folder / _FOLDER)

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""
        model = AutoModelForSequenceClassification.from_pretrained(
            folder / _FOLDER, dtype=torch.float32, local_files_only=True
        )
        return cls(ClassifierModule(model))


def load_classifier(model: str, max_tokens: int) -> Student:
    """Load an existing classifier. It reads at most `max_tokens`, or its own limit if that is lower.

    Raises DistillError when it cannot be loaded, names no labels or one twice, gives no distribution, fails on a text
    of that length, or gives a text another answer in a batch than alone.
    """
    name = locate(model)
    with loading(model):
        config = PretrainedConfig.get_config_dict(name)[0]
    labels = labels_of(config, model)
    classifier = _load(name, model)
    with loading(model):
        classifier.get_input_embeddings()
    if classifier.config.is_encoder_decoder:
        raise DistillError(
            f"model {model}: a {classifier.config.model_type} model reads a text twice, as encoder and decoder, which "
            "is not supported; use an encoder, such as BERT, or a decoder, such as GPT-2"
        )
    tokenizer = load_tokenizer(name)
    if pad_id_of(classifier) is None:
        with loading(model):
            add_pad_id(classifier)
    core, positions = core_of(tokenizer), max_positions(classifier)
    require_embeddings(classifier, core, model)
    setattr(classifier.config, _TYPES, _reads_types(classifier, tokenizer, model))
    limits = [max_tokens, truncation_length(core), *([] if positions is None else [positions])]
    student = Student(
        SequenceClassifier(ClassifierModule(classifier)),
        core,
        labels,
        min(limits),
        multi_label=is_multi_label(config),
    )
    check_student(student, classifier.config, model)
    return student


def _load(name: str, model: str) -> Any:
    """Load the classifier. Raises DistillError when weights are missing or have another shape."""
    with loading(model):
        classifier, info = AutoModelForSequenceClassification.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    if mismatched := mismatched_weights(info):
        raise DistillError(
            f"model {model}: the weights {mismatched[:3]} have another shape than its configuration says, which names "
            f"{classifier.config.num_labels} labels; id2label must name every label that it was trained with"
        )
    if missing := sorted(info["missing_keys"]):
        raise DistillError(
            f"model {model}: carries no weights for {missing[:3]}; use a fine-tuned classifier, or a `fit`"
        )
    return classifier


@torch.inference_mode()
def _reads_types(classifier: Any, tokenizer: Any, model: str) -> bool:
    """Whether a classifier computes something else with token types, all 0, than without.

    transformers passes them wherever the tokenizer gives types; GPT-2 then adds the embedding of the token 0 to each
    token. Raises DistillError when the tokenizer gives the tokens of one text several types.
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
        typed, plain = classifier.eval()(**given, token_type_ids=types).logits, classifier(**given).logits
    except Exception:  # `check_student` refuses such a model, with the reason
        return False
    return not torch.equal(typed, plain)
