"""The student family `decoder`: a language model's last state of a text under a linear head, trained by LoRA.

Only the adapters and the head are trained, so that a model of hundreds of millions of parameters needs the optimiser
state of a few. Saved, the adapters are merged into the weights: what is exported has no trace of them. Hu et al. 2022,
LoRA: Low-rank adaptation of large language models.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.errors import DistillError
from distill.students.config import DecoderStudent
from distill.students.encoder import TransformerModule, check_student, load_pretrained, without_dropout
from distill.students.layers import load_saved_encoder
from distill.students.padding import fill_padding
from distill.students.pretrained import locate
from distill.students.student import Student

_FOLDER = "decoder"
_HEAD = "head.safetensors"


class DecoderModule(TransformerModule):
    """Maps token ids to logits through a decoder and a head. It trains all of the decoder until `add_adapters`."""

    def __init__(self, decoder: Any, classes: int) -> None:
        super().__init__(decoder)
        self.config.use_cache = False  # the cache is for generation
        self.decoder = decoder
        self.head = nn.Linear(decoder.config.get_text_config().hidden_size, classes)
        self.adapted = False

    @property
    def transformer(self) -> Any:
        """The decoder, with its adapters while it has any."""
        return self.decoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits [B, K] and the state of the last token [B, d], which alone has read the whole text."""
        ids = fill_padding(input_ids, attention_mask, self.pad_id)
        states = self.decoder(input_ids=ids, attention_mask=attention_mask).last_hidden_state
        last = (attention_mask.sum(1, keepdim=True) - 1).clamp_min(0).unsqueeze(-1)
        embedding = states.gather(1, last.expand(-1, 1, states.shape[-1])).squeeze(1)
        return self.head(embedding), embedding

    def add_adapters(self, config: DecoderStudent) -> None:
        """Freeze the decoder, and add trainable adapters to all its linear layers."""
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules="all-linear")
        self.decoder = get_peft_model(self.decoder, lora)
        self.adapted = True

    def merge_adapters(self) -> None:
        """Add the adapters to the weights, after which the decoder is a plain one again."""
        if self.adapted:
            self.decoder = self.decoder.merge_and_unload()
            self.adapted = False


class Decoder:
    """The network of this family."""

    family: ClassVar[str] = "decoder"

    def __init__(self, module: DecoderModule) -> None:
        self.module = module

    def save(self, folder: Path) -> None:
        """Merge the adapters, and write the decoder as transformers does, with the head beside it."""
        self.module.merge_adapters()
        self.module.decoder.save_pretrained(folder / _FOLDER)
        save_file(self.module.head.state_dict(), str(folder / _HEAD))

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""
        module = DecoderModule(load_saved_encoder(folder / _FOLDER), classes)
        module.head.load_state_dict(load_file(str(folder / _HEAD)))
        return cls(module)


def require_peft() -> None:
    """Raise DistillError, saying what to install, where peft is missing."""
    if find_spec("peft") is None:
        raise DistillError("the family decoder is trained by LoRA, which needs peft; run `pip install 'reflux[lora]'`")


def build(config: DecoderStudent, labels: Sequence[str]) -> Student:
    """Build an untrained student: a language model with adapters that change nothing yet, and a new head.

    Raises DistillError when peft is missing, the model cannot be loaded, or it does not read texts of `max_tokens` in
    batches.
    """
    require_peft()
    name = locate(config.model)
    start = load_pretrained(name, config.max_tokens)
    module = DecoderModule(start.encoder.to(torch.float32), len(labels))
    student = Student(Decoder(module), start.tokenizer, tuple(labels), config.max_tokens)
    check_student(student, module.config, name)
    prepare(student, config)
    return student


def prepare(student: Student, config: DecoderStudent) -> None:
    """Prepare a student, new or loaded, for training: adapters, and no dropout, as in the family `encoder`.

    Raises DistillError when peft is missing.
    """
    require_peft()
    module = cast(Decoder, student.network).module
    module.add_adapters(config)
    without_dropout(module)
