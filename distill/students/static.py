"""The student family `static`: a weighted mean of token embeddings and one hidden layer. No token sees another.

A token's embedding starts as what the encoder makes of the token alone (as in model2vec), its weight from smooth
inverse frequency (Arora, Liang & Ma 2017); both are learned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from distill.progress import bar
from distill.students.config import StaticStudent
from distill.students.encoder import EncoderModule, pretrained
from distill.students.padding import try_out
from distill.students.pretrained import locate
from distill.students.student import Student, StudentModule, encode

_WEIGHTS = "static.safetensors"
_SMOOTHING = 1e-3
_BATCH = 512


class StaticModule(StudentModule):
    """Token ids to logits through one hidden layer."""

    def __init__(self, vocabulary: int, width: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.importance = nn.Embedding(vocabulary, 1)
        self.dropout = nn.Dropout(0.1)
        self.hidden = nn.Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and the weighted mean of the tokens [B, d]."""
        weights = torch.exp(self.importance(input_ids)) * attention_mask.unsqueeze(-1).to(self.words.weight.dtype)
        embedding = (self.words(input_ids) * weights).sum(1) / weights.sum(1).clamp_min(1e-9)
        hidden = self.norm(nn.functional.gelu(self.hidden(self.dropout(embedding))))
        return self.head(self.dropout(hidden)), embedding

    def tables(self) -> dict[str, nn.Embedding]:
        """Token embeddings and token weights."""
        return {"words": self.words, "importance": self.importance}

    def set_table(self, name: str, table: nn.Embedding) -> None:
        """Exchange one of the two."""
        setattr(self, name, table)


class Static:
    """The network of the family."""

    family: ClassVar[str] = "static"

    def __init__(self, module: StaticModule) -> None:
        self.module = module

    def save(self, folder: Path) -> None:
        """Write the weights."""
        save_file(self.module.state_dict(), str(folder / _WEIGHTS))

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""
        state = load_file(str(folder / _WEIGHTS))
        vocabulary, width = state["words.weight"].shape
        module = StaticModule(vocabulary, width, state["hidden.weight"].shape[0], classes)
        module.load_state_dict(state)
        return cls(module)


def build(config: StaticStudent, labels: Sequence[str], corpus: Sequence[str]) -> Student:
    """An untrained student over what a pretrained encoder makes of each token, its token weights from the corpus."""
    start = pretrained(locate(config.model), max_tokens=1)
    tokenizer = start.tokenizer
    try_out(EncoderModule(start.encoder, len(labels)), start.encoder.config.model_type, tokenizer, config.model, 1)
    words = token_embeddings(start.encoder, tokenizer)
    module = StaticModule(words.shape[0], words.shape[1], config.hidden, len(labels))
    with torch.no_grad():
        # Values of about 1, so that Adam's steps, which know no scale, keep what pretraining put there.
        module.words.weight.copy_(words * (words.shape[1] ** 0.5 / words.norm(dim=1).mean()))
        module.importance.weight.copy_(_inverse_frequency(encode(tokenizer, corpus, config.max_tokens), len(words)))
    return Student(Static(module), tokenizer, tuple(labels), config.max_tokens)


@torch.inference_mode()
def token_embeddings(encoder: Any, tokenizer: Tokenizer) -> Tensor:
    """What the encoder makes of each token of its vocabulary between its special tokens, mean-pooled: [V, d]."""
    tokenizer.no_padding()
    special = tokenizer.encode("").ids
    before, after = special[: len(special) // 2], special[len(special) // 2 :]
    vocabulary, width = encoder.get_input_embeddings().weight.shape
    device = Accelerator().device
    encoder.to(device).eval()
    embeddings = torch.empty(vocabulary, width)
    with bar("embedding the vocabulary", vocabulary) as advance:
        for start in range(0, vocabulary, _BATCH):
            tokens = range(start, min(start + _BATCH, vocabulary))
            ids = torch.tensor([[*before, token, *after] for token in tokens], device=device)
            states = encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
            embeddings[start : start + len(tokens)] = states.mean(1).cpu()
            advance(len(tokens))
    return embeddings


def _inverse_frequency(rows: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """Log of a / (a + frequency) per token, [V, 1]."""
    counts = Counter(token for row in rows for token in row)
    frequency = torch.zeros(vocabulary, 1)
    for token, count in counts.items():
        frequency[token] = count
    return torch.log(_SMOOTHING / (_SMOOTHING + frequency / max(1.0, float(frequency.sum()))))
