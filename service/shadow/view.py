"""What a process shows of the gap: its own counts, or, with a shared store, those of all processes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from service.monitor.wording import duration
from service.shadow.errors import OutboxError
from service.shadow.ledger import Ledger
from service.shadow.outbox.rows import TeacherIdentity
from service.shadow.teacher_record import TeacherRecord

if TYPE_CHECKING:
    from service.shadow.outbox.thread import OutboxThread
    from service.shadow.shared.outbox import SharedOutbox
    from service.shadow.shared.state import Mark, SharedState

READ_SECONDS = 2.0
"""Greatest age of what is shown, while the store can be read."""

WAIT_SECONDS = 1.0
"""How long who asks waits for a newer state; then the last one is shown."""

UNREAD_SECONDS = 60.0
"""A state that could not be read for so long says nothing about now."""

log = structlog.get_logger(__name__)


class View:
    """The counts of this process, in `ledger`; `teacher` answers its texts, and `record` is about that teacher."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.teacher: TeacherIdentity | None = None
        self.record: TeacherRecord | None = None

    @property
    def waiting(self) -> int:
        """Sampled texts that wait to be asked about."""
        return self.ledger.queued

    @property
    def in_flight(self) -> int:
        """Sampled texts at the teacher."""
        return sum(self.ledger.in_flight)

    @property
    def pending(self) -> int:
        """Rows of a shared store without an outcome; 0 without one."""
        return 0

    @property
    def abandoned(self) -> dict[str, int]:
        """Rows of a shared store that wait for another version about which no process asks, by version."""
        return {}

    @property
    def oldest(self) -> float | None:
        """When the oldest text without an outcome in a shared store was answered, in Unix seconds; None without one."""
        return None

    @property
    def unread(self) -> str | None:
        """Why a shared store could not be read for a minute, None if it was, or there is none."""
        return None

    async def refresh(self, seconds: float | None = None) -> None:
        """See that what is shown is no older than `seconds`, by default two. Never raises, waits a second at most."""


class SharedView(View):
    """The counts of all processes that share a store, as of when they were last read.

    `empty` makes a ledger without counts, and `record` a record without answers.
    """

    def __init__(self, empty: Callable[[], Ledger], record: Callable[[], TeacherRecord]) -> None:
        super().__init__(empty())
        self.record = record()
        self._empty, self._new_record = empty, record
        self._source: tuple[SharedOutbox, OutboxThread] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._read: float | None = None
        self._since = time.monotonic()
        self._state: SharedState | None = None
        self._mark: Mark | None = None
        self._sampled = 0.0
        self._error: str | None = None

    @property
    def waiting(self) -> int:
        """Rows that wait to be asked about."""
        return self._state.waiting if self._state else 0

    @property
    def in_flight(self) -> int:
        """Rows that a process has taken to ask about."""
        return self._state.in_flight if self._state else 0

    @property
    def pending(self) -> int:
        """Rows without an outcome."""
        return self.waiting + self.in_flight

    @property
    def abandoned(self) -> dict[str, int]:
        """Rows that wait for another version about which no process asks, by version."""
        return self._state.abandoned if self._state else {}

    @property
    def oldest(self) -> float | None:
        """When the oldest text without an outcome was answered, in Unix seconds; None without one."""
        return self._state.oldest if self._state else None

    @property
    def unread(self) -> str | None:
        """Why the store could not be read for a minute, None if it was."""
        seconds = time.monotonic() - (self._since if self._read is None else self._read)
        if self._error is None or seconds < UNREAD_SECONDS:
            return None
        return f"The shared store could not be read for {duration(seconds)}: {self._error}."

    def attach(self, outbox: SharedOutbox, thread: OutboxThread) -> None:
        """Read from `outbox` from now on, in its `thread`."""
        self._source, self._since = (outbox, thread), time.monotonic()

    def detach(self) -> None:
        """Read no more, and show what was read last."""
        self._source = None

    async def refresh(self, seconds: float | None = None) -> None:
        """See that what is shown is no older than `seconds`, by default two. Never raises, waits a second at most."""
        seconds = READ_SECONDS if seconds is None else seconds
        if self._source is None or (self._read is not None and time.monotonic() - self._read < seconds):
            return
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read_state(*self._source), name="shadow-view")
        await asyncio.wait({self._reading}, timeout=WAIT_SECONDS)

    async def _read_state(self, outbox: SharedOutbox, thread: OutboxThread) -> None:
        began = time.monotonic()
        try:
            state, ledger, record, sampled = await thread.call(self._load, outbox)
        except Exception as error:
            if self._error is None:
                log.warning(
                    "shadow store cannot be read", error=str(error), exc_info=not isinstance(error, OutboxError)
                )
            self._error = str(error)
            return
        before, self.ledger, self._error = self.ledger, ledger, None
        if self._read is None:
            pending = state.waiting + state.in_flight
            self._sampled = sampled - pending
            if state.oldest is not None:  # perhaps nobody asks, and since long before this process started
                ledger.waiting_since = max(state.oldest, ledger.last_comparison or 0.0)
                ledger.sampled_since = pending
        elif ledger.compared != before.compared:
            self._sampled = sampled
        elif sampled > self._sampled:
            ledger.waiting_since = before.waiting_since or time.time()
            ledger.sampled_since = int(sampled - self._sampled)
        self._state, self._mark, self._read = state, state.mark, began
        self.teacher, self.record = state.teacher, record

    def _load(self, outbox: SharedOutbox) -> tuple[SharedState, Ledger, TeacherRecord | None, float]:
        """Read the store, in its thread; return the state, its ledger and record, and the texts sampled ever."""
        ledger = self._empty()
        state = outbox.state(ledger.null, self._mark)
        ledger.history.turn(time.time())
        ledger.restore(state.restored)
        record = self.record
        if state.checks is not None or record is None:
            record = self._new_record()
            if state.checks is not None:
                record.load(state.checks)
        record.load_models(state.models)
        return state, ledger, record, float(ledger.totals.sampled.sum())
