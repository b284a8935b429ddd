"""Set the ceilings once more, from the first live comparisons: those of a small validation split are far too high."""

from __future__ import annotations

import time

import structlog

from export.bundle.ceilings import tightened
from service.monitor.cells import SLOT_SECONDS
from service.shadow.ledger import Ledger
from service.shadow.outbox.base import AnyOutbox
from service.shadow.outbox.thread import OutboxThread
from service.shadow.slots import slot_of

ENOUGH = 1000
"""Number of live comparisons after which the ceilings are set once more."""

log = structlog.get_logger(__name__)


def due(ledger: Ledger) -> bool:
    """Return whether there are enough comparisons, and the ceilings are still those of the bundle."""
    return ledger.compared >= ENOUGH and len(ledger.ceilings) == 1


async def tighten(ledger: Ledger, outbox: AnyOutbox, thread: OutboxThread) -> None:
    """Lower the ceilings to what the comparisons so far allow, for requests from the next slot on.

    The comparisons that they come from are not judged by them, so that what is said of e-values stays true. Raises
    OutboxError if the ceilings cannot be stored; they stay as they were then.
    """
    totals, before = ledger.totals, ledger.null
    null = tightened(before, totals.disagreed, totals.compared)
    since = slot_of(time.time()) + SLOT_SECONDS
    detector = await thread.call(outbox.tighten, since, before, null)
    # Whatever the outbox counted before is counted here too, and nothing else: its calls end in their order.
    ledger.tighten(since, null, detector)
    log.info("shadow ceilings lowered", comparisons=ledger.compared, before=before.tolist(), after=null.tolist())
