"""The writer: moves samples from memory to the outbox, one transaction per batch.

`offer` queues a sample or refuses it immediately; redaction and writing happen later, in the outbox's thread. While
another program locks the outbox, or a shared one cannot be reached, samples wait in memory; those that cannot be
written for another reason are dropped and counted.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice

import structlog

from service.shadow.errors import OutboxBusyError, OutboxError
from service.shadow.history import Changes
from service.shadow.ledger import Ledger
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.rows import OutboxRow, Sample
from service.shadow.outbox.thread import OutboxThread
from service.shadow.outcome import Outcome
from service.shadow.redaction.redact import redact
from service.shadow.settings import ShadowSettings

BATCH_ROWS = 256
"""Rows per transaction: each commit waits for the disk, so few large ones are cheaper."""

EVAL_ONE_IN = 10
"""One text in this many is kept for evaluation."""

log = structlog.get_logger(__name__)


class Writer:
    """A bounded queue and the task that empties it. `stored` is called with each batch that reached the outbox."""

    def __init__(
        self,
        settings: ShadowSettings,
        outbox: AnyOutbox,
        thread: OutboxThread,
        ledger: Ledger,
        stored: Callable[[Sequence[Sample]], None],
    ) -> None:
        self._settings = settings
        self._outbox, self._thread, self._ledger, self._stored = outbox, thread, ledger, stored
        self._split_key = settings.split_key.get_secret_value().encode()[: hashlib.blake2b.MAX_KEY_SIZE]
        self._queue: deque[Sample] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._failing = False

    def __len__(self) -> int:
        """Return the number of queued samples."""
        return len(self._queue)

    @property
    def oldest(self) -> float | None:
        """Monotonic time at which the oldest queued text was answered, None if the queue is empty."""
        return self._queue[0].since if self._queue else None

    def offer(self, sample: Sample) -> bool:
        """Queue a sample and return True, or return False if the queue is full."""
        size = sample.size
        if len(self._queue) >= self._settings.queue_rows or self._bytes + size > self._settings.queue_bytes:
            return False
        self._queue.append(sample)
        self._bytes += size
        if len(self._queue) >= BATCH_ROWS:
            self._wake.set()
        return True

    def stop(self) -> None:
        """Make `run` write what is queued and return."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Write a batch when it is full or `flush_seconds` have passed, until stopped and empty."""
        while self._queue or not self._stopping:
            if self._failing:
                await asyncio.sleep(self._settings.flush_seconds)
            elif len(self._queue) < BATCH_ROWS and not self._stopping:
                await self._pause()
            await self.flush()

    async def flush(self) -> None:
        """Write one batch and the counts without rows.

        If the outbox is busy or out of reach, both are kept for the next attempt. After any other error the batch is
        dropped and counted, and only the counts are kept.
        """
        history = self._ledger.history
        batch = list(islice(self._queue, BATCH_ROWS))
        if not batch and not history.changed:
            return
        changes = history.take_changes()
        try:
            found, elsewhere = await self._thread.call(self._write, batch, changes)
        except asyncio.CancelledError:
            history.give_back(changes)
            self._drop(len(batch), Outcome.SHUTDOWN)
            raise
        except OutboxBusyError as error:
            history.give_back(changes)
            if not self._failing:
                log.warning("shadow outbox is busy or out of reach; texts wait in memory", error=str(error))
            self._failing = True
            return
        except Exception as error:
            history.give_back(changes)
            self._drop(len(batch), Outcome.STORE_ERROR)
            if not self._failing:
                log.error("shadow outbox fails", error=str(error), exc_info=not isinstance(error, OutboxError))
            self._failing = True
            return
        if self._failing:
            log.info("shadow outbox works again")
        self._failing = False
        self._ledger.redactions.update(found)
        self._ledger.elsewhere = elsewhere
        leave = self._ledger.hand_over if self._outbox.shared else self._ledger.store
        for sample in batch:
            self._take()
            leave(sample.key)
        if batch:
            self._stored(batch)

    def discard(self) -> None:
        """Drop what is still queued, because there is no time left to write it."""
        self._drop(len(self._queue), Outcome.SHUTDOWN)

    async def _pause(self) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.flush_seconds):
                await self._wake.wait()

    def _drop(self, count: int, outcome: Outcome) -> None:
        """Drop the first `count` samples of the queue."""
        for _ in range(count):
            self._ledger.drop(self._take().key, outcome)

    def _take(self) -> Sample:
        sample = self._queue.popleft()
        self._bytes -= sample.size
        return sample

    def _write(self, batch: Sequence[Sample], changes: Changes) -> tuple[Counter[str], int]:
        """Redact and store a batch, in the outbox's thread.

        Return the number of placeholders by kind, and what `AnyOutbox.write` returns.
        """
        found: Counter[str] = Counter()
        rows = []
        for sample in batch:
            # JSON may hold half a surrogate pair, which UTF-8 cannot encode.
            redacted = redact(sample.text.encode("utf-8", "replace").decode(), self._settings.phone_countries)
            if redacted.found:
                found.update(redacted.found)
            rows.append(self._row(sample, redacted.text))
        return found, self._outbox.write(rows, changes)

    def _row(self, sample: Sample, text: str) -> OutboxRow:
        """Make the row of a sample. Its split depends on the redacted text alone, so that equal texts share it."""
        digest = hashlib.blake2b(text.encode(), key=self._split_key, digest_size=8).digest()
        return OutboxRow(
            id=sample.id,
            time=sample.time,
            text=text,
            probabilities=sample.probabilities,
            band=sample.band,
            propensity=sample.propensity,
            split="eval" if int.from_bytes(digest, "big") % EVAL_ONE_IN == 0 else "train",
            novel=sample.novel,
        )
