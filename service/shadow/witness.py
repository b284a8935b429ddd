"""The witness: a better student that reads answered texts, off the request's path, before the coin is tossed.

Its answer refines the confidence band of the text: where both models are sure of the same label, the teacher almost
always agrees, so that its calls go where they differ. A thread of low priority runs it. The queue is bounded; a text
that does not fit, or on which the witness fails, has no coin tossed, and so does not enter the estimate at all.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from distill.teachers import TeacherError, label_order
from export.bundle.cascade import load_classifier
from export.bundle.classifier import InferenceError, Prediction
from export.bundle.format import Bundle, BundleError, Manifest
from export.bundle.reference import Reference
from export.bundle.verify import bundle_errors, check_golden, check_longest, classifiers_of
from export.bundle.witness import WitnessReference, joint_confidence
from service.process.priority import lower_priority
from service.shadow.errors import ShadowError
from service.shadow.settings import ShadowSettings

BATCH = 8
"""The most texts per run. Their answers come back together, and stopping waits for one run."""

PAUSE_SECONDS = 0.05
"""How long the thread sleeps when nothing waits: to wake it for every text would cost each request a switch."""

log = structlog.get_logger(__name__)


class Answered(NamedTuple):
    """A text that the student answered at `time`, in Unix seconds."""

    text: str
    prediction: Prediction
    time: float

    @property
    def size(self) -> int:
        """Approximate memory in bytes."""
        arrays = self.prediction[:3]  # probabilities, logits, embedding
        return 4 * len(self.text) + sum(array.nbytes for array in arrays) + 1024


class LoadedWitness:
    """The witness of the student with this `manifest`, ready to run.

    Raises ShadowError when the bundle at `path` cannot be used, is no witness, is that of another student, or has other
    labels; the message says what to do. Reading and checking a bundle takes seconds: call it in a thread.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        where = "shadow.witness"
        try:
            bundle = Bundle.open(path)
            joint = WitnessReference.open(bundle)
            if joint.student != manifest.version:
                raise ShadowError(
                    f"{where}: {path} is the witness of version {joint.student}, and {manifest.name} is version "
                    f"{manifest.version}; run `reflux witness` for the bundle that is served"
                )
            self._place = label_order(bundle.manifest.labels, manifest.labels, f"the witness {path}").tolist()
            with bundle_errors(bundle.path):
                self._classifier = load_classifier(bundle)
                check_golden(bundle, self._classifier)
                for own, stage in classifiers_of(bundle, self._classifier):
                    check_longest(own, stage)
        except (BundleError, TeacherError) as error:
            raise ShadowError(f"{where}: {error}") from error
        self.name, self.version = bundle.manifest.name, bundle.manifest.version
        self.reference: Reference = joint.reference

    def read(self, batch: Sequence[Answered]) -> list[Seen | None]:
        """Answer texts in one run, and each alone if that fails; None for a text on which the witness fails."""
        try:
            answers = self._classifier.answer([item.text for item in batch])
        except InferenceError:
            return [self.read([item])[0] for item in batch] if len(batch) > 1 else [None]
        return [self._seen(item.prediction, answer) for item, answer in zip(batch, answers, strict=True)]

    def _seen(self, student: Prediction, witness: Prediction) -> Seen:
        place: int = self._place[student.best]
        confidence = joint_confidence(student.score, float(witness.probabilities[place]))
        return Seen(confidence, witness.best == place)


def load_witness(settings: ShadowSettings, manifest: Manifest) -> LoadedWitness | None:
    """Return the witness that the settings name for the student with this manifest, None if they name none.

    Raises ShadowError as LoadedWitness does.
    """
    if not settings.enabled or settings.witness is None:
        return None
    return LoadedWitness(settings.witness, manifest)


class Seen(NamedTuple):
    """The joint confidence in the student's label, in [0, 1], and whether the witness gives that label too."""

    confidence: float
    agrees: bool


class Witness:
    """Runs a loaded witness in a thread. `count` is called on the event loop with each text that it answered.

    Every text offered is in one of these counts: `skipped` by the coin of `witness_share`, `waiting`, `seen`, `failed`,
    or `dropped` for want of room or time. `agreed` is the part of `seen` that it gives the student's label. Use it on
    the event loop alone; `random` gives numbers in [0, 1).
    """

    def __init__(
        self,
        loaded: LoadedWitness,
        settings: ShadowSettings,
        count: Callable[[Answered, float], None],
        random: Callable[[], float],
    ) -> None:
        self.name, self.version = loaded.name, loaded.version
        self.skipped = self.waiting = self.seen = self.agreed = self.failed = self.dropped = 0
        self._loaded, self._count = loaded, count
        self._share, self._random = settings.witness_share, random
        self._most, self._most_bytes = settings.queue_rows, settings.queue_bytes
        self._bytes = 0
        self._queue: deque[Answered] = deque()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._stop = threading.Event()
        # A daemon, so that a graph that hangs does not keep the process alive.
        self._thread = threading.Thread(target=self._work, name="shadow-witness", daemon=True)
        self._thread.start()

    @property
    def requests(self) -> int:
        """The texts that were offered."""
        return self.skipped + self.waiting + self.seen + self.failed + self.dropped

    @property
    def oldest(self) -> float | None:
        """When the first text in the queue was answered, in Unix seconds; None if none waits."""
        with suppress(IndexError):  # the thread may have taken it
            return self._queue[0].time
        return None

    def report(self) -> dict[str, Any]:
        """Return the section `witness` of `GET /gap`: counts of this process. `agreement` is that with the student."""
        return {
            "name": self.name,
            "version": self.version,
            "requests": self.requests,
            "seen": self.seen,
            "failed": self.failed,
            "dropped": self.dropped,
            "agreement": self.agreed / self.seen if self.seen else None,
        }

    def offer(self, text: str, prediction: Prediction, now: float) -> None:
        """Queue a text answered at `now` (Unix seconds), unless the coin skips it or the queue is full."""
        if self._share < 1.0 and self._random() >= self._share:
            self.skipped += 1
            return
        item = Answered(text, prediction, now)
        size = item.size
        if self.waiting >= self._most or self._bytes + size > self._most_bytes:
            self.dropped += 1
            return
        self.waiting += 1
        self._bytes += size
        self._queue.append(item)

    async def stop(self, seconds: float) -> None:
        """Drop what waits, and wait at most `seconds` for the run that has begun."""
        self._stop.set()
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            log.warning("shadow did not close in time", what="witness")
        self.dropped += self.waiting
        self.waiting = self._bytes = 0

    def _work(self) -> None:
        lower_priority()
        while not self._stop.is_set():
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), BATCH))]
            if not batch:
                self._stop.wait(PAUSE_SECONDS)
                continue
            try:
                answers = self._loaded.read(batch)
            except Exception:
                log.exception("shadow witness failed")
                answers = [None] * len(batch)
            if not self._tell(self._take, batch, answers):
                return
        self._tell(self._ended.set)

    def _tell(self, call: Callable[..., None], *given: object) -> bool:
        """Call on the event loop. Return False if that has ended."""
        try:
            self._loop.call_soon_threadsafe(call, *given)
        except RuntimeError:
            return False
        return True

    def _take(self, batch: Sequence[Answered], answers: Sequence[Seen | None]) -> None:
        if self._stop.is_set():  # too late to count: they have been, or will be, counted as dropped
            return
        for item, answer in zip(batch, answers, strict=True):
            self.waiting -= 1
            self._bytes -= item.size
            if answer is None:
                self.failed += 1
                continue
            self.seen += 1
            self.agreed += answer.agrees
            self._count(item, answer.confidence)
