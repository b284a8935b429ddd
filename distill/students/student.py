"""What a student is: a network over token ids, its tokenizer, its labels and its temperature, kept in one folder.

A fitted local teacher has the same shape, so that training and export know one kind of model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from distill.errors import DistillError
from distill.stages import write_atomic
from distill.students.padding import pad
from distill.truncation import longest_row, most_that_runs, truncate_at

CARD = "student.json"
TOKENIZER = "tokenizer.json"

_KEPT = 1e-4
"""How far the logits of a student may be off, relative and absolute, when it was written and read."""

FAMILIES = {
    "encoder": "distill.students.encoder:Encoder",
    "static": "distill.students.static:Static",
    "sequence-classifier": "distill.students.sequence_classifier:SequenceClassifier",
}


class StudentModule(nn.Module):
    """A torch module from ids and mask, int64 [B, T], to logits [B, K] and an embedding [B, d].

    What the ids are where the mask is 0 does not matter. `pad_id` is what the module reads there.
    """

    pad_id: int = 0

    def tables(self) -> dict[str, nn.Embedding]:
        """The tables indexed by token id, by name."""
        raise TypeError(f"{type(self).__name__} names no tables")

    def set_table(self, name: str, table: nn.Embedding) -> None:
        """Put another table in the place of one."""
        raise TypeError(f"{type(self).__name__} has no table {name}")

    def most_tokens(self) -> int | None:
        """The most tokens of a text that the module reads; None where nothing bounds them."""
        return None


class Network(Protocol):
    """The part of a student that computes, and how it is kept on disk."""

    family: ClassVar[str]

    @property
    def module(self) -> StudentModule:
        """What is trained and exported."""

    def save(self, folder: Path) -> None:
        """Write the weights into a folder."""

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""


@dataclass(frozen=True)
class Student:
    """A classifier that can be trained and exported. `temperature` divides its logits before the softmax.

    A `multi_label` one gives a text any number of labels, each by a sigmoid; it can be exported, but not distilled.
    """

    network: Network
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    max_tokens: int
    temperature: float = 1.0
    multi_label: bool = False

    def with_temperature(self, temperature: float) -> Student:
        """The same student, calibrated."""
        return replace(self, temperature=temperature)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, truncated to `max_tokens`."""
        return encode(self.tokenizer, texts, self.max_tokens)

    def logits(
        self, texts: Sequence[str], *, batch_size: int = 64, advance: Callable[[int], None] = lambda count: None
    ) -> npt.NDArray[np.float32]:
        """Uncalibrated logits [N, K], computed by torch."""
        return predict(self.network.module, self.encode(texts), batch_size=batch_size, advance=advance)

    def save(self, folder: Path) -> None:
        """Write the student into a folder that `load_student` reads.

        Raises DistillError when what is read from there does not give the logits of this one, of short and long texts.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.network.save(folder)
        self.tokenizer.save(str(folder / TOKENIZER))
        card = {
            "family": self.network.family,
            "labels": self.labels,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "multi_label": self.multi_label,
        }
        write_atomic(folder / CARD, json.dumps(card, indent=2, ensure_ascii=False) + "\n")
        rows = [longest_row(self.tokenizer, length) for length in (min(8, self.max_tokens), self.max_tokens)]
        trained, kept = (predict(student.network.module, rows) for student in (self, load_student(folder)))
        if not np.allclose(trained, kept, rtol=_KEPT, atol=_KEPT):
            raise DistillError(
                f"{folder}: the student that was kept answers otherwise than the one that was trained (a logit is off "
                f"by {np.abs(trained - kept).max():.3g}); report this, and use another model meanwhile"
            )


def load_student(folder: Path) -> Student:
    """Read a student from its folder. Raises DistillError when the folder holds none."""
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        network = network_class(card["family"]).load(folder, len(card["labels"]))
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # of many kinds: safetensors, tokenizers and torch have their own
        reason = " ".join(str(error).split())
        raise DistillError(f"{folder}: not a trained student ({reason}); run `reflux train` again") from error
    network.module.eval()
    require_positions(network.module.most_tokens(), card["max_tokens"], str(folder), "and train it again")
    return Student(
        network,
        tokenizer,
        tuple(card["labels"]),
        card["max_tokens"],
        card["temperature"],
        card.get("multi_label", False),
    )


def require_positions(most: int | None, max_tokens: int, model: str, remedy: str = "") -> None:
    """Raise DistillError where `max_tokens` is above the `most` that a model has positions for."""
    if most is not None and max_tokens > most:
        remedy = f" {remedy}" if remedy else ""
        raise DistillError(
            f"model {model}: max_tokens is {max_tokens}, but the model has {most} positions; "
            f"set max_tokens to {most} or less{remedy}"
        )


def require_longest(student: Student, model: str) -> None:
    """Let a student read a text of `max_tokens`, a short one, and the long one again.

    Raises DistillError that names the most it reads where it fails, and for one that answers otherwise the second time.
    """
    row = longest_row(student.tokenizer, student.max_tokens)

    def run(length: int) -> npt.NDArray[np.float32]:
        return predict(student.network.module, [[*row[: length // 2], *row[len(row) - (length + 1) // 2 :]]])

    try:
        first, _, again = run(student.max_tokens), run(min(8, student.max_tokens)), run(student.max_tokens)
    except Exception as error:  # torch and each architecture have their own
        most = most_that_runs(run, student.max_tokens - 1)
        remedy = f"set max_tokens to {most} or less" if most else "use another model"
        raise DistillError(
            f"model {model}: max_tokens is {student.max_tokens}, but the model fails on a text of that many "
            f"({' '.join(str(error).split())[:200]}); {remedy}"
        ) from error
    if not np.allclose(first, again, rtol=_KEPT, atol=_KEPT):
        raise DistillError(
            f"model {model}: answers a text of {student.max_tokens} tokens otherwise once it has read a short one; "
            "lower max_tokens, or use another model (for BigBird one whose attention_type is original_full)"
        )


def network_class(family: str) -> type[Network]:
    """The class behind a family. Raises DistillError for one we do not know."""
    if family not in FAMILIES:
        raise DistillError(f"unknown family {family!r}; expected one of {', '.join(FAMILIES)}")
    module, _, name = FAMILIES[family].partition(":")
    return cast(type[Network], getattr(import_module(module), name))


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Token ids of each text, truncated, not padded."""
    tokenizer.no_padding()
    truncate_at(tokenizer, max_tokens)
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean of states [B, T, d] over the tokens that the mask [B, T] keeps: [B, d]."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1e-9)


@torch.inference_mode()
def predict(
    module: nn.Module,
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda count: None,
) -> npt.NDArray[np.float32]:
    """Logits [N, K] of token ids, batched by length; the module is left in evaluation mode."""
    module.eval()
    device = next(module.parameters()).device
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    outputs: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(order), batch_size):
        ids, mask = pad([rows[row] for row in order[start : start + batch_size]])
        logits, _ = module(ids.to(device), mask.to(device))
        outputs.append(logits.float().cpu().numpy())
        advance(len(ids))
    stacked = np.concatenate(outputs)
    result = np.empty_like(stacked)
    result[order] = stacked
    return result


def probabilities(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """softmax(logits / temperature), [N, K]."""
    scaled = logits.astype(np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float32] = (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
    return result
