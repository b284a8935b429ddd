"""Report on input drift: compare the requests of the last hour, 6 hours and day with the reference of the bundle.

`input_counts` counts the requests, `service.monitor.drift` has the tests; this module applies them, and says in words
what they found.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from export.bundle.drift_reference import DriftReference
from export.bundle.reference import Reference
from service.monitor.drift import FALSE_ALARMS, Test, embedding_shift, mean_shift, psi_excess, shares_shift
from service.monitor.wording import percent
from service.shadow.input_counts import MOST_SLOTS, InputCounts, Window

Floats = npt.NDArray[np.float64]

FEATURES = ("expected_disagreement", "band", "class", "length", "unknown", "embedding")

WINDOWS = {"1h": ("hour", 12), "6h": ("6 hours", 72), "1d": ("day", MOST_SLOTS)}
"""The name of each window in a sentence, and its number of slots."""

ENOUGH = 200
"""A window with fewer requests is not tested."""

FEWEST_TEXTS = 50
"""A reference of fewer texts is too uncertain to compare with."""

_LEVEL = FALSE_ALARMS / (len(FEATURES) * len(WINDOWS))


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found for a feature, in the window in which it differs most.

    `test` is None where there was none; `message` then says why. `requests` is the number of requests in the window.
    """

    feature: str
    window: str | None
    test: Test | None
    requests: int
    message: str

    @property
    def drift(self) -> bool:
        """Whether the feature drifted."""
        return self.test is not None and self.test.drift


class InputDrift:
    """Compares the requests to one bundle with its `reference`. `labels` are the names of its classes.

    A bundle without a reference of input drift is compared by the confidence bands of its validation rows alone.
    """

    def __init__(self, reference: Reference, labels: tuple[str, ...], random: Random | None = None) -> None:
        self.counts = InputCounts(reference, len(labels), random)
        self._comparisons = _comparisons(reference, labels)
        self._missing = (
            f"The bundle has no reference for this: it is older, or was exported with fewer than {FEWEST_TEXTS} "
            "validation and test texts."
            if reference.drift is None
            else "The bundle has no reference for this: its tokenizer has no unknown token."
        )

    def find(self, time: float) -> list[Finding]:
        """Return what is found for each of `FEATURES` at `time`, in Unix seconds."""
        windows = {name: self.counts.window(slots, time) for name, (_, slots) in WINDOWS.items()}
        return [self._find(feature, windows) for feature in FEATURES]

    def report(self, time: float) -> tuple[dict[str, Any], bool]:
        """Return the section `drift.input` of `GET /gap` at `time`, in Unix seconds, and whether the inputs drifted."""
        found = self.find(time)
        drifted, tested = any(finding.drift for finding in found), any(finding.test for finding in found)
        status = "drift" if drifted else "ok" if tested else "waiting" if self._comparisons else "off"
        features = [
            {
                "feature": finding.feature,
                "window": finding.window,
                "statistic": finding.test.statistic if finding.test else None,
                "threshold": finding.test.threshold if finding.test else None,
                "drift": finding.drift,
                "n": finding.requests,
                "message": finding.message,
            }
            for finding in found
        ]
        return {"status": status, "features": features}, drifted

    def _find(self, feature: str, windows: dict[str, Window]) -> Finding:
        comparison, day = self._comparisons.get(feature), windows["1d"].requests
        if comparison is None:
            return Finding(feature, None, None, day, self._missing)
        tests = {name: comparison.test(window) for name, window in windows.items() if window.requests >= ENOUGH}
        if not tests:
            return Finding(feature, None, None, day, f"{day} requests in the last day; {ENOUGH} are needed.")
        name = max(tests, key=lambda name: tests[name].statistic / tests[name].threshold)
        message = f"In the last {WINDOWS[name][0]} {comparison.describe(windows[name])}"
        return Finding(feature, name, tests[name], windows[name].requests, message)


class _Comparison(Protocol):
    """Compares one feature."""

    def test(self, window: Window) -> Test:
        """Test the requests of a window."""

    def describe(self, window: Window) -> str:
        """Say what differs most, as the rest of a sentence that begins "In the last hour"."""


@dataclass(frozen=True, slots=True)
class _Mean:
    """The mean expected disagreement."""

    drift: DriftReference

    def test(self, window: Window) -> Test:
        mean, deviation = self.drift.expected.tolist()
        live = window.expected / window.requests
        return mean_shift(live, window.requests, (mean, deviation), self.drift.texts, _LEVEL)

    def describe(self, window: Window) -> str:
        live, known = window.expected / window.requests, float(self.drift.expected[0])
        return (
            f"the student is expected to disagree with its teacher on {percent(live)} of the requests, on the "
            f"reference texts on {percent(known)}."
        )


@dataclass(frozen=True, slots=True)
class _Shares:
    """The shares of the bins of a feature. A request in bin i is one that `phrases[i]`."""

    name: str
    reference: Floats
    phrases: list[str]

    def test(self, window: Window) -> Test:
        return shares_shift(window.bins[self.name], self.reference, _LEVEL)

    def describe(self, window: Window) -> str:
        counts = window.bins[self.name]
        live, known = counts / counts.sum(), self.reference / self.reference.sum()
        most = int(np.argmax((live - known) ** 2 / np.maximum(live + known, 1e-12)))
        return (
            f"{percent(live[most])} of the requests {self.phrases[most]}, of the reference texts "
            f"{percent(known[most])} (PSI over all: {max(psi_excess(counts, self.reference), 0.0):.2f} above chance)."
        )


@dataclass(frozen=True, slots=True)
class _Embedding:
    """The mean of the embeddings, in random Fourier features."""

    drift: DriftReference

    def test(self, window: Window) -> Test:
        effective = window.weight**2 / window.weight_sq
        mean, drift = window.features / window.weight, self.drift
        precision = drift.precision.reshape(mean.size, mean.size)
        return embedding_shift(mean, effective, drift.means, precision, drift.texts, _LEVEL)

    def describe(self, window: Window) -> str:
        test = self.test(window)
        return (
            f"the embeddings are at a squared distance of {test.statistic:.2g} from those of the reference texts; "
            f"up to {test.threshold:.2g} is chance."
        )


def _comparisons(reference: Reference, labels: tuple[str, ...]) -> dict[str, _Comparison]:
    """Return the comparisons that the reference of a bundle allows, by feature."""
    drift, bands = reference.drift, [f"are in confidence band b{band}" for band in range(reference.bands)]
    if drift is None:
        return {"band": _Shares("band", reference.rows, bands)} if reference.rows.sum() >= FEWEST_TEXTS else {}
    found: dict[str, _Comparison] = {
        "expected_disagreement": _Mean(drift),
        "band": _Shares("band", drift.bands, bands),
        "class": _Shares("class", drift.classes, [f"are answered {label!r}" for label in labels]),
        "length": _Shares("length", drift.lengths, _length_phrases(drift.length_edges.tolist())),
        "embedding": _Embedding(drift),
    }
    if len(drift.unknown):
        found["unknown"] = _Shares("unknown", drift.unknown, _unknown_phrases(drift.unknown_edges.tolist()))
    return found


def _length_phrases(edges: list[float]) -> list[str]:
    firsts = [1, *(int(edge) + 1 for edge in edges)]
    return [
        f"have {first} or more tokens" if last == math.inf else f"have {first} to {last:.0f} tokens"
        for first, last in zip(firsts, [*edges, math.inf], strict=True)
    ]


def _unknown_phrases(edges: list[float]) -> list[str]:
    return [
        f"have at most {percent(edges[0])} unknown tokens" if edges[0] else "have no unknown tokens",
        *(f"have more than {percent(edge)} unknown tokens" for edge in edges),
    ]
