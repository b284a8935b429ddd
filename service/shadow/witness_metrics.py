"""The Prometheus metrics of a witness: what became of the texts that it was to read. Zeros without a witness."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.shadow.witness import Witness


class WitnessMetrics(Collector):
    """Collects the counts of a witness of the bundle of this `version`. `witness` is set while it runs."""

    def __init__(self, version: str) -> None:
        self.witness: Witness | None = None
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        witness = self.witness
        text = "Answered texts by what became of them; only those that the witness has seen can be sampled."
        texts = CounterMetricFamily("reflux_witness_texts", text, labels=("model_version", "result"))
        text = "Texts that the witness has seen and given the student's label."
        agreed = CounterMetricFamily("reflux_witness_agreed", text, labels=("model_version",))
        queue = GaugeMetricFamily("reflux_witness_queue_depth", "Texts that wait for the witness.")
        for result in ("seen", "skipped", "dropped", "failed"):
            texts.add_metric((self._version, result), getattr(witness, result) if witness else 0)
        agreed.add_metric((self._version,), witness.agreed if witness else 0)
        queue.add_metric((), witness.waiting if witness else 0)
        yield from (texts, agreed, queue)
