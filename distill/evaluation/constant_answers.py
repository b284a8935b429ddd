"""Warn about a teacher or a student that does no better than giving every text the same label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.intp]


def teacher_warnings(teacher: Floats, labels: Sequence[str], gold: Classes | None = None) -> list[str]:
    """Warn if a teacher's probabilities [N, K] choose one label only, or are right no more often than a constant label.

    With `gold` classes [N], labels that occur in gold but are never chosen are named too.
    """
    count = len(teacher)
    if not count:
        return []
    chosen = np.bincount(teacher.argmax(1), minlength=len(labels))
    if chosen.max() == count:
        return [
            f"the teacher says {labels[int(chosen.argmax())]!r} for each of {count} texts, so there is nothing to "
            "distil; check its model, its prompt and the labels"
        ]
    if gold is None:
        never = [repr(label) for label, times in zip(labels, chosen, strict=True) if not times]
        listed = ", ".join(never[:5]) + (", …" if len(never) > 5 else "")
        if not never:
            return []
        return [f"the teacher says {listed} for none of {count} texts; no student can learn that from it"]
    found = []
    truth = np.bincount(gold, minlength=len(labels))
    right = int((teacher.argmax(1) == gold).sum())
    if right <= truth.max():
        found.append(
            f"the teacher is right on {_percent(right, count)} of {count} texts, and "
            f"{labels[int(truth.argmax())]!r} for each would be on {_percent(int(truth.max()), count)}; "
            "check its model, its prompt and the labels"
        )
    never = [f"{labels[k]!r} ({truth[k]} texts)" for k in range(len(labels)) if truth[k] and not chosen[k]]
    if never:
        found.append(f"the teacher never says {', '.join(never)}; no student can learn from it what such texts are")
    return found


def student_warnings(students: Mapping[str, Floats], teacher: Floats, labels: Sequence[str]) -> list[str]:
    """Warn about each student, [N, K], that agrees with the teacher no more often than a constant label would.

    A student that always agrees with a teacher of one label is left out: the warning about the teacher covers it.
    """
    count = len(teacher)
    chosen = np.bincount(teacher.argmax(1), minlength=len(labels))
    most = int(chosen.max())
    found = []
    for name, student in students.items():
        agree = int((student.argmax(1) == teacher.argmax(1)).sum())
        if agree <= most and agree < count:
            found.append(
                f"{name} agrees with the teacher on {_percent(agree, count)} of {count} texts, and "
                f"{labels[int(chosen.argmax())]!r} for each would on {_percent(most, count)}; train it on more text or "
                "for more epochs, and look at its losses in training.json"
            )
    return found


def _percent(part: int, count: int) -> str:
    return f"{100 * part / count:.1f} %"
