"""How well a student would follow the answers of a log: a linear one is trained on them and asked about held-out texts.

The texts differ from each other in more than case and spacing, so none of those it is asked about was in its training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from distill.data.splits import normalise
from distill.evaluation.intervals import Interval, wilson
from distill.progress import bar, status
from distill.sufficiency import power_law, probe
from distill.sufficiency.learning_curve import FOLDS, LEAST_ROWS, MOST_ROWS, SIZES, measure
from distill.sufficiency.verdict import judge
from reflux.estimate.questions import Question


@dataclass(frozen=True, slots=True)
class Repeats:
    """Texts that were asked about more than once, and how often their first two answers are the same label."""

    texts: int
    agreement: Interval

    @property
    def ceiling(self) -> float:
        """The agreement that no student can be expected to exceed: it agrees with one of two different answers."""
        return (1 + self.agreement.value) / 2


def repeats(question: Question) -> Repeats | None:
    """Compare the answers to texts that were asked about twice; None if no text was."""
    said: defaultdict[str, list[str | None]] = defaultdict(list)
    for text, label in zip(question.texts, question.chosen, strict=True):
        said[normalise(text)].append(label)
    twice = [answers for answers in said.values() if len(answers) > 1]
    if not twice:
        return None
    return Repeats(len(twice), wilson(sum(first == second for first, second, *_ in twice), len(twice)))


def expected_agreement(question: Question, usd_per_1000: float | None, seed: int = 0) -> dict[str, Any]:
    """Measure how often a linear student agrees with the logged answers to texts that it has not seen.

    A text with several answers counts once, with the commonest. `usd_per_1000` is the price of more answers.
    Returns JSON values; `measured` is false, with a reason, where the log is too small.
    """
    said: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for text, label in zip(question.texts, question.chosen, strict=True):
        if label is not None:
            said[normalise(text)].append((text, label))
    if len(said) < LEAST_ROWS:
        why = f"{len(said):,} different texts have a label, and it needs {LEAST_ROWS} or more"
        return {"measured": False, "why": why}
    position = {label: index for index, label in enumerate(question.labels)}
    texts = [answers[0][0] for answers in said.values()]
    common = (Counter(label for _, label in answers).most_common(1)[0][0] for answers in said.values())
    classes = np.array([position[label] for label in common], dtype=np.intp)
    rows = np.sort(np.random.default_rng(seed).permutation(len(texts))[:MOST_ROWS])
    with status("counting words"):
        try:
            inputs = probe.features([texts[row] for row in rows])
        except ValueError:
            return {"measured": False, "why": "the texts have no words in common"}
    with bar("training on the log's answers", FOLDS * SIZES) as advance:
        curve = measure(inputs, classes[rows], len(position), seed=seed, advance=advance)
    right = int((curve.probabilities.argmax(axis=1) == classes[rows][curve.rows]).sum())
    law = power_law.fit(curve.sizes, curve.errors)
    gain = law.gain(len(texts), 2 * len(texts))
    per_label = {label: int((classes == index).sum()) for label, index in position.items()}
    judgement = judge(len(texts), per_label, gain, usd_per_1000)
    return {
        "measured": True,
        "texts": len(curve.rows),
        "agreement": asdict(wilson(right, len(curve.rows))),
        "commonest": max(per_label.values()) / len(texts),
        "gain": asdict(gain),
        "verdict": judgement.verdict,
        "reason": judgement.reason,
    }
