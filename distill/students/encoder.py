"""The student family `encoder`: some layers of a pretrained encoder, mean pooling, one linear head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from distill.errors import DistillError, one_line
from distill.progress import status
from distill.students.config import EncoderStudent
from distill.students.layers import (
    check_rebuildable,
    config_to_save,
    layers_of,
    load_encoder,
    load_saved_encoder,
    meta_encoder,
    select_layers,
)
from distill.students.padding import check_batching, check_short_text, fill_padding, pad_id_of
from distill.students.positions import max_positions
from distill.students.pretrained import display_name, loading, locate
from distill.students.student import (
    CARD,
    TOKENIZER,
    Student,
    StudentModule,
    check_longest,
    load_student,
    masked_mean,
    require_positions,
)
from distill.students.transformers_versions import read_tokenizer
from distill.truncation import longest_row, truncation_length

set_verbosity_error()  # it warns of the pooler, which we do not use
disable_progress_bar()

_FOLDER = "encoder"
_HEAD = "head.safetensors"
_KEYS = {"key", "k", "k_lin", "key_proj", "k_proj"}
"""The names that the projection of keys has in the families of transformers."""

_UNLIMITED = 2**31 - 1  # transformers gives a larger number where a tokenizer has no limit


class TransformerModule(StudentModule):
    """A module over `transformer`, a model of transformers. Optimum's exporter reads its `config`."""

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.config = transformer.config
        self.pad_id = pad_id_of(transformer) or 0

    @property
    def transformer(self) -> Any:
        """The model. A property, so that each family registers it under a name of its own."""
        raise NotImplementedError

    def max_positions(self) -> int | None:
        """Return the number of positions of the model; None where there is no limit."""
        return max_positions(self.transformer)

    def tables(self) -> dict[str, nn.Embedding]:
        """Return the token embeddings."""
        return {"words": self.transformer.get_input_embeddings()}

    def set_table(self, name: str, table: nn.Embedding) -> None:
        """Replace the token embeddings."""
        self.transformer.set_input_embeddings(table)


class EncoderModule(TransformerModule):
    """Maps token ids to logits through an encoder and a head."""

    def __init__(self, encoder: Any, classes: int) -> None:
        super().__init__(encoder)
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.get_text_config().hidden_size, classes)

    @property
    def transformer(self) -> Any:
        """The encoder."""
        return self.encoder

    def blocks(self) -> list[nn.Module]:
        """Return the embeddings, the layers and the head."""
        embeddings = getattr(self.encoder, "embeddings", None) or self.encoder.get_input_embeddings()
        return [embeddings, *layers_of(self.encoder), self.head]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits [B, K] and the mean-pooled last layer [B, d]."""
        ids = fill_padding(input_ids, attention_mask, self.pad_id)
        states = self.encoder(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        embedding = masked_mean(states, attention_mask)
        return self.head(embedding), embedding


class Encoder:
    """The network of this family."""

    family: ClassVar[str] = "encoder"

    def __init__(self, module: EncoderModule) -> None:
        self.module = module

    def save(self, folder: Path) -> None:
        """Write the encoder as transformers does, and the head beside it."""
        self.module.encoder.save_pretrained(folder / _FOLDER)
        config_to_save(self.module.encoder.config).save_pretrained(folder / _FOLDER)
        save_file(self.module.head.state_dict(), str(folder / _HEAD))

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""
        module = EncoderModule(load_saved_encoder(folder / _FOLDER), classes)
        module.head.load_state_dict(load_file(str(folder / _HEAD)))
        return cls(module)


def build(config: EncoderStudent, labels: Sequence[str]) -> Student:
    """Build an untrained student with the selected layers. Raises DistillError as `classifier_over` does."""
    student = classifier_over(locate(config.model), labels, config.max_tokens, config.layers)
    prepare(student)
    return student


def prepare(student: Student) -> None:
    """Prepare a student, new or loaded, for training on soft labels.

    It trains without dropout of hidden states: with soft labels the noise costs more than the overfitting it prevents
    (Banking77: retention 98.6 % without, 98.2 % with). Dropout of attention weights stays.
    """
    without_dropout(student.network.module)


def without_dropout(module: nn.Module) -> None:
    """Turn off the dropout of hidden states, in place, and leave that of attention weights.

    The latter is a layer beside the projection of keys, or no layer at all, as in version 4 of transformers.
    """
    for parent in module.modules():
        parts = dict(parent.named_children())
        for part in parts.values():
            if isinstance(part, nn.Dropout) and _KEYS.isdisjoint(parts):
                part.p = 0.0


def classifier_over(
    name: str, labels: Sequence[str], max_tokens: int, layers: int | Sequence[int] | None = None
) -> Student:
    """Build a classifier: a pretrained encoder, or some of its layers, under a new head.

    The head of a student with the same labels is kept. Raises DistillError when the model cannot be loaded, lacks the
    layers, or does not read texts of `max_tokens` in batches.
    """
    start = load_pretrained(name, max_tokens)
    if layers is not None:
        select_layers(start.encoder, layers)
    module = EncoderModule(start.encoder, len(labels))
    if start.head is not None and start.labels == tuple(labels):
        module.head = start.head
    student = Student(Encoder(module), start.tokenizer, tuple(labels), max_tokens)
    check_student(student, module.config, name)
    if layers is not None:
        check_rebuildable(start.encoder, [longest_row(start.tokenizer, length) for length in (8, max_tokens)])
    return student


def check_student(student: Student, config: Any, model: str) -> None:
    """Raise DistillError, naming `model`, unless a student reads texts of `max_tokens`, alone and in batches alike.

    `config` is the configuration of its transformer.
    """
    module, kind = student.network.module, config.model_type
    try:
        check_longest(student, model)  # first: some models read a long text differently once they have read a short one
    except DistillError:
        check_short_text(module, kind, student.tokenizer, model, student.max_tokens)
        raise
    check_batching(module, kind, student.tokenizer, model, student.max_tokens)


@dataclass(frozen=True, slots=True)
class PretrainedEncoder:
    """An encoder without its pooler, and its tokenizer. If it comes from a student, also the head and its labels.

    `model_max_length` is the limit that a tokenizer of transformers declares.
    """

    encoder: Any
    tokenizer: Tokenizer
    head: nn.Linear | None = None
    labels: tuple[str, ...] = ()
    model_max_length: int | None = None


def load_pretrained(name: str, max_tokens: int) -> PretrainedEncoder:
    """Load a pretrained encoder: a model of transformers, or a trained student's.

    Raises DistillError when it cannot be loaded, or does not read texts of `max_tokens`.
    """
    start = _from_student(name) if (Path(name) / CARD).is_file() else _from_transformers(name)
    require_length(start, max_tokens, name)
    return start


def load_without_weights(name: str) -> PretrainedEncoder | None:
    """Do what `load_pretrained` does from configuration and tokenizer alone, on torch's meta device.

    None where the architecture cannot be built there. Raises DistillError when either file cannot be loaded.
    """
    folder = Path(name)
    if not (folder / CARD).is_file():
        with loading(name):
            encoder = meta_encoder(name)
        return None if encoder is None else _with_tokenizer(encoder, name)
    with loading(name):
        family = json.loads((folder / CARD).read_text(encoding="utf-8"))["family"]
    _require_encoder(name, family)
    with loading(name):
        encoder = meta_encoder(folder / _FOLDER)
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    return None if encoder is None else PretrainedEncoder(encoder, tokenizer)


def pretrained_tokenizer(name: str) -> Tokenizer:
    """Load the tokenizer of a pretrained model, or of a student. Raises DistillError when it cannot be loaded."""
    if (Path(name) / CARD).is_file():
        with loading(name):
            return Tokenizer.from_file(str(Path(name) / TOKENIZER))
    return core_of(load_tokenizer(name))


def require_length(start: PretrainedEncoder, max_tokens: int, name: str) -> None:
    """Raise DistillError when `max_tokens` is more than the model's positions or its tokenizer's limit."""
    require_positions(max_positions(start.encoder), max_tokens, name)
    if start.model_max_length is not None and max_tokens > start.model_max_length:
        raise DistillError(
            f"model {name}: max_tokens is {max_tokens}, but model_max_length in its tokenizer_config.json is "
            f"{start.model_max_length}; set max_tokens to {start.model_max_length} or less, or correct the file"
        )


def _from_student(name: str) -> PretrainedEncoder:
    student = load_student(Path(name))
    _require_encoder(name, student.network.family)
    module = cast(Encoder, student.network).module
    return PretrainedEncoder(module.encoder, student.tokenizer, module.head, student.labels)


def _require_encoder(name: str, family: str) -> None:
    if family != Encoder.family:
        raise DistillError(f"model {name}: a {family} student has no encoder to start from")


def _from_transformers(name: str) -> PretrainedEncoder:
    with status(f"loading {display_name(name)}"), loading(name):
        encoder = load_encoder(name)
    return _with_tokenizer(encoder, name)


def _with_tokenizer(encoder: Any, name: str) -> PretrainedEncoder:
    tokenizer = core_of(load_tokenizer(name))
    require_embeddings(encoder, tokenizer, name)
    return PretrainedEncoder(encoder, tokenizer, model_max_length=truncation_length(tokenizer))


def require_embeddings(model: Any, tokenizer: Tokenizer, name: str) -> None:
    """Raise DistillError when a tokenizer gives ids for which a transformers model has no embedding."""
    size = len(model.get_input_embeddings().weight)
    token, highest = max(tokenizer.get_vocab(with_added_tokens=True).items(), key=itemgetter(1), default=("", 0))
    if highest >= size:
        raise DistillError(
            f"model {name}: its tokenizer gives ids up to {highest} ({token!r}), but the model has embeddings for 0 to "
            f"{size - 1}; use the tokenizer that it was trained with, or resize_token_embeddings"
        )


def load_tokenizer(name: str) -> Any:
    """Load a model's tokenizer, an object of transformers. Raises DistillError when there is no fast one."""
    try:
        tokenizer = read_tokenizer(name)
        core_of(tokenizer)
    except Exception as error:  # `tokenizers` has no error class of its own
        raise DistillError(
            f"model {name}: has no fast tokenizer ({one_line(error)}); use a model with a tokenizer.json"
        ) from error
    return tokenizer


def core_of(tokenizer: Any) -> Tokenizer:
    """Return the core of a transformers tokenizer, as the `tokenizers` library has it, without padding.

    It truncates as transformers does by default: at `model_max_length`, on `truncation_side`.
    """
    core: Tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    core.no_padding()
    core.enable_truncation(min(tokenizer.model_max_length, _UNLIMITED), direction=tokenizer.truncation_side)
    return core
