"""The writer: from memory to the outbox, in batches. The only part of shadowing that a request touches.

`offer` takes a text or refuses it, at once. The rest happens later, on the event loop and in the outbox's thread:
redaction, the row's key, its split, one transaction a batch. While another program locks the outbox, texts wait in
memory; what cannot be written for another reason is dropped and counted.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import NamedTuple

import structlog

from service.shadow.errors import OutboxBusyError, OutboxError
from service.shadow.ledger import Ledger, Outcome, Totals
from service.shadow.outbox import Outbox
from service.shadow.redaction import redact
from service.shadow.rows import NewRow
from service.shadow.settings import ShadowSettings
from service.shadow.thread import OutboxThread

BATCH_ROWS = 256  # the more, the fewer commits, each of which waits for the disk
EVAL_ONE_IN = 10

log = structlog.get_logger(__name__)


class Record(NamedTuple):
    """A sampled text in memory, not yet redacted. No other has its `id`, and those of a process are in order.

    It was answered at `time`, in Unix seconds, which is `since` by the monotonic clock.
    """

    id: str
    time: float
    since: float
    text: str
    probabilities: bytes
    band: int
    propensity: float

    @property
    def size(self) -> int:
        """About the memory it takes, in bytes."""
        return sys.getsizeof(self.text) + len(self.probabilities)


class Writer:
    """A bounded queue and the task that empties it. `stored` is told of each batch that reached the outbox."""

    def __init__(
        self,
        settings: ShadowSettings,
        outbox: Outbox,
        thread: OutboxThread,
        ledger: Ledger,
        stored: Callable[[Sequence[Record]], None],
    ) -> None:
        self._settings = settings
        self._outbox, self._thread, self._ledger, self._stored = outbox, thread, ledger, stored
        self._split_key = settings.split_key.get_secret_value().encode()[: hashlib.blake2b.MAX_KEY_SIZE]
        self._queue: deque[Record] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._failing = False
        self._saved = (0.0, 0.0)

    def __len__(self) -> int:
        """Texts in the queue."""
        return len(self._queue)

    @property
    def oldest(self) -> float | None:
        """When the first text in the queue was answered, by the monotonic clock."""
        return self._queue[0].since if self._queue else None

    def offer(self, record: Record) -> bool:
        """Queue a record, or refuse it when the queue is full."""
        size = record.size
        if len(self._queue) >= self._settings.queue_rows or self._bytes + size > self._settings.queue_bytes:
            return False
        self._queue.append(record)
        self._bytes += size
        if len(self._queue) >= BATCH_ROWS:
            self._wake.set()
        return True

    def stop(self) -> None:
        """Let `run` write what is queued and end."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Write whenever a batch is full or `flush_seconds` have passed, until stopped and empty."""
        while self._queue or not self._stopping:
            if self._failing:
                await asyncio.sleep(self._settings.flush_seconds)
            elif len(self._queue) < BATCH_ROWS and not self._stopping:
                await self._pause()
            await self.flush()

    async def flush(self) -> None:
        """Write one batch and the totals; both come again when another program locks the outbox.

        What cannot be written for another reason is dropped and counted, and the totals come again.
        """
        batch = list(islice(self._queue, BATCH_ROWS))
        state = self._state()
        if not batch and state == self._saved:
            return
        try:
            found = await self._thread.call(self._write, batch, self._ledger.totals)
        except asyncio.CancelledError:
            self._drop(len(batch), Outcome.SHUTDOWN)
            raise
        except OutboxBusyError as error:
            if not self._failing:
                log.warning("shadow outbox is locked; texts wait in memory", error=str(error))
            self._failing = True
            return
        except Exception as error:
            self._drop(len(batch), Outcome.STORE_ERROR)
            if not self._failing:
                log.error("shadow outbox fails", error=str(error), exc_info=not isinstance(error, OutboxError))
            self._failing = True
            return
        if self._failing:
            log.info("shadow outbox works again")
        self._failing, self._saved = False, state
        self._ledger.redactions.update(found)
        for record in batch:
            self._take()
            self._ledger.store(record.band)
        if batch:
            self._stored(batch)

    def abandon(self) -> None:
        """Give up what is still queued: there is no time left to write it."""
        self._drop(len(self._queue), Outcome.SHUTDOWN)

    async def _pause(self) -> None:
        self._wake.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.flush_seconds):
                await self._wake.wait()

    def _state(self) -> tuple[float, float]:
        """Return what changes whenever the totals that have no rows do."""
        return float(self._ledger.now.requests.sum()), float(self._ledger.now.lost.sum())

    def _drop(self, count: int, outcome: Outcome) -> None:
        """End the first texts of the queue."""
        for _ in range(count):
            self._ledger.drop(self._take().band, outcome)

    def _take(self) -> Record:
        record = self._queue.popleft()
        self._bytes -= record.size
        return record

    def _write(self, batch: Sequence[Record], totals: Totals) -> Counter[str]:
        """Redact and store; in the outbox's thread. Returns how often what was redacted."""
        found: Counter[str] = Counter()
        rows = []
        for record in batch:
            # Half a surrogate pair is valid JSON but no text that a file could hold.
            redacted = redact(record.text.encode("utf-8", "replace").decode(), self._settings.phone_countries)
            if redacted.found:  # of most texts nothing
                found.update(redacted.found)
            rows.append(self._row(record, redacted.text))
        self._outbox.write(rows, totals)
        return found

    def _row(self, record: Record, text: str) -> NewRow:
        """Make the row of a record. Its split depends on the redacted text alone, so that equal texts share it."""
        digest = hashlib.blake2b(text.encode(), key=self._split_key, digest_size=8).digest()
        return NewRow(
            id=record.id,
            time=record.time,
            text=text,
            probabilities=record.probabilities,
            band=record.band,
            propensity=record.propensity,
            split="eval" if int.from_bytes(digest, "big") % EVAL_ONE_IN == 0 else "train",
        )
