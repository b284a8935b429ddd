"""The disagreements that surprise most: texts of whose label the teacher is sure, and the student sees it nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]

MOST = 50
LONGEST = 200


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A text, on one line and shortened, with the label of each side and how sure each is of the teacher's label.

    `student_confidence` is how sure the student is of its own label. `gold` is None where nobody gave a label.
    """

    text: str
    teacher: str
    student: str
    gold: str | None
    teacher_confidence: float
    student_confidence: float
    student_of_teachers: float


def most_surprising(
    teacher: Floats,
    student: Floats,
    labels: Sequence[str],
    texts: Sequence[str],
    gold: Sequence[str | None],
    most: int = MOST,
) -> list[Disagreement]:
    """Return the disagreements of two classifiers' probabilities, both [N, K], on N texts, the most surprising first.

    Surprise is the teacher's probability of its label minus the student's probability of that label.
    """
    rows = np.arange(len(teacher))
    chosen, followed = teacher.argmax(1), student.argmax(1)
    surprise = teacher[rows, chosen].astype(np.float64) - student[rows, chosen]
    order = np.argsort(-surprise, kind="stable")
    differ = order[(chosen != followed)[order]]
    return [
        Disagreement(
            shortened(texts[row]),
            labels[chosen[row]],
            labels[followed[row]],
            gold[row],
            float(teacher[row, chosen[row]]),
            float(student[row, followed[row]]),
            float(student[row, chosen[row]]),
        )
        for row in differ[:most].tolist()
    ]


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return a text on one line, cut to `longest` characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…"
