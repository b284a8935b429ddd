"""Deferring: the teacher answers the texts that no student of a cascade is sure about, within their request.

It comes after the scheduler, which has answered all texts of the request by then: no batch, and no other request, waits
for the teacher. Whatever keeps it from answering in time, the last student's answer stands and says so, so that
deferring never fails a request. Texts are redacted before they leave the process, as those of the shadow are.

An answer given here is served, and not compared with anything: the student's own answer is not told to anyone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from distill.teachers import Teacher, TeacherError
from distill.teachers.api.rate_limit import WAITS, Waits
from distill.teachers.names import may_be, names_of, text_of
from distill.teachers.scaling import Scaling
from export.bundle.cascade import is_deferred
from export.bundle.classifier import Deferred, Floats, Prediction
from export.bundle.format import Manifest
from service.errors import StartupError
from service.inference.deferral_metrics import ANSWERED, DEADLINE, RATE_LIMITED, DeferralMetrics
from service.inference.types import Done, RecordStage, Withdraw
from service.settings import Settings, variable
from service.shadow.budget import DAY, Budget
from service.shadow.errors import ShadowError
from service.shadow.outcome import Outcome
from service.shadow.redaction.redact import redact
from service.shadow.teacher import TeacherCaller, TeacherResult, teacher_from

FAILURES = (Outcome.TIMEOUT, Outcome.TEACHER_ERROR, Outcome.INVALID_ANSWER)
"""Outcomes that the circuit breaker counts as failures."""

_SHORT = 500
"""Characters of a text that is redacted in less time than a thread hop may take under load."""

_FLOOR = 1e-6  # a teacher may give a probability of 0, which has no logarithm

log = structlog.get_logger(__name__)


def make_deferring_teacher(settings: Settings, manifest: Manifest) -> Teacher:
    """Make the teacher that a cascade defers to. Blocks while it is loaded.

    Raises StartupError if the settings name none or do not fit, or it is unavailable; the message says what to do.
    """
    name, config = "defer.teacher", settings.defer.teacher
    if config is None:
        name, config = "shadow.teacher", settings.shadow.teacher
    if config is None:
        raise StartupError(
            f"the bundle {manifest.name} leaves texts to its teacher, {text_of(names_of(manifest.teacher)[0])}, and "
            f"there is none: set {variable('defer', 'teacher')}, such as "
            '{"kind": "bundle", "path": "teacher-bundle"}, or serve a cascade of students alone'
        )
    if settings.defer.deadline_seconds >= settings.shutdown_seconds:
        raise StartupError(
            f"{variable('defer', 'deadline_seconds')} must be less than the {settings.shutdown_seconds:g} of "
            f"{variable('shutdown_seconds')}, or a stop could cut requests that wait for the teacher"
        )
    try:
        return teacher_from(config, manifest.labels, name, settings.defer.deadline_seconds)
    except ShadowError as error:
        raise StartupError(str(error)) from error


class Deferral:
    """Asks `teacher` about the texts that the cascade with this `manifest` leaves to it.

    Use it on the event loop alone. Raises StartupError if the teacher has other labels.
    """

    def __init__(self, settings: Settings, manifest: Manifest, teacher: Teacher, registry: CollectorRegistry) -> None:
        own = settings.defer
        try:
            self._caller = TeacherCaller(own, Budget(own.usd_per_day, period=DAY), teacher, manifest.labels)
            calibration = manifest.teacher.get("calibration")
            self._scaling = None if calibration is None else Scaling.from_dict(calibration, len(manifest.labels))
        except TeacherError as error:
            raise StartupError(f"defer.teacher: {error}") from error
        self._teacher, self._manifest = teacher, manifest
        self._deadline_seconds = own.deadline_seconds
        self._countries = settings.shadow.phone_countries
        self._most = settings.queue_limit
        self._slots = asyncio.Semaphore(min(own.concurrency, teacher.concurrency))
        self._requests: set[asyncio.Task[None]] = set()
        self._waiting: set[object] = set()
        self._closing = False
        waiting = self._waiting  # without `self` in the closure, which would be a cycle
        self._metrics = DeferralMetrics(registry, self._caller.breaker, lambda: len(waiting))
        _warn_of_another(manifest, teacher)

    @property
    def open(self) -> int:
        """The number of requests that wait for the teacher."""
        return len(self._requests)

    def submit(
        self,
        texts: Sequence[str],
        predictions: list[Prediction],
        done: Done,
        *,
        deadline: float | None = None,
        record_stage: RecordStage | None = None,
    ) -> Withdraw:
        """Let the teacher answer those of the texts that were left to it; `done` then gets all predictions, once.

        At once if none was left, otherwise within `defer.deadline_seconds`, and before `deadline`, a time of
        `time.monotonic()`. `done` is not called for a request that is withdrawn.
        """
        left = [index for index, prediction in enumerate(predictions) if is_deferred(prediction, self._manifest)]
        if not left:
            done(predictions)
            return _nothing
        task = asyncio.create_task(
            self._answer(texts, predictions, left, done, deadline, record_stage), name="deferral"
        )
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)

        def withdraw() -> None:
            task.cancel()

        return withdraw

    async def close(self, seconds: float) -> None:
        """Let the last student answer what still waits, and close the teacher, within `seconds`."""
        await asyncio.sleep(0)  # a task that has not begun would end without an answer
        self._closing = True
        waiting = list(self._requests)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        with suppress(Exception):  # whatever it is, nobody asks this teacher any more
            await asyncio.wait_for(self._teacher.aclose(), seconds)

    async def _answer(
        self,
        texts: Sequence[str],
        predictions: list[Prediction],
        left: Sequence[int],
        done: Done,
        deadline: float | None,
        record_stage: RecordStage | None,
    ) -> None:
        began = time.monotonic()
        until, late = began + self._deadline_seconds, str(Outcome.TIMEOUT)
        if deadline is not None and deadline < until:
            until, late = deadline, DEADLINE
        answers = predictions.copy()
        asked = {at: asyncio.ensure_future(self._one(texts[at], predictions[at], until, late)) for at in left}
        try:
            await asyncio.gather(*asked.values())
        except asyncio.CancelledError:
            if not self._closing:
                raise
        for at, answer in asked.items():
            if answer.cancelled():
                answers[at] = self._fallen_back(predictions[at], Outcome.SHUTDOWN, began)
            else:
                answers[at] = answer.result()
        if record_stage is not None:
            record_stage("teacher", began, time.monotonic())
        done(answers)

    async def _one(self, text: str, student: Prediction, until: float, late: str) -> Prediction:
        """Return the answer to one text: the teacher's, or if there is none by `until` the student's. Never fails."""
        began, mark = time.monotonic(), object()
        if len(self._waiting) >= self._most:
            return self._fallen_back(student, Outcome.QUEUE_FULL, began)
        self._waiting.add(mark)
        try:
            result = await self._ask(text, until, late)
        except Exception:  # a defect of ours
            log.exception("deferral failed")
            result = Outcome.TEACHER_ERROR
        finally:
            self._waiting.discard(mark)
        if isinstance(result, str):
            return self._fallen_back(student, result, began)
        if result.probabilities is None:
            return self._fallen_back(student, result.outcome, began, result.cost_usd or 0.0)
        self._metrics.count(ANSWERED, time.monotonic() - began, result.cost_usd or 0.0)
        return self._taught(student, result.probabilities)

    async def _ask(self, text: str, until: float, late: str) -> TeacherResult | str:
        """Ask the teacher about one text; return why there is no result instead. It is `late` after `until`."""
        caller, asked, waits = self._caller, False, Waits()
        if caller.hold_seconds > 0:
            return RATE_LIMITED
        if (reserved := caller.budget.reserve()) is None:
            return Outcome.BUDGET
        if (ticket := caller.breaker.allow()) is None:
            caller.budget.release(reserved)
            return Outcome.BREAKER_OPEN
        WAITS.set(waits)  # for this task alone, which is that of the text
        try:
            async with asyncio.timeout(until - time.monotonic()):
                sent = await self._redacted(text)
                async with self._slots:
                    asked = True
                    result = await caller.ask(sent)
        except (TimeoutError, asyncio.CancelledError) as error:
            if not asked:  # else it may be charged
                caller.budget.release(reserved)
            if not isinstance(error, TimeoutError):
                caller.breaker.release(ticket)
                raise
            return self._too_late(ticket, late, waited=not asked or waits.count > 0)
        held = result.outcome is Outcome.TEACHER_ERROR or (result.outcome is Outcome.TIMEOUT and waits.count > 0)
        if held and caller.hold_seconds > 0:
            caller.breaker.release(ticket)
            caller.settle(reserved, result)
            return RATE_LIMITED
        caller.breaker.record(ticket, success=result.outcome not in FAILURES)
        caller.settle(reserved, result)
        return result

    def _too_late(self, ticket: int, late: str, *, waited: bool) -> str:
        """Return why a text has no answer in time: `late`, or a pause of the server's if it `waited` to be sent.

        The breaker hears of a teacher that was asked and did not answer, not of a pause or a client in a hurry.
        """
        if late == DEADLINE or (waited and self._caller.hold_seconds > 0):
            self._caller.breaker.release(ticket)
            return late if late == DEADLINE else RATE_LIMITED
        self._caller.breaker.record(ticket, success=False)
        return late

    async def _redacted(self, text: str) -> str:
        """Return what the teacher may see of a text. A long one is redacted in a thread, so that no request waits."""
        valid = text.encode("utf-8", "replace").decode()  # JSON may hold half a surrogate pair
        if len(valid) <= _SHORT:
            return redact(valid, self._countries).text
        return (await asyncio.to_thread(redact, valid, self._countries)).text

    def _fallen_back(self, student: Prediction, reason: str, began: float, cost_usd: float = 0.0) -> Prediction:
        """Return the student's answer as that to a text which the teacher did not answer."""
        self._metrics.count(reason, time.monotonic() - began, cost_usd)
        return student._replace(deferred=Deferred(student, str(reason)))

    def _taught(self, student: Prediction, probabilities: Floats) -> Prediction:
        """Return the teacher's answer, calibrated as the student's labels were. Its logits are log probabilities."""
        answer = probabilities / probabilities.sum() if self._scaling is None else self._scaling.apply(probabilities)
        best = int(answer.argmax())
        return student._replace(
            probabilities=answer,
            logits=np.log(np.maximum(answer, _FLOOR)),
            best=best,
            score=float(answer[best]),
            stage=len(self._manifest.stages),
            deferred=Deferred(student, None),
        )


def _nothing() -> None:
    """Withdraw a request that waits for nothing."""


def _warn_of_another(manifest: Manifest, teacher: Teacher) -> None:
    """Warn if the students did not learn from this teacher: what the cascade guarantees is about that one."""
    origin = getattr(teacher, "origin", None) or (teacher.name, teacher.version)
    learned = names_of(manifest.teacher)
    if not may_be(learned, ((teacher.name, teacher.version), origin)):
        log.warning(
            "texts are deferred to another teacher than the students learned from; the guarantee does not hold for it",
            teacher=f"{teacher.name}@{teacher.version}",
            learned_from=text_of(learned[0]),
        )
