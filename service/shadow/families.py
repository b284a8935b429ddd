"""Families of Prometheus metrics from samples at hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

Samples = Iterable[tuple[Sequence[str], float]]
"""The values of a family's labels, and its value for them."""


def counter(name: str, text: str, labels: Sequence[str], *samples: Samples) -> CounterMetricFamily:
    """Return a family of counters."""
    family = CounterMetricFamily(name, text, labels=labels)
    for values, value in chain(*samples):
        family.add_metric(values, value)
    return family


def gauge(name: str, text: str, labels: Sequence[str], *samples: Samples) -> GaugeMetricFamily:
    """Return a family of gauges."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in chain(*samples):
        family.add_metric(values, value)
    return family
