"""Measure how fast graphs run on this machine, beside one another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from export.bundle.classifier import Classifier

ROUNDS = 5
"""How many times `measure` goes over its texts."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """The seconds per text of each graph in the same R runs, [R] by name: run r of all has the same texts."""

    seconds: Mapping[str, npt.NDArray[np.float64]]

    @property
    def milliseconds(self) -> dict[str, float]:
        """The median milliseconds per text of each graph."""
        return {name: float(np.median(values) * 1000) for name, values in self.seconds.items()}

    def ratio(self, name: str, to: str) -> float:
        """Return the time of a graph as a share of another's: the median over the runs of both.

        What slows the machine for longer than a run slows both, so this varies less than a quotient of two medians.
        """
        return float(np.median(self.seconds[name] / self.seconds[to]))

    def quartiles(self, name: str, to: str) -> tuple[float, float]:
        """Return the range of the middle half of the runs, of the ratio."""
        low, high = np.quantile(self.seconds[name] / self.seconds[to], (0.25, 0.75))
        return float(low), float(high)


def measure(
    classifiers: Mapping[str, Classifier],
    texts: Sequence[str],
    advance: Callable[[int], None] = lambda count: None,
    *,
    rows: int = 1,
    rounds: int = ROUNDS,
) -> Speeds:
    """Measure the time per text of each graph, tokenising included, in runs of `rows` texts.

    Graphs take turns on every run, so that a slow moment of the machine slows them alike.
    """
    spent: dict[str, list[float]] = {name: [] for name in classifiers}
    for _ in range(rounds):
        for begin in range(0, len(texts), rows):
            batch = texts[begin : begin + rows]
            for name, classifier in classifiers.items():
                start = time.perf_counter()
                classifier.run([classifier.encode(text) for text in batch])
                spent[name].append((time.perf_counter() - start) / len(batch))
            advance(len(batch))
    return Speeds({name: np.array(values) for name, values in spent.items()})
