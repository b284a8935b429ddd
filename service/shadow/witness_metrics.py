"""The Prometheus metrics of a witness: what became of the texts that it was to read. Zeros without a witness."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from service.shadow.families import counter, gauge
from service.shadow.witness import Witness


class WitnessMetrics(Collector):
    """Collects the counts of a witness of the bundle of this `version`. `witness` is set while it runs."""

    def __init__(self, version: str) -> None:
        self.witness: Witness | None = None
        self._version = version

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        witness = self.witness
        results = ("seen", "skipped", "dropped", "failed")
        yield counter(
            "reflux_witness_texts",
            "Answered texts by what became of them; only those that the witness has seen can be sampled.",
            ("model_version", "result"),
            (((self._version, result), getattr(witness, result) if witness else 0) for result in results),
        )
        yield counter(
            "reflux_witness_agreed",
            "Texts that the witness has seen and given the student's label.",
            ("model_version",),
            [((self._version,), witness.agreed if witness else 0)],
        )
        text = "Texts that wait for the witness."
        yield gauge("reflux_witness_queue_depth", text, (), [((), witness.waiting if witness else 0)])
