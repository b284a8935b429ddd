"""Retention: rows with an outcome are deleted when they are old. Counts and the e-detector stay as they are."""

from __future__ import annotations

import asyncio
import time

import structlog

from service.shadow.errors import OutboxError
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.thread import OutboxThread
from service.shadow.slots import DAY, HOUR

PAUSE_SECONDS = 0.05
"""Between transactions, so that samples and answers are not kept waiting."""

log = structlog.get_logger(__name__)


async def delete_old_rows(outbox: AnyOutbox, thread: OutboxThread, days: float) -> None:
    """Delete rows answered more than `days` ago, now and every hour, until cancelled."""
    while True:
        try:
            while await thread.call(outbox.delete_old, time.time() - days * DAY):
                await asyncio.sleep(PAUSE_SECONDS)
        except OutboxError as error:
            log.warning("shadow could not delete old rows", error=str(error))
        await asyncio.sleep(HOUR)
