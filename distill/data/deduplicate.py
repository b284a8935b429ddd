"""Remove exact and near duplicates from the pool, also rows that are in a held-out split, which would leak.

Near duplicates have a Jaccard similarity of character 5-grams at or above a threshold. MinHash (Broder 1997) finds
candidates and misses at most 1 % of the pairs at the threshold, fewer of those above it; the exact similarity decides.
Held-out splits are never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from zlib import crc32

from datasketch import MinHash, MinHashLSH

from distill.data.splits import Examples, S, normalise

_SHINGLE = 5
_PERMUTATIONS = 64
_MISSED = 0.01  # of the pairs at the threshold, at most: a missed pair leaks, a false candidate costs a comparison
_EMPTY = MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=crc32)  # a fifth of the time of the default, SHA-1


@dataclass(frozen=True, slots=True)
class Deduplication:
    """What was removed from a pool: `exact` and `near` duplicates in it, and rows `leaked` from each held-out split.

    `conflicting` counts texts that have more than one gold label in the pool (the first is kept).
    """

    rows: int
    kept: int
    exact: int
    near: int
    leaked: dict[str, int]
    conflicting: int


def deduplicate(
    pool: S,
    held_out: Mapping[str, Examples],
    threshold: float,
    advance: Callable[[int], None] = lambda count: None,
) -> tuple[S, Deduplication]:
    """Remove the pool rows that duplicate an earlier row or a held-out row, and count them.

    `threshold` is the least Jaccard similarity of near duplicates, in (0, 1]. `advance(1)` is called for every row.
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


def duplicates(
    texts: Sequence[str],
    held_out: Mapping[str, Examples],
    threshold: float,
    advance: Callable[[int], None] = lambda count: None,
) -> list[bool]:
    """Return for each text whether it duplicates a row of a held-out split, exactly or nearly.

    `threshold` is the least Jaccard similarity of near duplicates, in (0, 1]. `advance(1)` is called for every text.
    """
    index = _Index(threshold)
    for name, split in held_out.items():
        for text in split.texts:
            index.add(text, name)
    found = []
    for text in texts:
        found.append(index.find(text) is not None)
        advance(1)
    return found


class _Index:
    """The texts so far, with their splits."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._lsh = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold)) if threshold < 1 else None
        self._where: dict[str, str] = {}

    def add(self, text: str, where: str) -> None:
        """Add a text of the split `where`; a text in two splits counts for the first."""
        key = normalise(text)
        if key not in self._where:
            self._where[key] = where
            if self._lsh is not None:
                self._lsh.insert(key, _minhash(key))

    def find(self, text: str) -> tuple[str, str] | None:
        """Return how a text is known (`exact` or `near`) and in which split, or None."""
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
        # A held-out split outranks the pool: a leak is worse than a duplicate.
        return ("near", min(near, key=lambda split: split == "pool")) if near else None


def _bands(threshold: float) -> tuple[int, int]:
    """Return the number of bands b and of rows r in each, with the largest r that `_MISSED` allows at `threshold`.

    A pair of similarity s agrees in no band with probability (1 - s^r)^b (Leskovec, Rajaraman, Ullman: Mining of
    Massive Datasets, section 3.4.2).
    """
    for rows in range(_PERMUTATIONS // 2, 1, -1):  # datasketch requires at least two bands
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
    sketch.update_batch([gram.encode() for gram in _shingles(text)])
    return sketch
