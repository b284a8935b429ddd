"""The shadow pipeline: all that the service holds of shadowing.

An answered text meets the sampler and the writer's queue here, nothing else; the answer never waits.
"""

from __future__ import annotations

import os
import time
from random import Random
from typing import Any

import structlog
from prometheus_client import CollectorRegistry

from export.bundle.classifier import Prediction
from export.bundle.format import Bundle
from export.bundle.reference import Reference
from service.shadow.errors import ShadowError
from service.shadow.ledger import Ledger, Outcome
from service.shadow.metrics import ShadowMetrics
from service.shadow.report import gap_report
from service.shadow.running import Running
from service.shadow.sampler import Sampler
from service.shadow.settings import ShadowSettings
from service.shadow.writer import Record

__all__ = ["ShadowError", "ShadowPipeline", "ShadowSettings"]

log = structlog.get_logger(__name__)


class ShadowPipeline:
    """Shadowing of one bundle. All methods belong on the event loop; `random` is for tests that must repeat."""

    def __init__(
        self,
        settings: ShadowSettings,
        bundle: Bundle,
        reference: Reference,
        registry: CollectorRegistry,
        *,
        random: Random | None = None,
    ) -> None:
        self._settings, self._reference, self._manifest = settings, reference, bundle.manifest
        self._sampler = Sampler(reference, settings.rate, random)
        self._ledger = Ledger(reference.null)
        self._metrics = ShadowMetrics(
            registry, self._ledger, reference, self._sampler.propensity, bundle.manifest.version
        )
        self._running: Running | None = None
        self.started = False
        self._process = os.urandom(8).hex()
        self._sampled = 0

    async def start(self) -> None:
        """Make the teacher, open the outbox, pick up what waits there, and begin. Nothing to do when not enabled.

        Raises ShadowError when the teacher or the outbox cannot be had, or the bundle is multi-label; the message says
        what to do.
        """
        self.started = True
        if not self._settings.enabled:
            return
        if self._manifest.multi_label:
            raise ShadowError(
                f"the bundle {self._manifest.name} is multi-label, and the gap is that of one label per text; "
                "set shadow.enabled to false"
            )
        self._running = await Running.start(self._settings, self._manifest, self._ledger, self._metrics.time_teacher)
        self._metrics.running = self._running

    async def stop(self) -> None:
        """Write what is queued and close, within `stop_seconds`; rows not asked for yet wait for the next start."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop(self._settings.stop_seconds)
            self._metrics.running = None  # and with it the teacher, who may be large

    def observe(self, text: str, prediction: Prediction) -> None:
        """Count an answered text and, if the coin says so, queue it for the teacher. Never raises, never waits."""
        try:
            band, expected = self._sampler.place(prediction.score)
            self._ledger.request(band, expected)
            if self._running is not None and self._sampler.toss(band):
                self._queue(self._running, text, prediction, band)
        except Exception:
            self._ledger.defects += 1
            if self._ledger.defects == 1:  # the counter tells of the others
                log.exception("shadow could not count a text")

    def gap(self) -> dict[str, Any]:
        """Return the body of `GET /gap`; see `report`."""
        return gap_report(
            self._ledger, self._reference, self._sampler.propensity, self._manifest.version, self._metrics.running
        )

    def _queue(self, running: Running, text: str, prediction: Prediction, band: int) -> None:
        # Not the request's id: that comes from the client, and may repeat.
        self._sampled += 1
        record = Record(
            id=f"{self._process}-{self._sampled:012x}",
            time=time.time(),
            since=time.monotonic(),
            text=text,
            probabilities=prediction.probabilities.astype("<f4").tobytes(),
            band=band,
            propensity=self._sampler.propensity[band],
        )
        full = self._ledger.queued >= self._settings.backlog_rows
        self._ledger.sample(band)
        if full or not running.writer.offer(record):
            self._ledger.drop(band, Outcome.QUEUE_FULL)
