"""Sequence packing: the texts of a run share rows of attention as wide as the longest text, and each sees only itself.

Attention is the only part of an unpadded graph that needs texts in rows, and it pays for the places left empty there.
So short texts share a row, as sequences do in training (Krell et al. 2021, Efficient sequence packing without
cross-contamination, section 3). This module computes with lengths only; it knows no graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ROWS = "attention_rows"
PLACES = "attention_places"
BIAS = "attention_bias"
NAMES = (ROWS, PLACES, BIAS)
"""The inputs of an unpadded graph beside the usual ones."""

UNSEEN = np.float32(-10_000.0)
"""The bias that hides a place: its exponential is 0 in 32 bits and in 16."""

Array = npt.NDArray[np.generic]


class SequencePacking:
    """Computes the packing inputs for texts of at most `max_tokens` tokens. Threads may share it."""

    def __init__(self, max_tokens: int) -> None:
        self._places = np.arange(max_tokens, dtype=np.int64)
        self._zeros = np.zeros(max_tokens * max_tokens, dtype=np.float32)

    def pack(self, lengths: Sequence[int]) -> dict[str, Array]:
        """Return the packing inputs for texts of these lengths in tokens; tokens are numbered through all texts.

        `ROWS`, int64 [rows, width], is the token at each place. `PLACES`, int64 [tokens], is the place of each token,
        counted through the rows. `BIAS`, float32 [rows, 1, width, width], is added to the attention scores: 0 between
        the tokens of a text, `UNSEEN` elsewhere.
        """
        if len(lengths) == 1:  # views of what is there already
            (width,) = lengths
            places = self._places[:width]
            bias = self._zeros[: width * width].reshape(1, 1, width, width)
            return {ROWS: places.reshape(1, width), PLACES: places, BIAS: bias}
        sizes, width = np.array(lengths), max(lengths)
        starts, count = assign_places(lengths)
        texts = np.repeat(np.arange(len(lengths)), sizes)
        tokens = np.arange(len(texts))
        places = tokens + np.repeat(starts - sizes.cumsum() + sizes, sizes)
        rows = np.zeros(count * width, dtype=np.int64)
        rows[places] = tokens
        text_at = np.full(count * width, -1)
        text_at[places] = texts
        in_rows = text_at.reshape(count, 1, width)
        bias = (in_rows[..., None] != in_rows[..., None, :]) * UNSEEN
        return {ROWS: rows.reshape(count, width), PLACES: places, BIAS: bias}


def assign_places(lengths: Sequence[int]) -> tuple[npt.NDArray[np.int64], int]:
    """Return the place where each text begins, [texts], and the number of rows, which are as wide as the longest text.

    Greedy: the longest remaining text starts a row, and the shortest remaining ones fill it.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    width = lengths[order[-1]]
    starts = np.empty(len(lengths), dtype=np.int64)
    shortest, longest, rows = 0, len(order) - 1, 0
    while shortest <= longest:
        at = rows * width
        starts[order[longest]] = at
        at += lengths[order[longest]]
        longest -= 1
        rows += 1
        while shortest <= longest and at + lengths[order[shortest]] <= rows * width:
            starts[order[shortest]] = at
            at += lengths[order[shortest]]
            shortest += 1
    return starts, rows
