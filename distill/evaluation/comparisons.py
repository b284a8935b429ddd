"""What the soft labels are worth: the same student trained in several ways, on the same test rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distill.evaluation.accuracy import macro_f1
from distill.evaluation.intervals import Interval, paired_bootstrap, wilson

Classes = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Compared:
    """A student trained in one way: its agreement with the teacher and, with gold labels, its accuracy and macro-F1.

    `agreement_lost` and `accuracy_lost` are those of the distilled student minus these, in shares of the same rows.
    """

    agreement: Interval
    agreement_lost: Interval
    accuracy: Interval | None
    accuracy_lost: Interval | None
    macro_f1: Interval | None


def compare_ways(
    choices: Mapping[str, Classes], distilled: Classes, teacher: Classes, gold: Classes | None, *, seed: int = 0
) -> dict[str, Compared]:
    """Compare the classes [N] that a student chooses, by the way it was trained, with those of the distilled one.

    `teacher` and `gold` are classes [N].
    """
    return {way: _compare(chosen, distilled, teacher, gold, seed) for way, chosen in choices.items()}


def _compare(chosen: Classes, distilled: Classes, teacher: Classes, gold: Classes | None, seed: int) -> Compared:
    agreement, agreement_lost = _share(chosen, distilled, teacher, seed)
    accuracy, accuracy_lost = (None, None) if gold is None else _share(chosen, distilled, gold, seed)
    f1 = None if gold is None else macro_f1(chosen, gold, seed=seed)
    return Compared(agreement, agreement_lost, accuracy, accuracy_lost, f1)


def _share(chosen: Classes, distilled: Classes, wanted: Classes, seed: int) -> tuple[Interval, Interval]:
    right, better = chosen == wanted, distilled == wanted
    lost = (better.astype(np.float64) - right)[:, None]
    (difference,) = paired_bootstrap(lost, lambda means: means, seed=seed)
    return wilson(int(right.sum()), len(right)), difference
