"""Rows of an outbox and what becomes of them, for tests of what is stored."""

from __future__ import annotations

import numpy as np

from service.shadow.comparison import Comparison
from service.shadow.history import Changes
from service.shadow.outbox.rows import OutboxRow, RowResult
from service.shadow.outcome import Outcome

NULL = np.full(5, 0.1)
"""The ceiling of every band."""
NOTHING = Changes(0, [], [])
COMPLETED = RowResult(
    Outcome.COMPLETED,
    2.0,
    b"12345678",
    "local",
    comparison=Comparison(agree=False, kl=0.5, js=0.25, student_class=0, teacher_class=1),
    tokens=7,
    cost_usd=0.01,
    seconds=0.2,
    model="m",
)


def row(key: str, band: int = 2, propensity: float = 0.5) -> OutboxRow:
    """Return a row of two classes whose id and text are made of `key`."""
    return OutboxRow(key, 1.0, f"text {key}", np.array([0.9, 0.1], dtype="<f4").tobytes(), band, propensity, "train")
