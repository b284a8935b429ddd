"""Where the gap hurts: by direction, by predicted class, and in the application's decision; for `GET /gap` and metrics.

Classes are tallied by hour, and after a day by day: a window begins with the hour or the day that its start is in.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.monitor.cells import Floats
from service.monitor.directions import Pairs, classes, directions, pair_weights
from service.monitor.gap import estimate
from service.process.parts import Parts, whole
from service.shadow.assessment import Assessment
from service.shadow.families import gauge
from service.shadow.history import History
from service.shadow.slots import DAY, HOUR, folded, future, hour_of

LISTED = 10
"""Directions and classes that are listed: a model of many labels must not have as many series."""

_READ = 4000  # tallies that are read in one part

OTHER = "other"
"""The label value, in metrics, of all directions that are not listed."""


class Breakdown:
    """Breaks the gap of one bundle down, by the counts that `history` returns.

    `labels` are the bundle's, `decides` is whether it has a decision.
    """

    def __init__(self, history: Callable[[], History], labels: Sequence[str], *, decides: bool) -> None:
        self._history, self._labels, self._decides = history, tuple(labels), decides
        self._read: tuple[object, int, Floats] = None, 0, np.empty((0, 5))

    def report(self, start: float = 0.0) -> dict[str, Any]:
        """Return the sections `directions`, `classes` and `decision` of `GET /gap`.

        They are about the slots from `start` (Unix seconds). `decision` is None without a decision or a comparison.
        """
        return whole(self.parts(self._history(), start))

    def parts(self, history: History, start: float = 0.0) -> Parts[dict[str, Any]]:
        """Return the same in parts; `history` is that of the bundle, or a copy that does not change meanwhile."""
        begin = folded(hour_of(start), history.hour, DAY)
        pairs = (yield from self._pairs(history)).since(begin)
        yield
        cells = history.cells().since(begin)
        yield
        weights = pair_weights(pairs, cells, _periods(cells.slot, history.hour))
        yield
        worst = directions(pairs, weights, LISTED)
        yield
        students = classes(pairs, weights)[:LISTED]
        yield
        return {
            "directions": [
                {
                    "teacher": self._name(one.teacher),
                    "student": self._name(one.student),
                    **_interval(one.ratio, one.lower, one.upper),
                    "count": one.count,
                }
                for one in worst
            ],
            "classes": [
                {
                    "label": self._name(one.student),
                    "share": one.share,
                    **_interval(one.ratio, one.lower, one.upper),
                    "compared": one.compared,
                }
                for one in students
            ],
            "decision": _decision(history, start) if self._decides else None,
        }

    def _name(self, position: int | None) -> str | None:
        return None if position is None else self._labels[position]

    def _pairs(self, history: History) -> Parts[Pairs]:
        """Return the tallies as arrays. Within an hour they are never removed, so that only new ones are read."""
        known, hour, keys = self._read
        tallies = list(history.pairs)
        if known is not history.origin or hour != history.hour or len(keys) > len(tallies):
            keys = np.empty((0, 5))
        for start in range(len(keys), len(tallies), _READ):
            keys = np.concatenate([keys, np.array(tallies[start : start + _READ], dtype=np.float64)])
            yield
        self._read = history.origin, history.hour, keys
        count = np.fromiter(history.pairs.values(), np.float64, len(tallies))
        band, student, teacher = (keys[:, column].astype(np.int64) for column in (1, 3, 4))
        period = np.where(keys[:, 0] >= future(history.hour), 0.0, keys[:, 0])
        return Pairs(period, band, keys[:, 2], student, teacher, count)


class BreakdownMetrics(Collector):
    """Collects the gap of the last day, broken down, for one bundle of this `version`."""

    def __init__(self, breakdown: Breakdown, version: str) -> None:
        self._breakdown, self._version = breakdown, version
        self._prepared: dict[str, Any] | None = None

    def prepare(self, assessed: Assessment) -> Parts[None]:
        """Break the gap down in parts, for the next time that this is collected."""
        self._prepared = yield from self._breakdown.parts(assessed.history, assessed.now - DAY)

    def collect(self) -> Iterator[Metric]:
        """Yield what is known."""
        found, self._prepared = self._prepared, None
        if found is None:
            found = self._breakdown.report(time.time() - DAY)
        whole = [] if found["decision"] is None else [((), found["decision"])]
        for name, text, labels, estimates in (
            (
                "direction",
                "Share of requests with this direction of disagreement, in the last day: the most frequent, and the "
                "other.",
                ("teacher", "student"),
                [((one["teacher"] or OTHER, one["student"] or OTHER), one) for one in found["directions"]],
            ),
            (
                "class",
                "Gap among the requests to which the student gave this label, in the last day: the worst labels.",
                ("label",),
                [((one["label"],), one) for one in found["classes"]],
            ),
            (
                "decision",
                "Share of requests on which the application would act otherwise by the teacher's answer, in the last "
                "day.",
                (),
                whole,
            ),
        ):
            for end, (suffix, before) in _ENDS.items():
                samples = [((self._version, *values), one[end]) for values, one in estimates]
                if samples:
                    yield gauge(f"reflux_gap_{name}{suffix}", f"{before}{text}", ("model_version", *labels), samples)


_ENDS = {
    "ratio": ("", ""),
    "lower": ("_lower", "Lower end of the 95 % interval: "),
    "upper": ("_upper", "Upper end of the 95 % interval: "),
}
"""The numbers of an estimate: what the name of their family ends with, and what its help begins with."""


def _decision(history: History, start: float) -> dict[str, float] | None:
    found = estimate(history.decision_cells().since(start))
    if found is None:
        return None
    return {**_interval(found.gap, found.lower, found.upper), "compared": found.compared}


def _periods(slot: Floats, hour: int) -> Floats:
    """Return the hour, or the day, with which the comparisons of each cell were tallied, in a history of `hour`."""
    length = np.where(slot < hour - DAY, DAY, HOUR)
    period = slot // length * length
    return np.where(period < hour - 8 * DAY, 0.0, period)  # a day is folded as a whole, hours one by one


def _interval(ratio: float, lower: float, upper: float) -> dict[str, float]:
    return {"ratio": ratio, "lower": lower, "upper": upper}
