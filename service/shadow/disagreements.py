"""The body of `GET /gap/disagreements`: the newest texts on which student and teacher chose different labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from service.shadow.outbox.rows import DisagreementRow


def disagreements_report(rows: Sequence[DisagreementRow], labels: Sequence[str]) -> dict[str, Any]:
    """Return the rows for JSON, with the names and the probabilities of both labels."""
    return {"rows": [_row(row, labels) for row in rows]}


def _row(row: DisagreementRow, labels: Sequence[str]) -> dict[str, Any]:
    student, student_score = _chosen(row.probabilities, row.student_class)
    teacher, teacher_score = _chosen(row.answer, row.teacher_class)
    return {
        "time": row.time,
        "text": row.text,
        "student": labels[student],
        "student_score": student_score,
        "teacher": labels[teacher],
        "teacher_score": teacher_score,
        "band": row.band,
    }


def _chosen(probabilities: bytes, chosen: int | None) -> tuple[int, float]:
    """Return a class and its probability; the most probable one if it is not known which was compared."""
    values = np.frombuffer(probabilities, dtype="<f4")
    at = int(values.argmax()) if chosen is None else chosen
    return at, float(values[at])
