"""The student family `ngrams`: a mean of vectors of hashed n-grams of token ids, and one linear layer, as in fastText.

It learns from the pool alone: of the pretrained model it takes only the tokenizer. The hash is integer arithmetic
inside the graph, so that serving needs nothing for it. Joulin, Grave, Bojanowski & Mikolov 2017, Bag of tricks for
efficient text classification.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.students.config import NgramsStudent
from distill.students.encoder import pretrained_tokenizer
from distill.students.pretrained import locate
from distill.students.student import Student, StudentModule

_WEIGHTS = "ngrams.safetensors"
_SHAPE = "ngrams.json"

_FACTOR = 1_000_003
_MODULUS = 2**31 - 1
"""A prime. With ids below 2³¹ no product leaves 64 bits, so that torch and ONNX Runtime compute the same hash."""


class NgramsModule(StudentModule):
    """Maps token ids to logits through the mean vector of the n-grams of 1 to `longest` tokens of a text."""

    def __init__(self, buckets: int, width: int, longest: int, classes: int) -> None:
        super().__init__()
        self.longest = longest
        self.vectors = nn.Embedding(buckets, width)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits [B, K] and the mean vector [B, d]."""
        hashes, masks = [input_ids], [attention_mask]
        for _ in range(1, self.longest):  # an n-gram that ends one token later
            hashes.append((hashes[-1][:, :-1] * _FACTOR + input_ids[:, len(hashes) :] + 1) % _MODULUS)
            masks.append(attention_mask[:, len(masks) :])  # texts are padded at their end
        places = torch.cat(hashes, 1) % self.vectors.num_embeddings
        weights = torch.cat(masks, 1).unsqueeze(-1).to(self.vectors.weight.dtype)
        embedding = (self.vectors(places) * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
        return self.head(self.dropout(embedding)), embedding

    def tables(self) -> dict[str, nn.Embedding]:
        """Return no table: the vectors are indexed by hash."""
        return {}


class Ngrams:
    """The network of this family."""

    family: ClassVar[str] = "ngrams"

    def __init__(self, module: NgramsModule) -> None:
        self.module = module

    def save(self, folder: Path) -> None:
        """Write the weights, and the longest n-gram, which they do not show."""
        save_file(self.module.state_dict(), str(folder / _WEIGHTS))
        (folder / _SHAPE).write_text(json.dumps({"longest": self.module.longest}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""
        state = load_file(str(folder / _WEIGHTS))
        longest = json.loads((folder / _SHAPE).read_text(encoding="utf-8"))["longest"]
        buckets, width = state["vectors.weight"].shape
        module = NgramsModule(buckets, width, longest, classes)
        module.load_state_dict(state)
        return cls(module)


def build(config: NgramsStudent, labels: Sequence[str]) -> Student:
    """Build an untrained student with the tokenizer of a pretrained model, or of a student.

    Raises DistillError when that has no tokenizer.
    """
    module = NgramsModule(config.buckets, config.width, config.longest, len(labels))
    return Student(Ngrams(module), pretrained_tokenizer(locate(config.model)), tuple(labels), config.max_tokens)
