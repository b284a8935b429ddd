"""Choose the anchors of a bundle among the validation rows: the same number for each label of the teacher."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from export.bundle.anchors import Anchor

COUNT = 200
"""Enough that three changed labels of 77 have about eight; each is a call to the teacher a day."""


def choose_anchors(
    texts: Sequence[str], teacher: npt.NDArray[np.float32], labels: Sequence[str], count: int = COUNT, *, seed: int = 0
) -> list[Anchor]:
    """Choose `count` of N texts, or all if there are fewer. `teacher` is its probabilities [N, K], uncalibrated.

    Labels take turns, so that a rare label has as many anchors as a frequent one, as far as it has rows. The result is
    shuffled, so that a few anchors that follow each other are of different labels.
    """
    random = np.random.default_rng(seed)
    best = teacher.argmax(axis=1)
    shuffled = random.permutation(len(texts))
    # Stable: within a label the order stays shuffled. The place of a row among those of its label is its turn.
    by_label = shuffled[np.argsort(best[shuffled], kind="stable")]
    starts = np.searchsorted(best[by_label], best[by_label])
    turn = np.arange(len(by_label)) - starts
    chosen = by_label[np.argsort(turn, kind="stable")][:count]
    return [Anchor(texts[row], labels[best[row]]) for row in random.permutation(chosen)]
