"""Counters and histograms that count without a lock, for the event loop alone.

Those of `prometheus_client` take a lock for each amount, twice in a histogram, and a request counts several amounts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector


class Counter:
    """One series of a family of counters."""

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add `amount`."""
        self.value += amount


class Counters(Collector):
    """A family of counters with the label names `labels`."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._series: dict[tuple[str, ...], Counter] = {}
        registry.register(self)

    def labels(self, *values: str) -> Counter:
        """Return the series with these label values; a new one is exported as 0."""
        return self._series.setdefault(values, Counter())

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the family."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, counter in self._series.items():
            family.add_metric(values, counter.value)
        yield family


class Histogram:
    """One series of a family of histograms, with the upper bounds of its buckets but the infinite one, ascending."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self._bounds = bounds

    def observe(self, amount: float, times: int = 1) -> None:
        """Count `amount`, `times` over."""
        self.counts[bisect_left(self._bounds, amount)] += times
        self.sum += amount * times


class Histograms(Collector):
    """A family of histograms with the label names `labels`."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._documentation, self._labels, self._bounds = name, documentation, labels, buckets
        self._bound_names = [*(str(float(bound)) for bound in buckets), "+Inf"]
        self._series: dict[tuple[str, ...], Histogram] = {}
        registry.register(self)

    def labels(self, *values: str) -> Histogram:
        """Return the series with these label values; a new one is exported as 0."""
        return self._series.setdefault(values, Histogram(self._bounds))

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the family."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, histogram in self._series.items():
            buckets = [*zip(self._bound_names, accumulate(histogram.counts), strict=True)]
            family.add_metric(values, buckets, histogram.sum)
        yield family
