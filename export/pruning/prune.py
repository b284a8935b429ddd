"""Prune a trained encoder student: remove its least important heads and neurons, and teach it to answer as before.

The smaller student is exported like any other, and competes with the whole one in `export.selection`.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from distill.errors import DistillError
from distill.progress import bar
from distill.sections import Optimisation
from distill.students.encoder import Encoder, EncoderModule, prepare
from distill.students.prunable import prunable_layers, require_shares
from distill.students.student import Student, predict, probabilities
from distill.students.vocabulary import compact_tables
from distill.task import Prune
from distill.training.loop import train
from distill.training.losses import soft_kl
from export.bundle.format import PRUNED
from export.pruning.importance import Importance, importance
from export.selection import evenly_spaced

Floats = npt.NDArray[np.float64]

_IMPORTANCE_TEXTS = 1000
_TEMPERATURE = 2.0


@dataclass(frozen=True, slots=True)
class Pruned:
    """A pruned student, what was asked for, and the heads and neurons of each layer: those kept, of how many."""

    student: Student
    settings: Prune
    heads: tuple[tuple[int, int], ...]
    neurons: tuple[tuple[int, int], ...]

    @property
    def suffix(self) -> str:
        """What follows the variant in the names of its graphs: `-pruned-25-12.5`, with the two shares in percent."""
        return f"{PRUNED}-{self.settings.name}"

    def as_dict(self) -> dict[str, Any]:
        """Return what a manifest says of it, as JSON values."""
        parameters = sum(parameter.numel() for parameter in self.student.network.module.parameters())
        return {
            **self.settings.model_dump(mode="json"),
            "kept": {"heads": [kept for kept, _ in self.heads], "neurons": [kept for kept, _ in self.neurons]},
            "whole": {"heads": [whole for _, whole in self.heads], "neurons": [whole for _, whole in self.neurons]},
            "parameters": parameters,
        }


def prune(
    student: Student, wanted: Sequence[Prune], pool: Sequence[str], texts: Sequence[str], name: str
) -> list[Pruned]:
    """Return a pruned form of a student for each of `wanted`; the student itself is not changed.

    Importance is estimated on texts of `pool`, those that the student learned from. They also train the pruned student,
    with the whole one as its teacher; `texts`, of validation, choose the epoch. Raises DistillError, naming the student
    `name`, for a family or an architecture that cannot be pruned, a share that removes nothing or a whole layer, and an
    empty pool.
    """
    if student.network.family != Encoder.family:
        raise DistillError(
            f"{name}: export.prune: a student of the family {student.network.family} cannot be pruned, only one of the "
            f"family {Encoder.family}; remove the key"
        )
    if not pool:
        raise DistillError(f"{name}: export.prune: there are no training texts, by which heads are compared; give some")
    rows = student.encode(pool)
    try:
        layers = prunable_layers(_encoder(student))
        for one in wanted:
            require_shares(layers, one.heads, one.feed_forward)
    except DistillError as error:
        raise DistillError(f"{name}: {error}") from error
    some = evenly_spaced(rows, _IMPORTANCE_TEXTS)
    with bar(f"{name}: comparing heads and neurons", len(some)) as advance:
        important = importance(student.network.module, layers, some, advance)
    smaller = [_cut(student, important, each) for each in wanted]
    if any(each.epochs for each in wanted):
        lessons = _Lessons.of(student, rows, student.encode(texts))
        for each in (each for each in smaller if each.settings.epochs):
            _fit(each, lessons, f"{name}: fitting {each.suffix.removeprefix('-')}")
    return smaller


@dataclass(frozen=True, slots=True)
class _Lessons:
    """What a student answers: its probabilities [N, K] for `rows` of token ids, and what it chooses for `held` ones."""

    rows: list[list[int]]
    probabilities: npt.NDArray[np.float32]
    held: list[list[int]]
    chosen: npt.NDArray[np.intp]

    @classmethod
    def of(cls, student: Student, rows: list[list[int]], held: list[list[int]]) -> _Lessons:
        module = student.network.module
        return cls(rows, probabilities(predict(module, rows), 1.0), held, predict(module, held).argmax(1))


def _cut(student: Student, important: Sequence[Importance], settings: Prune) -> Pruned:
    """Remove what matters least."""
    smaller = replace(student, network=deepcopy(student.network))
    layers = prunable_layers(_encoder(smaller))
    heads = kept_heads([each.heads for each in important], settings.heads or 0.0)
    before = [(layer.heads, layer.neurons) for layer in layers]
    for layer, stay, each in zip(layers, heads, important, strict=True):
        layer.keep_heads(stay)
        layer.keep_neurons(kept_neurons(each.neurons, settings.feed_forward or 0.0))
    return Pruned(
        smaller,
        settings,
        tuple((layer.heads, whole) for layer, (whole, _) in zip(layers, before, strict=True)),
        tuple((layer.neurons, whole) for layer, (_, whole) in zip(layers, before, strict=True)),
    )


def kept_heads(important: Sequence[Floats], share: float) -> list[list[int]]:
    """Return the indices of the heads of each layer to keep, ascending, given the importance [H] of those of a layer.

    A `share` of all heads goes, whichever layer they are in; each layer keeps one.
    """
    ranked = sorted((value, layer, head) for layer, own in enumerate(important) for head, value in enumerate(own))
    kept = [set(range(len(own))) for own in important]
    left = round(share * len(ranked))
    for _, layer, head in ranked:
        if left and len(kept[layer]) > 1:
            kept[layer].remove(head)
            left -= 1
    return [sorted(own) for own in kept]


def kept_neurons(important: Floats, share: float) -> list[int]:
    """Return the indices of the neurons of a layer to keep, ascending, given their importance [F]."""
    return sorted(np.argsort(important, kind="stable")[round(share * len(important)) :].tolist())


def _fit(pruned: Pruned, lessons: _Lessons, description: str) -> None:
    """Train a pruned student to answer as the whole one does. Token embeddings stay as they are."""
    module, settings = pruned.student.network.module, pruned.settings
    prepare(pruned.student)
    with compact_tables(module, lessons.rows, lessons.held, frozen=True) as (learn, choose):
        train(
            module,
            learn,
            lessons.probabilities,
            lambda logits, target: soft_kl(logits, target, _TEMPERATURE),
            lambda trained: float((predict(trained, choose).argmax(1) == lessons.chosen).mean()),
            Optimisation(epochs=settings.epochs, learning_rate=settings.learning_rate),
            description,
        )


def _encoder(student: Student) -> Any:
    return cast(EncoderModule, student.network.module).encoder
