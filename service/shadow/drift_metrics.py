"""The Prometheus metrics of input drift: its tests, and counters from which rules can compute their own."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

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
        labels = ("model_version", "feature")
        text = "Difference of a feature of the inputs from the reference, in the window in which it is largest."
        statistic = GaugeMetricFamily("reflux_drift_statistic", text, labels=labels)
        text = "The statistic above which that is input drift."
        threshold = GaugeMetricFamily("reflux_drift_threshold", text, labels=labels)
        found = self._inputs.find(time.time())
        for finding in found:
            if finding.test is not None:
                statistic.add_metric((self._version, finding.feature), finding.test.statistic)
                threshold.add_metric((self._version, finding.feature), finding.test.threshold)
        text = "Whether the inputs drifted: 1 if a feature is above its threshold."
        detected = GaugeMetricFamily("reflux_drift_detected", text, labels=("model_version",))
        detected.add_metric((self._version,), float(any(finding.drift for finding in found)))
        text = "Answered texts by the bin of their length in tokens, and of their share of unknown tokens."
        binned = CounterMetricFamily("reflux_drift_requests", text, labels=("model_version", "feature", "bin"))
        for feature in ("length", "unknown"):
            for position, count in enumerate(self._inputs.counts.since_start(feature)):
                binned.add_metric((self._version, feature, str(position)), count)
        yield from (statistic, threshold, detected, binned)
