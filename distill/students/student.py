"""A student: a network over token ids, its tokenizer, its labels and its temperature, saved in one folder.

A fine-tuned local teacher has the same form, so that training and export handle one kind of model.
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

from distill.errors import DistillError, one_line
from distill.stages import write_atomic
from distill.students.padding import pad
from distill.truncation import longest_row, most_that_runs, truncate_at

CARD = "student.json"
TOKENIZER = "tokenizer.json"

_TOLERANCE = 1e-4
"""How far logits may differ, relative and absolute, after a student was saved and loaded."""

FAMILIES = {
    "encoder": "distill.students.encoder:Encoder",
    "decoder": "distill.students.decoder:Decoder",
    "ngrams": "distill.students.ngrams:Ngrams",
    "static": "distill.students.static:Static",
    "sequence-classifier": "distill.students.sequence_classifier:SequenceClassifier",
}


class StudentModule(nn.Module):
    """A torch module that maps ids and mask, int64 [B, T], to logits [B, K] and an embedding [B, d].

    Ids where the mask is 0 do not matter: the module reads `pad_id` there.
    """

    pad_id: int = 0

    def tables(self) -> dict[str, nn.Embedding]:
        """Return, by name, the tables that are indexed by token id."""
        raise TypeError(f"{type(self).__name__} names no tables")

    def set_table(self, name: str, table: nn.Embedding) -> None:
        """Replace a table."""
        raise TypeError(f"{type(self).__name__} has no table {name}")

    def blocks(self) -> list[nn.Module]:
        """Return the parts of the module from input to output, which may learn at different rates."""
        return []

    def max_positions(self) -> int | None:
        """Return the most tokens of a text that the module reads; None where there is no limit."""
        return None


class Network(Protocol):
    """The part of a student that computes, and how it is saved."""

    family: ClassVar[str]

    @property
    def module(self) -> StudentModule:
        """The module that is trained and exported."""

    def save(self, folder: Path) -> None:
        """Write the weights into a folder."""

    @classmethod
    def load(cls, folder: Path, classes: int) -> Self:
        """Read what `save` wrote."""


@dataclass(frozen=True)
class Student:
    """A classifier that can be trained and exported. `temperature` divides its logits before the softmax.

    A `multi_label` classifier decides on each label by a sigmoid; it can be exported, but not distilled.
    """

    network: Network
    tokenizer: Tokenizer
    labels: tuple[str, ...]
    max_tokens: int
    temperature: float = 1.0
    multi_label: bool = False

    def with_temperature(self, temperature: float) -> Student:
        """Return this student with another temperature."""
        return replace(self, temperature=temperature)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts: the ids of each, truncated to `max_tokens`."""
        return encode(self.tokenizer, texts, self.max_tokens)

    def logits(
        self, texts: Sequence[str], *, batch_size: int = 64, advance: Callable[[int], None] = lambda count: None
    ) -> npt.NDArray[np.float32]:
        """Compute uncalibrated logits [N, K] with torch. `advance` is told the number of texts done."""
        return predict(self.network.module, self.encode(texts), batch_size=batch_size, advance=advance)

    def save(self, folder: Path) -> None:
        """Write the student into a folder, for `load_student`.

        Raises DistillError when the student, read back, gives other logits for a short or a long text.
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
        before, after = (predict(student.network.module, rows) for student in (self, load_student(folder)))
        if not np.allclose(before, after, rtol=_TOLERANCE, atol=_TOLERANCE):
            raise DistillError(
                f"{folder}: the saved student gives other answers than the trained one (a logit is off by "
                f"{np.abs(before - after).max():.3g}); report this, and use another model meanwhile"
            )


def load_student(folder: Path) -> Student:
    """Read a student from its folder. Raises DistillError when the folder does not hold one."""
    try:
        card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
        network = network_class(card["family"]).load(folder, len(card["labels"]))
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # many kinds: safetensors, tokenizers and torch have their own
        raise DistillError(f"{folder}: not a trained student ({one_line(error)}); run `reflux train` again") from error
    network.module.eval()
    require_positions(network.module.max_positions(), card["max_tokens"], str(folder), "and train it again")
    return Student(
        network,
        tokenizer,
        tuple(card["labels"]),
        card["max_tokens"],
        card["temperature"],
        card.get("multi_label", False),
    )


def require_positions(most: int | None, max_tokens: int, model: str, remedy: str = "") -> None:
    """Raise DistillError when `max_tokens` is more than the positions of a model, `most`; None is no limit."""
    if most is not None and max_tokens > most:
        remedy = f" {remedy}" if remedy else ""
        raise DistillError(
            f"model {model}: max_tokens is {max_tokens}, but the model has {most} positions; "
            f"set max_tokens to {most} or less{remedy}"
        )


def check_longest(student: Student, model: str) -> None:
    """Check that a student reads a text of `max_tokens`, also after a short one.

    Raises DistillError when it fails on the text, naming the most tokens that it does read, and when its logits for the
    text change once it has read a short one.
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
            f"({one_line(error)}); {remedy}"
        ) from error
    if not np.allclose(first, again, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise DistillError(
            f"model {model}: its answer to a text of {student.max_tokens} tokens changes once it has read a short one; "
            "lower max_tokens, or use another model (for BigBird one whose attention_type is original_full)"
        )


def network_class(family: str) -> type[Network]:
    """Return the network class of a family. Raises DistillError for an unknown family."""
    if family not in FAMILIES:
        raise DistillError(f"unknown family {family!r}; expected one of {', '.join(FAMILIES)}")
    module, _, name = FAMILIES[family].partition(":")
    return cast(type[Network], getattr(import_module(module), name))


def encode(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
    """Tokenise texts: the ids of each, truncated, not padded."""
    tokenizer.no_padding()
    truncate_at(tokenizer, max_tokens)
    return [encoding.ids for encoding in tokenizer.encode_batch_fast(list(texts))]


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Average states [B, T, d] over the tokens where the mask [B, T] is 1: [B, d]."""
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp_min(1e-9)


def predict(
    module: nn.Module,
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda count: None,
) -> npt.NDArray[np.float32]:
    """Compute the logits [N, K] of rows of token ids, batched by length; leaves the module in evaluation mode."""
    return _outputs(module, rows, 0, batch_size, advance)


def embed(
    module: nn.Module,
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    advance: Callable[[int], None] = lambda count: None,
) -> npt.NDArray[np.float32]:
    """Compute the embeddings [N, d] of rows of token ids, as `predict` computes the logits."""
    return _outputs(module, rows, 1, batch_size, advance)


@torch.inference_mode()
def _outputs(
    module: nn.Module, rows: Sequence[Sequence[int]], which: int, batch_size: int, advance: Callable[[int], None]
) -> npt.NDArray[np.float32]:
    """Compute the output at place `which` of a module, for all rows."""
    module.eval()
    device = next(module.parameters()).device
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    outputs: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(order), batch_size):
        ids, mask = pad([rows[row] for row in order[start : start + batch_size]])
        output = module(ids.to(device), mask.to(device))[which]
        outputs.append(output.float().cpu().numpy())
        advance(len(ids))
    stacked = np.concatenate(outputs)
    result = np.empty_like(stacked)
    result[order] = stacked
    return result


def probabilities(logits: npt.NDArray[np.float32], temperature: float) -> npt.NDArray[np.float32]:
    """Turn logits [N, K] into probabilities at a temperature, computed in 64 bits."""
    scaled = logits.astype(np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    result: npt.NDArray[np.float32] = (exponent / exponent.sum(axis=1, keepdims=True)).astype(np.float32)
    return result
