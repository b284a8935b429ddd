"""Splits as types: what trains, what chooses and what judges cannot be mistaken for one another.

A function that selects anything takes a `Validation`; handed a `Test` it fails under mypy and at run time.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Examples:
    """N texts with their ids and gold labels; a gold label is one that a person gave, and None if nobody did."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    gold: tuple[str | None, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_gold(self) -> bool:
        """Whether every row has a gold label."""
        return len(self) > 0 and not self.unlabelled

    @property
    def unlabelled(self) -> tuple[str, ...]:
        """The ids of the rows without a gold label."""
        return tuple(name for name, label in zip(self.ids, self.gold, strict=True) if label is None)

    def with_gold(self) -> Self:
        """Return the rows that have a gold label."""
        return self.take([row for row, label in enumerate(self.gold) if label is not None])

    def take(self, rows: Sequence[int]) -> Self:
        """Return these rows, in this order, as the same kind of split."""
        return type(self)(
            tuple(self.ids[row] for row in rows),
            tuple(self.texts[row] for row in rows),
            tuple(self.gold[row] for row in rows),
        )


def join(*parts: Examples) -> Examples:
    """Return the rows of several, in order."""
    return Examples(
        tuple(name for part in parts for name in part.ids),
        tuple(text for part in parts for text in part.texts),
        tuple(gold for part in parts for gold in part.gold),
    )


@dataclass(frozen=True, slots=True)
class Train(Examples):
    """Rows that a student learns from."""


@dataclass(frozen=True, slots=True)
class Validation(Examples):
    """Rows that choose: when to stop, which temperature, which student."""


@dataclass(frozen=True, slots=True)
class Test(Examples):
    """Rows that judge, and choose nothing."""

    __test__ = False  # pytest would take the name for a test class


S = TypeVar("S", bound=Examples)


def require(split: Examples, kind: type[S]) -> S:
    """Return the split if it is of this kind. Raises TypeError otherwise."""
    if not isinstance(split, kind):
        raise TypeError(f"expected a {kind.__name__} split, got a {type(split).__name__} split")
    return split


def gold_classes(examples: Examples, labels: Sequence[str]) -> npt.NDArray[np.intp]:
    """Return the index of each row's gold label, [N]. Every row must have one."""
    position = {label: index for index, label in enumerate(labels)}
    return np.array([position[label] for label in examples.gold if label is not None], dtype=np.intp)


def normalise(text: str) -> str:
    """Return a text with its case and spacing removed, for comparisons."""
    return " ".join(text.casefold().split())


def hold_out(examples: Examples, share: float, seed: int) -> tuple[Train, Validation]:
    """Hold out `share` of the rows for validation, the same share of every gold label, drawn with `seed`.

    Each label keeps at least one row for training. Rows keep their order.
    """
    generator = random.Random(seed)
    strata: dict[str, list[int]] = {}
    for row, label in enumerate(examples.gold):
        strata.setdefault(label or "", []).append(row)
    held: set[int] = set()
    for _, rows in sorted(strata.items()):
        # The fraction is rounded at random, so that the share holds over many small labels.
        exact = share * len(rows)
        count = min(int(exact) + (generator.random() < exact % 1), len(rows) - 1)
        held.update(generator.sample(rows, count))
    kept = [row for row in range(len(examples)) if row not in held]
    return cast(examples.take(kept), Train), cast(examples.take(sorted(held)), Validation)


def cast(examples: Examples, kind: type[S]) -> S:
    """Return the same rows as a split of this kind."""
    return kind(examples.ids, examples.texts, examples.gold)
