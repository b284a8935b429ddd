"""The Prometheus metrics of input drift: its tests, and counters from which rules can compute their own."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.shadow.families import counter, gauge
from service.shadow.input_drift import InputDrift


class DriftMetrics(Collector):
    """Collects the drift of the inputs to one bundle, of this `version`.

    A test that was not done has no series. The counters of bins are there from the start, at zero; predicted classes
    and confidence bands have counters of their own (`reflux_predictions_total`, `reflux_requests_total`).
    """

    def __init__(self, inputs: InputDrift, version: str) -> None:
        self._inputs, self._version = inputs, version

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        found = self._inputs.find(time.time())
        tested = [((self._version, finding.feature), finding.test) for finding in found if finding.test is not None]
        yield gauge(
            "reflux_drift_statistic",
            "Difference of a feature of the inputs from the reference, in the window in which it is largest.",
            ("model_version", "feature"),
            ((labels, test.statistic) for labels, test in tested),
        )
        yield gauge(
            "reflux_drift_threshold",
            "The statistic above which that is input drift.",
            ("model_version", "feature"),
            ((labels, test.threshold) for labels, test in tested),
        )
        yield gauge(
            "reflux_drift_detected",
            "Whether the inputs drifted: 1 if a feature is above its threshold.",
            ("model_version",),
            [((self._version,), float(any(finding.drift for finding in found)))],
        )
        yield counter(
            "reflux_drift_requests",
            "Answered texts by the bin of their length in tokens, and of their share of unknown tokens.",
            ("model_version", "feature", "bin"),
            (
                ((self._version, feature, str(position)), count)
                for feature in ("length", "unknown")
                for position, count in enumerate(self._inputs.counts.since_start(feature))
            ),
        )
