"""The shadow pipeline: the service's one interface to shadowing.

For an answered text, only the sampler and the writer's queue run on the request's path; the rest is deferred.
"""

from __future__ import annotations

import os
import time
from random import Random
from typing import TYPE_CHECKING, Any

import structlog
from prometheus_client import CollectorRegistry

from export.bundle.anchors import read_anchors
from export.bundle.classifier import Prediction
from export.bundle.decision import Decision
from export.bundle.format import Bundle
from export.bundle.reference import Reference
from service.errors import InvalidRequestError
from service.monitor.windows import SINCE, start_of
from service.process.parts import Parts, whole
from service.shadow.assessment import Assessor
from service.shadow.breakdown import Breakdown, BreakdownMetrics
from service.shadow.disagreements import disagreements_report
from service.shadow.drift_metrics import DriftMetrics
from service.shadow.errors import ShadowError
from service.shadow.input_drift import InputDrift
from service.shadow.ledger import Ledger
from service.shadow.metrics import ShadowMetrics
from service.shadow.outbox.rows import Sample
from service.shadow.outcome import Outcome
from service.shadow.report import gap_report, history_report
from service.shadow.sampler import Sampler
from service.shadow.settings import ShadowSettings
from service.shadow.slots import Key, slot_of
from service.shadow.teacher_record import TeacherRecord
from service.shadow.view import SharedView, View
from service.shadow.witness import Answered, LoadedWitness, Witness
from service.shadow.witness_metrics import WitnessMetrics

if TYPE_CHECKING:
    from service.shadow.active import ActiveShadow

__all__ = ["ShadowError", "ShadowPipeline", "ShadowSettings"]

log = structlog.get_logger(__name__)


class ShadowPipeline:
    """Shadowing of one bundle. Use it on the event loop alone. `random` makes the sampling of a test repeatable."""

    def __init__(
        self,
        settings: ShadowSettings,
        bundle: Bundle,
        reference: Reference,
        registry: CollectorRegistry,
        *,
        decision: Decision | None = None,
        random: Random | None = None,
        witness: LoadedWitness | None = None,
    ) -> None:
        random = random or Random(os.urandom(32))
        self._inputs = InputDrift(reference, bundle.manifest.labels)
        registry.register(DriftMetrics(self._inputs, bundle.manifest.version))
        if witness is not None:  # the bands come from both models
            reference = witness.reference
        self._settings, self._reference, self._manifest = settings, reference, bundle.manifest
        self._loaded_witness, self._random = witness, random
        self._witness: Witness | None = None
        self._decision = decision
        self._anchors = read_anchors(bundle) if settings.enabled else []
        self._sampler = Sampler(reference, settings.rate, random)
        self._ledger = Ledger(reference.null, self._sampler.propensity)
        self._view = self._make_view()
        self._assessor = Assessor(self._view, reference, bundle.manifest, self._inputs, settings.gap_slo)
        self._metrics = ShadowMetrics(
            registry, self._ledger, self._view, self._sampler.propensity, bundle.manifest.version, self._assessor
        )
        view = self._view  # without a cycle, so that a model is freed as soon as it is released
        self._breakdown = Breakdown(lambda: view.ledger.history, bundle.manifest.labels, decides=decision is not None)
        self._breakdown_metrics = BreakdownMetrics(self._breakdown, bundle.manifest.version)
        registry.register(self._breakdown_metrics)
        self._witness_metrics = WitnessMetrics(bundle.manifest.version)
        registry.register(self._witness_metrics)
        self._active: ActiveShadow | None = None
        self.started = False
        self._process = os.urandom(8).hex()
        self._sampled = 0

    async def start(self) -> None:
        """Load the teacher, open the outbox and resume its pending rows. Does nothing unless enabled.

        Raises ShadowError if the teacher or the outbox is unavailable or the bundle is multi-label; the message says
        what to do.
        """
        self.started = True
        if not self._settings.enabled:
            return
        if self._manifest.multi_label:
            raise ShadowError(
                f"the bundle {self._manifest.name} is multi-label, and the gap is defined for one label per text; "
                "set shadow.enabled to false"
            )
        if self._loaded_witness is not None and self._manifest.deferred_below is not None:
            raise ShadowError(
                f"the bundle {self._manifest.name} leaves to the teacher what a witness would find out; unset "
                "shadow.witness"
            )
        from service.shadow.active import ActiveShadow  # the store and the teacher, only where they are used

        loaded = self._loaded_witness
        self._active = await ActiveShadow.start(
            self._settings,
            self._manifest,
            self._ledger,
            self._view,
            self._metrics.time_teacher,
            loaded.version if loaded is not None else None,
            self._decision,
            self._anchors,
        )
        self._assessor.active = self._active
        if loaded is not None:
            self._witness = Witness(loaded, self._settings, self._count_seen, self._random.random)
            self._witness_metrics.witness = self._assessor.witness = self._witness

    async def stop(self) -> None:
        """Write what is queued and close, within `stop_seconds`. Pending rows wait for the next start."""
        if self._witness is not None:
            await self._witness.stop(0.2 * self._settings.stop_seconds)
            self._witness = self._assessor.witness = None
        active, self._active = self._active, None
        if active is not None:
            await active.stop(0.8 * self._settings.stop_seconds)
            self._assessor.active = self._view.record = None  # frees the teacher, which may be large

    def observe(self, text: str, prediction: Prediction) -> None:
        """Count an answered text and, if it is sampled, queue it for the teacher. Never raises, never waits.

        A text that the teacher answered itself is counted apart: there is no disagreement to look for.
        """
        now = time.time()
        deferred = prediction.deferred
        try:  # what inputs look like is told by the student's answer, whoever gives one
            self._inputs.counts.count(prediction if deferred is None else deferred.student, now)
        except Exception:
            self._defect()
        if deferred is not None and deferred.fallback is None:
            self._count_deferred(deferred.student.score, now)
        elif self._witness is not None:
            self._witness.offer(text, prediction, now)
        elif self._loaded_witness is None:  # else it does not run now, and the text's band is not known
            self._count(text, prediction, prediction.score, now)

    def _count_deferred(self, confidence: float, now: float) -> None:
        """Count a text that the teacher answered at `now` (Unix seconds), by the student's confidence in [0, 1]."""
        try:
            band, _ = self._sampler.place(confidence)
            slot = 0 if self._active is None else slot_of(now)  # without shadowing, nothing folds old slots
            self._ledger.defer(Key(slot, band, self._sampler.propensity[band]))
        except Exception:
            self._defect()

    def _count_seen(self, item: Answered, confidence: float) -> None:
        self._count(item.text, item.prediction, confidence, item.time)

    def _count(self, text: str, prediction: Prediction, confidence: float, now: float) -> None:
        """Count a text answered at `now` (Unix seconds), and sample it by its confidence in [0, 1]."""
        try:
            band, expected = self._sampler.place(confidence)
            active = self._active
            if active is None:
                self._ledger.count_unsampled(band, expected)
                return
            self._ledger.history.count_request(now, band, expected)
            if self._sampler.draw(band):
                self._queue(active, now, text, prediction, band)
        except Exception:
            self._defect()

    def _defect(self) -> None:
        """Count the exception that is being handled, and log the first one."""
        self._ledger.defects += 1
        if self._ledger.defects == 1:
            log.exception("shadow could not count a text")

    async def refresh(self) -> None:
        """Read what other processes counted, if they share a store. Never raises, and waits a second at most."""
        await self._view.refresh()

    def gap(self, window: str = SINCE) -> dict[str, Any]:
        """Return the body of `GET /gap`, with the gap in one of `service.monitor.windows.NAMES`."""
        return whole(self.gap_parts(window))

    def gap_parts(self, window: str = SINCE) -> Parts[dict[str, Any]]:
        """Return the same in parts, all of the counts of now."""
        assessed = yield from self._assessor.assess_parts()
        report = yield from gap_report(
            assessed,
            window,
            self._view,
            self._reference,
            self._sampler.propensity,
            self._manifest.version,
            self._assessor.active,
            defers=self._manifest.deferred_below is not None,
        )
        witness = self._witness.report() if self._witness is not None else None
        breakdown = yield from self._breakdown.parts(assessed.history, start_of(window, assessed.now))
        return report | {"witness": witness} | breakdown

    def prepare_metrics(self) -> Parts[None]:
        """Compute in parts what is long, for the next time that the metrics are collected."""
        assessed = yield from self._metrics.prepare()
        yield from self._breakdown_metrics.prepare(assessed)

    def gap_history(self, window: str) -> dict[str, Any]:
        """Return the body of `GET /gap/history`: the gap over time, in one of the same windows."""
        return whole(self.gap_history_parts(window))

    def gap_history_parts(self, window: str) -> Parts[dict[str, Any]]:
        """Return the same in parts, all of the counts of now."""
        history = self._view.ledger.history.snapshot()
        return history_report(history, self._assessor.slo.ratio, time.time(), window)

    async def disagreements(self, limit: int) -> dict[str, Any]:
        """Return the body of `GET /gap/disagreements`. Raises OutboxError if the outbox cannot be read."""
        active = self._active
        rows = [] if active is None else await active.thread.call(active.outbox.disagreements, limit)
        return disagreements_report(rows, self._manifest.labels)

    @property
    def asks(self) -> bool:
        """Whether this process asks the teacher, now."""
        return self._active is not None and self._active.asking is not None

    async def ask(self, text: str) -> dict[str, Any]:
        """Return the teacher's answer to a text, which enters no count; see `Questions.ask`.

        Raises InvalidRequestError unless texts are shadowed, and what `Questions.ask` raises.
        """
        if self._active is None:
            raise InvalidRequestError("there is no teacher to ask: set shadow.enabled and shadow.teacher")
        if self._active.asking is None:
            raise InvalidRequestError("this process does not ask the teacher (shadow.ask); ask `reflux worker`")
        return await self._active.asking.questions.ask(text)

    def _make_view(self) -> View:
        settings = self._settings
        if not settings.enabled or settings.database is None:
            return View(self._ledger)
        null, propensity = self._ledger.null, self._sampler.propensity
        anchors, labels = self._anchors, self._manifest.labels
        return SharedView(lambda: Ledger(null, propensity), lambda: TeacherRecord(settings, anchors, labels))

    def _queue(self, active: ActiveShadow, now: float, text: str, prediction: Prediction, band: int) -> None:
        self._sampled += 1
        sample = Sample(
            id=f"{self._process}-{self._sampled:012x}",  # a request's id comes from the client and may repeat
            time=now,
            since=time.monotonic(),
            text=text,
            probabilities=prediction.probabilities.astype("<f4").tobytes(),
            band=band,
            propensity=self._sampler.propensity[band],
            novel=None if self._decision is None else self._decision.is_novel(prediction.embedding),
        )
        full = self._ledger.queued + self._ledger.elsewhere >= self._settings.backlog_rows
        self._ledger.sample(sample.key, now)
        if full or not active.writer.offer(sample):
            self._ledger.drop(sample.key, Outcome.QUEUE_FULL)
