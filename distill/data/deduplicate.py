"""Texts that are the same, or nearly: removed from the pool, and reported where they stand in two splits.

Near means a Jaccard similarity of character 5-grams at or over a threshold. MinHash finds candidates (Broder 1997) and
misses at most 1 % of the pairs at the threshold, fewer of those above it; the exact similarity decides.
Held-out splits are never changed: a pool row that stands in one of them is what goes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from datasketch import MinHash, MinHashLSH

from distill.data.splits import Examples, S, normalise

_SHINGLE = 5
_PERMUTATIONS = 64
_MISSED = 0.01  # of the pairs at the threshold, at most: a missed pair may leak, a false candidate costs a comparison
_EMPTY = MinHash(num_perm=_PERMUTATIONS, seed=1)


@dataclass(frozen=True, slots=True)
class Deduplication:
    """What was removed from a pool: `exact` and `near` duplicates within it, rows `leaked` from each held-out split.

    `conflicting` counts texts that stand in the pool with more than one gold label (the first is kept).
    """

    rows: int
    kept: int
    exact: int
    near: int
    leaked: dict[str, int]
    conflicting: int


def clean(
    pool: S,
    held_out: Mapping[str, Examples],
    threshold: float,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[S, Deduplication]:
    """The pool without rows that duplicate an earlier row or a held-out row, and the account of what went.

    `advance` is told of every row that was compared.
    """
    index = _Index(threshold)
    for name, split in held_out.items():
        for text in split.texts:
            index.add(text, name)
            advance(1)
    kept: list[int] = []
    found = {"exact": 0, "near": 0, **dict.fromkeys(held_out, 0)}
    for row, text in enumerate(pool.texts):
        match = index.find(text)
        if match is None:
            kept.append(row)
            index.add(text, "pool")
        else:
            how, where = match
            found[how if where == "pool" else where] += 1
        advance(1)
    gold: dict[str, set[str]] = {}
    for text, label in zip(pool.texts, pool.gold, strict=True):
        if label is not None:
            gold.setdefault(normalise(text), set()).add(label)
    return pool.take(kept), Deduplication(
        rows=len(pool),
        kept=len(kept),
        exact=found["exact"],
        near=found["near"],
        leaked={name: found[name] for name in held_out},
        conflicting=sum(len(labels) > 1 for labels in gold.values()),
    )


class _Index:
    """Texts seen so far, and in which split."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold)) if threshold < 1 else None
        self._where: dict[str, str] = {}

    def add(self, text: str, where: str) -> None:
        """Add a text; one that stands in two splits counts for the first."""
        key = normalise(text)
        if key not in self._where:
            self._where[key] = where
            if self._lsh is not None:
                self._lsh.insert(key, _minhash(key))

    def find(self, text: str) -> tuple[str, str] | None:
        """How the text is known (`exact` or `near`) and in which split, or None."""
        key = normalise(text)
        if key in self._where:
            return "exact", self._where[key]
        if self._lsh is None:
            return None
        grams = _shingles(key)
        near = [
            self._where[candidate]
            for candidate in self._lsh.query(_minhash(key))
            if _jaccard(grams, _shingles(candidate)) >= self._threshold
        ]
        # A held-out split outranks the pool: leaking is the worse of the two.
        return ("near", min(near, key=lambda split: split == "pool")) if near else None


def _bands(threshold: float) -> tuple[int, int]:
    """Return the bands b and the rows r of each, with r as great as `_MISSED` allows at a similarity of `threshold`.

    A pair of similarity s agrees in no band with probability (1 - s^r)^b (Leskovec, Rajaraman, Ullman: Mining of
    Massive Datasets, section 3.4.2).
    """
    for rows in range(_PERMUTATIONS // 2, 1, -1):  # the library wants two bands at least
        bands = _PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= _MISSED:
            return bands, rows
    return _PERMUTATIONS, 1


def _shingles(text: str) -> set[str]:
    return {text[start : start + _SHINGLE] for start in range(max(1, len(text) - _SHINGLE + 1))}


def _jaccard(one: set[str], other: set[str]) -> float:
    return len(one & other) / len(one | other)


@lru_cache(maxsize=1)  # a row is looked up and then added
def _minhash(text: str) -> MinHash:
    sketch = _EMPTY.copy()
    sketch.update_batch([gram.encode() for gram in sorted(_shingles(text))])
    return sketch
