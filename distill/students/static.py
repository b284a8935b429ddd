"""The student family `static`: a weighted mean of token embeddings and one hidden layer, without attention.

A token's embedding is initialised with the encoder's output for the token alone (as in model2vec), its weight with
smooth inverse frequency (Arora, Liang & Ma 2017); both are trained. The hidden layer also reads the mean product of
neighbouring embeddings (multiplicative composition: Mitchell & Lapata 2010, section 3), which tells who stands beside
whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn

from distill.progress import bar
from distill.students.config import StaticStudent
from distill.students.encoder import EncoderModule, load_pretrained
from distill.students.padding import check_short_text
from distill.students.pretrained import locate, weights_version
from distill.students.student import Student, StudentModule, encode

_WEIGHTS = "static.safetensors"
_SMOOTHING = 1e-3
_BATCH = 512


class StaticModule(StudentModule):
    """Maps token ids to logits through one hidden layer, which reads neighbours only with `pairs`."""

    def __init__(self, vocabulary: int, width: int, hidden: int, classes: int, *, pairs: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.importance = nn.Embedding(vocabulary, 1)
        self.dropout = nn.Dropout(0.1)
        self.pairs = pairs
        self.hidden = nn.Linear(2 * width if pairs else width, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits [B, K] and the weighted mean of the token embeddings [B, d]. Padding is on the right."""
        mask = attention_mask.unsqueeze(1).to(self.words.weight.dtype)  # [B, 1, T]
        weights = torch.exp(self.importance(input_ids)).transpose(1, 2) * mask
        words = self.words(input_ids)
        embedding = seen = _mean(words, weights)
        if self.pairs:
            seen = torch.cat([embedding, _mean(words[:, :-1] * words[:, 1:], mask[:, :, 1:])], 1)
        hidden = self.norm(nn.functional.gelu(self.hidden(self.dropout(seen))))
        return self.head(self.dropout(hidden)), embedding

    def tables(self) -> dict[str, nn.Embedding]:
        """Return the token embeddings and the token weights."""
        return {"words": self.words, "importance": self.importance}

    def set_table(self, name: str, table: nn.Embedding) -> None:
        """Replace one of the two."""
        setattr(self, name, table)

    def blocks(self) -> list[nn.Module]:
        """Return the two tables, the hidden layer and the head."""
        return [nn.ModuleList([self.words, self.importance]), nn.ModuleList([self.hidden, self.norm]), self.head]


class Static:
    """The network of this family."""

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
        hidden, seen = state["hidden.weight"].shape
        module = StaticModule(vocabulary, width, hidden, classes, pairs=seen > width)
        module.load_state_dict(state)
        return cls(module)


def build(config: StaticStudent, labels: Sequence[str], corpus: Sequence[str]) -> Student:
    """Build an untrained student: embeddings from a pretrained encoder, token weights from the texts of `corpus`."""
    serialised, words = _vocabulary(config.model, weights_version(config.model))
    tokenizer = Tokenizer.from_str(serialised)
    module = StaticModule(words.shape[0], words.shape[1], config.hidden, len(labels), pairs=config.pairs)
    with torch.no_grad():
        # Values of about 1: Adam's steps do not scale with the values, and would overwrite small ones.
        module.words.weight.copy_(words * (words.shape[1] ** 0.5 / words.norm(dim=1).mean()))
        module.importance.weight.copy_(_inverse_frequency(encode(tokenizer, corpus, config.max_tokens), len(words)))
    return Student(Static(module), tokenizer, tuple(labels), config.max_tokens)


@lru_cache(maxsize=1)
def _vocabulary(model: str, version: str) -> tuple[str, Tensor]:
    """Return a model's tokenizer, serialised, and the embeddings of its tokens, [V, d].

    Cached, because they take as long as some epochs, and a sweep and comparisons need them again. `version` is that of
    the weights, which may change in one folder.
    """
    with torch.random.fork_rng(devices=[]):  # so that nothing drawn later depends on whether it was cached
        start = load_pretrained(locate(model), max_tokens=1)
        check_short_text(EncoderModule(start.encoder, 2), start.encoder.config.model_type, start.tokenizer, model, 1)
        return start.tokenizer.to_str(), token_embeddings(start.encoder, start.tokenizer)


@torch.inference_mode()
def token_embeddings(encoder: Any, tokenizer: Tokenizer) -> Tensor:
    """Encode each token of the vocabulary on its own, between special tokens, mean-pooled: [V, d]."""
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


def _mean(vectors: Tensor, weights: Tensor) -> Tensor:
    """Average vectors, [B, T, d], by weights, [B, 1, T]; zeros where all weights are zero."""
    # A matrix product takes a graph less time than a sum of products.
    return (weights @ vectors).squeeze(1) / weights.sum(2).clamp_min(1e-9)


def _inverse_frequency(rows: Sequence[Sequence[int]], vocabulary: int) -> Tensor:
    """Return log(a / (a + frequency)) of each token, [V, 1], with a = 1e-3."""
    counts = Counter(token for row in rows for token in row)
    frequency = torch.zeros(vocabulary, 1)
    for token, count in counts.items():
        frequency[token] = count
    return torch.log(_SMOOTHING / (_SMOOTHING + frequency / max(1.0, float(frequency.sum()))))
