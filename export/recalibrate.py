"""Fit the temperature of a student again, to the graph that is served.

Quantisation changes how far logits are apart, and so how sure a student is when it is right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax

from distill.evaluation.calibration import calibrate_temperature
from export.bundle.classifier import Classifier, Prediction
from export.graph.temperature import set_temperature

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """A graph with its temperature, loaded, and its answers to the validation texts.

    `cross_entropy` is that with the teacher on these texts, in nats, at the student's temperature and at this one.
    """

    graph: Path
    temperature: float
    classifier: Classifier
    answers: list[Prediction]
    cross_entropy: tuple[float, float]


def recalibrate(
    graph: Path,
    answers: Sequence[Prediction],
    teacher: Floats,
    trained: float,
    load: Callable[[Path], Classifier],
    texts: Sequence[str],
) -> Recalibrated:
    """Write a graph beside `graph` whose temperature fits its own logits, and ask it for its answers to `texts`.

    `answers` are those of `graph`, of which only the logits count; `teacher` are its probabilities [N, K] for the same
    texts, to which the student's temperature `trained` was fitted, too; `load` loads a graph.
    """
    logits = np.stack([answer.logits for answer in answers])
    temperature = calibrate_temperature(logits, teacher)
    path = set_temperature(graph, graph.with_name(f"recalibrated-{graph.name}"), temperature)
    classifier = load(path)
    entropies = (_cross_entropy(logits / trained, teacher), _cross_entropy(logits / temperature, teacher))
    return Recalibrated(path, temperature, classifier, [classifier.classify(text) for text in texts], entropies)


def _cross_entropy(scaled: Floats, teacher: Floats) -> float:
    """Return the mean cross-entropy, in nats, of softmax(scaled) with the teacher; both are [N, K]."""
    return float(-(teacher * log_softmax(scaled.astype(np.float64), axis=1)).sum(axis=1).mean())
