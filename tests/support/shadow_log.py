"""Fills an outbox as a service does: texts that a student answered, with the answers of a teacher."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from export.bundle.cascade import load_classifier
from export.bundle.format import Bundle
from service.shadow.comparison import compare
from service.shadow.history import Changes
from service.shadow.outbox.rows import OutboxRow, RowResult
from service.shadow.outcome import Outcome
from service.shadow.slots import Key, slot_of

PROPENSITIES = (0.2, 0.8)


def split_of(text: str) -> str:
    """Return the split of a text, which depends on the text alone."""
    return "eval" if crc32(text.encode()) % 10 == 0 else "train"


def fill(
    outbox: Any,
    student: Bundle,
    teacher: Bundle,
    texts: Sequence[str],
    *,
    place: Callable[[int], tuple[int, float]] = lambda at: (at % 2, 0.5),
    split: Callable[[str], str] = split_of,
    ago: float = 0.0,
) -> None:
    """Open `outbox`, answer the texts by both bundles, and close it.

    `place` gives the band, 0 or 1, and the propensity of the text with a number. All was `ago` seconds ago.
    """
    ours, theirs = load_classifier(student), load_classifier(teacher)
    order = [teacher.manifest.labels.index(label) for label in student.manifest.labels]
    outbox.open()
    now = time.time() - ago
    answers = [ours.classify(text).probabilities.astype("<f4") for text in texts]
    places = [place(at) for at in range(len(texts))]
    rows = [
        OutboxRow(f"{now}-{at:06d}", now, text, answers[at].tobytes(), *places[at], split(text))
        for at, text in enumerate(texts)
    ]
    keys = sorted({Key(slot_of(now), *place) for place in places})
    requests = [sum(1 / propensity for band, propensity in places if (band, propensity) == key[1:]) for key in keys]
    outbox.write(rows, Changes(0, keys, [[count, 0.0, 0.0, 0.0, 0.0, 0.0] for count in requests]))
    for at, pending in enumerate(outbox.pending(len(texts))):
        answer = theirs.classify(pending.text).probabilities[order]
        result = RowResult(Outcome.COMPLETED, now, answer.tobytes(), "local", compare(answers[at], answer))
        assert outbox.finish(pending.seq, result)
    outbox.close()
