"""The student family `encoder`: some layers of a pretrained encoder, mean pooling, one linear head."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.utils.logging import disable_progress_bar, set_verbosity_error

from distill.errors import DistillError
from distill.progress import status
from distill.students.config import EncoderStudent
from distill.students.layers import (
    blank_encoder,
    load_encoder,
    load_own_encoder,
    settle_layers,
    take_layers,
    whole_config,
)
from distill.students.padding import check_batches, fill, pad_id_of, try_out
from distill.students.positions import most_tokens
from distill.students.pretrained import display_name, locate
from distill.students.student import (
    CARD,
    TOKENIZER,
    Student,
    StudentModule,
    load_student,
    masked_mean,
    require_longest,
    require_positions,
)
from distill.truncation import longest_row

set_verbosity_error()  # it warns of a pooler that we do not use
disable_progress_bar()

_FOLDER = "encoder"
_HEAD = "head.safetensors"

_BOUNDLESS = 2**31 - 1  # transformers says a huge number where a tokenizer knows no limit


class EncoderModule(StudentModule):
    """Token ids to logits through a transformer. `config` is the encoder's, which optimum's exporter reads."""

    def __init__(self, encoder: Any, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.config = encoder.config
        self.pad_id = pad_id_of(encoder) or 0
        self.head = nn.Linear(encoder.config.get_text_config().hidden_size, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and the mean-pooled last layer [B, d]."""
        ids = fill(input_ids, attention_mask, self.pad_id)
        states = self.encoder(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        embedding = masked_mean(states, attention_mask)
        return self.head(embedding), embedding

    def most_tokens(self) -> int | None:
        """As many as the encoder has positions for."""
        return most_tokens(self.encoder)

    def tables(self) -> dict[str, nn.Embedding]:
        """The token embeddings."""
        return {"words": self.encoder.get_input_embeddings()}

    def set_table(self, name: str, table: nn.Embedding) -> None:
        """Exchange the token embeddings."""
        self.encoder.set_input_embeddings(table)


class Encoder:
    """The network of the family."""

    family: ClassVar[str] = "encoder"

    def __init__(self, module: EncoderModule) -> None:
        self.module = module

    def save(self, folder: Path) -> None:
        """Write the encoder as transformers does, and the head beside it."""
        self.module.encoder.save_pretrained(folder / _FOLDER)
        whole_config(self.module.encoder.config).save_pretrained(folder / _FOLDER)
        save_file(self.module.head.state_dict(), str(folder / _HEAD))

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""
        module = EncoderModule(load_own_encoder(folder / _FOLDER), classes)
        module.head.load_state_dict(load_file(str(folder / _HEAD)))
        return cls(module)


def build(config: EncoderStudent, labels: Sequence[str]) -> Student:
    """An untrained student with the chosen layers. Raises DistillError when the model lacks them or cannot be had.

    It learns without dropout of hidden states: soft labels leave less to overfit than that noise costs (Banking77:
    retention 98.6 % without, 98.2 % with).
    """
    student = classifier_over(locate(config.model), labels, config.max_tokens, config.layers)
    for layer in student.network.module.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return student


def classifier_over(name: str, labels: Sequence[str], max_tokens: int, layers: Sequence[int] | None = None) -> Student:
    """A pretrained encoder, or some of its layers, under a new head. Raises DistillError as `build` does."""
    start = pretrained(name, max_tokens)
    if layers is not None:
        take_layers(start.encoder, layers)
    module = EncoderModule(start.encoder, len(labels))
    if start.head is not None and start.labels == tuple(labels):
        module.head = start.head
    student = Student(Encoder(module), start.tokenizer, tuple(labels), max_tokens)
    require_sound(student, module.config, name)
    if layers is not None:
        settle_layers(start.encoder, [longest_row(start.tokenizer, length) for length in (8, max_tokens)])
    return student


def require_sound(student: Student, config: Any, model: str) -> None:
    """Raise DistillError, naming `model`, unless a student of this configuration reads what it will be given.

    That is a text of `max_tokens`, and batches in which no text changes another's answer.
    """
    module, kind = student.network.module, config.model_type
    try:
        require_longest(student, model)  # first, for some read a long text otherwise once they have read a short one
    except DistillError:
        try_out(module, kind, student.tokenizer, model, student.max_tokens)
        raise
    check_batches(module, kind, student.tokenizer, model, student.max_tokens)


@dataclass(frozen=True, slots=True)
class StartingPoint:
    """An encoder without its pooler, and its tokenizer; of a classifier of ours also the head and its labels.

    `own_limit` is the `model_max_length` of a tokenizer of transformers.
    """

    encoder: Any
    tokenizer: Tokenizer
    head: nn.Linear | None = None
    labels: tuple[str, ...] = ()
    own_limit: int | None = None


def pretrained(name: str, max_tokens: int) -> StartingPoint:
    """What a model starts from: a pretrained encoder, or one of ours that was fitted.

    Raises DistillError when it cannot be loaded, or does not read texts of `max_tokens`.
    """
    start = _ours(name) if (Path(name) / CARD).is_file() else _theirs(name)
    require_length(start, max_tokens, name)
    return start


def blank_start(name: str) -> StartingPoint | None:
    """What `pretrained` gives, without weights to compute with, from the configuration and the tokenizer alone.

    None where more is needed. Raises DistillError when either cannot be loaded.
    """
    folder = Path(name)
    if not (folder / CARD).is_file():
        encoder = _loaded(name, lambda: blank_encoder(name))
        return None if encoder is None else _start(encoder, name)
    _require_encoder(name, _loaded(name, lambda: json.loads((folder / CARD).read_text(encoding="utf-8"))["family"]))
    encoder = _loaded(name, lambda: blank_encoder(folder / _FOLDER))
    tokenizer = _loaded(name, lambda: Tokenizer.from_file(str(folder / TOKENIZER)))
    return None if encoder is None else StartingPoint(encoder, tokenizer)


def require_length(start: StartingPoint, max_tokens: int, name: str) -> None:
    """Raise DistillError unless a model reads texts of `max_tokens`, as far as it and its tokenizer say."""
    require_positions(most_tokens(start.encoder), max_tokens, name)
    if start.own_limit is not None and max_tokens > start.own_limit:
        raise DistillError(
            f"model {name}: max_tokens is {max_tokens}, but model_max_length in its tokenizer_config.json is "
            f"{start.own_limit}; set max_tokens to {start.own_limit} or less, or correct the file"
        )


def _ours(name: str) -> StartingPoint:
    student = load_student(Path(name))
    _require_encoder(name, student.network.family)
    module = cast(Encoder, student.network).module
    return StartingPoint(module.encoder, student.tokenizer, module.head, student.labels)


def _require_encoder(name: str, family: str) -> None:
    if family != Encoder.family:
        raise DistillError(f"model {name}: a {family} student has no encoder to start from")


def _theirs(name: str) -> StartingPoint:
    with status(f"loading {display_name(name)}"):
        encoder = _loaded(name, lambda: load_encoder(name))
    return _start(encoder, name)


def _start(encoder: Any, name: str) -> StartingPoint:
    tokenizer = fast_tokenizer(name)
    require_tokens(encoder, tokenizer, name)
    return StartingPoint(encoder, tokenizer, own_limit=tokenizer.truncation["max_length"])


def _loaded(name: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # of many kinds: a folder that is none, files cut off, a hub that is out of reach
        reason = " ".join(str(error).split())
        raise DistillError(
            f"model {name}: cannot be loaded ({reason}); give a folder, package:NAME or a hub id"
        ) from error


def require_tokens(model: Any, tokenizer: Tokenizer, name: str) -> None:
    """Raise DistillError where a tokenizer gives ids for which a transformers model has no embedding."""
    size = len(model.get_input_embeddings().weight)
    token, highest = max(tokenizer.get_vocab(with_added_tokens=True).items(), key=itemgetter(1), default=("", 0))
    if highest >= size:
        raise DistillError(
            f"model {name}: its tokenizer gives ids up to {highest} ({token!r}), but the model has embeddings for 0 to "
            f"{size - 1}; use the tokenizer that it was trained with, or resize_token_embeddings"
        )


def fast_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a model, as `backend` gives it. Raises DistillError as `load_tokenizer` does."""
    return backend(load_tokenizer(name))


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model, as transformers has it. Raises DistillError when it has none of the fast kind."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, use_fast=True)
        backend(tokenizer)
    except Exception as error:  # `tokenizers` raises no kind of its own
        raise DistillError(
            f"model {name}: has no fast tokenizer ({' '.join(str(error).split())}); use a model with a tokenizer.json"
        ) from error
    return tokenizer


def backend(whole: Any) -> Tokenizer:
    """The core of a tokenizer of transformers, as the `tokenizers` library has it, without padding of its own.

    It cuts a text as `transformers` does that is told no length: at `model_max_length`, on `truncation_side`.
    """
    core: Tokenizer = Tokenizer.from_str(whole.backend_tokenizer.to_str())
    core.no_padding()
    core.enable_truncation(min(whole.model_max_length, _BOUNDLESS), direction=whole.truncation_side)
    return core
