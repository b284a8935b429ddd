"""What the service promises about its answers, as gauges, for alerts on availability and latency."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

BURN_RATES = {"1h": 14.4, "6h": 6.0, "3d": 1.0}
"""How many times as fast as allowed errors may use up the error budget of 30 days, in windows of different length: 2 %
of it within an hour, 5 % within six and 10 % within three days (Beyer et al., The Site Reliability Workbook, 2018,
chapter 5)."""

FEWEST = 10
"""Failures in a window below which nobody is alerted: with few requests, one that fails is already too many percent."""


class Objectives(Collector):
    """The objectives of one model: shares in (0, 1) of requests to be answered at all, and within `seconds`."""

    def __init__(self, availability: float, latency: float, seconds: float) -> None:
        self._availability, self._latency, self._seconds = availability, latency, seconds

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        text = "Share of requests that should be answered."
        yield GaugeMetricFamily("reflux_availability_objective", text, value=self._availability)
        text = "Share of requests that should be answered within le seconds, a bucket of reflux_answer_seconds."
        latency = GaugeMetricFamily("reflux_latency_objective", text, labels=["le"])
        latency.add_metric([str(float(self._seconds))], self._latency)
        yield latency
        text = "How fast errors may use up their budget of 30 days, as a multiple of what is allowed."
        burn = GaugeMetricFamily("reflux_burn_rate", text, labels=["window"])
        for window, rate in BURN_RATES.items():
            burn.add_metric([window], rate)
        yield burn
        text = "Failures in a window below which their rate is no reason for an alert."
        yield GaugeMetricFamily("reflux_burn_failures", text, value=FEWEST)
