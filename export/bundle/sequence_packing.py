"""Rows of attention: the texts of a run one after another in rows as wide as the longest, each seeing itself alone.

Attention is the only part of a packed graph that needs texts in rows, and pays for what is left empty there. Short ones
share a row, as sequences do in training (Krell et al. 2021, Efficient sequence packing without cross-contamination,
section 3). It reckons with lengths and knows no graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

ROWS = "attention_rows"
PLACES = "attention_places"
BIAS = "attention_bias"
NAMES = (ROWS, PLACES, BIAS)

Array = npt.NDArray[np.generic]

_UNSEEN = np.float32(-10_000.0)
"""Added to the score of what is not seen: its exponential is 0 in 32 bits and in 16."""


class Rows:
    """What a packed graph is given beside its texts, which have at most `max_tokens` tokens. Threads may share it."""

    def __init__(self, max_tokens: int) -> None:
        self._places = np.arange(max_tokens, dtype=np.int64)
        self._seen = np.zeros(max_tokens * max_tokens, dtype=np.float32)

    def of(self, lengths: Sequence[int]) -> dict[str, Array]:
        """The inputs for texts of so many tokens; the tokens of all are counted through.

        `ROWS` int64 [rows, width] is the token at each place, `PLACES` int64 [tokens] the place of each token, counted
        through the rows. `BIAS` float32 [rows, 1, width, width] is added to the scores of attention: 0 between the
        tokens of a text.
        """
        if len(lengths) == 1:
            (width,) = lengths
            places = self._places[:width]
            seen = self._seen[: width * width].reshape(1, 1, width, width)
            return {ROWS: places.reshape(1, width), PLACES: places, BIAS: seen}
        sizes, width = np.array(lengths), max(lengths)
        starts, count = lay_out(lengths)
        texts = np.repeat(np.arange(len(lengths)), sizes)
        tokens = np.arange(len(texts))
        places = tokens + np.repeat(starts - sizes.cumsum() + sizes, sizes)
        rows = np.zeros(count * width, dtype=np.int64)
        rows[places] = tokens
        text_at = np.full(count * width, -1)
        text_at[places] = texts
        in_rows = text_at.reshape(count, 1, width)
        bias = (in_rows[..., None] != in_rows[..., None, :]) * _UNSEEN
        return {ROWS: rows.reshape(count, width), PLACES: places, BIAS: bias}


def lay_out(lengths: Sequence[int]) -> tuple[npt.NDArray[np.int64], int]:
    """The place where each text begins, [texts], and how many rows, as wide as the longest, there are.

    The longest text that is left begins a row, and the shortest that are left fill it.
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
