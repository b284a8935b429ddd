"""Conservation: sampled + resumed = outcomes + queued + in flight, at every moment and for every outcome."""

from __future__ import annotations

import asyncio
import dataclasses
import sqlite3
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distill.teachers import Answer, TeacherError
from service.shadow.outbox.store import Outbox
from service.shadow.settings import ShadowSettings

from .conftest import VERSION, PlayedTeacher, Shadow, answer

FATES = ("agree", "disagree", "refused", "invalid", "busy", "down", "defect", "hang", "slow")
STEPS = st.one_of(
    st.tuples(st.just("observe"), st.sampled_from(FATES), st.integers(1, 8)),
    st.tuples(st.sampled_from(["turn", "break disk", "lock disk", "mend disk", "restart", "wait"])),
    st.tuples(st.just("later"), st.sampled_from([300.0, 7 * 3600.0, 30 * 3600.0, 9 * 86400.0])),
)


async def fate(texts):
    match texts[0].split()[0]:
        case "agree" | "slow" as kind:
            await asyncio.sleep(0.002 if kind == "slow" else 0)
            return [answer("billing")]
        case "disagree":
            return [answer("shipping")]
        case "refused":
            return [Answer(None, "logprobs", outcome="refused")]
        case "invalid":
            return [None]
        case "busy":
            raise TeacherError("busy", retryable=True)
        case "down":
            raise TeacherError("down")
        case "defect":
            raise RuntimeError("defect")
        case _:
            await asyncio.Event().wait()


class Disk:
    """Breaks every use of the outbox while `broken`, and lets another program hold it while `locked`."""

    broken = locked = False

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        connected = Outbox._connected

        def connect(outbox: Outbox, *patience: float) -> sqlite3.Connection:
            if self.broken or self.locked:
                error = sqlite3.OperationalError("disk I/O error" if self.broken else "database is locked")
                error.sqlite_errorname = "SQLITE_IOERR" if self.broken else "SQLITE_BUSY"
                raise error
            return connected(outbox, *patience)

        patch.setattr(Outbox, "_connected", connect)


class Clock:
    """Moves the time of day forward by `later` seconds."""

    later = 0.0

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        now = time.time
        patch.setattr(time, "time", lambda: now() + self.later)


def cells(shadow: Shadow) -> list[tuple[float, ...]]:
    """Return the counts of every cell, as if the hour had just begun."""
    history = shadow.pipeline._ledger.history
    history.turn(time.time())
    columns = dataclasses.astuple(history.cells())
    found = zip(*(column.round(9).tolist() for column in columns), strict=True)
    return sorted(cell for cell in found if any(cell[3:]))


def check(shadow: Shadow) -> None:
    """Check conservation, and that each place holds as many texts as the ledger says."""
    ledger = shadow.pipeline._ledger
    assert ledger.history.cells().pending.sum() >= ledger.queued + sum(ledger.in_flight)
    assert ledger.missing == [0] * ledger.bands
    assert min(*ledger.in_memory, *ledger.in_outbox.values(), *ledger.in_flight) >= 0
    assert ledger.queued == sum(ledger.in_memory) + ledger.in_outbox.total()
    assert shadow.unaccounted() == 0
    active = shadow.pipeline._active
    if active is not None:
        assert sum(ledger.in_memory) == len(active.writer)
        assert sum(ledger.in_flight) <= shadow.settings.concurrency


async def play(steps: list[tuple], path: Path, disk: Disk, clock: Clock) -> None:
    configured = ShadowSettings(
        enabled=True, teacher={}, rate=1.0, path=path, flush_seconds=0.001, retry_seconds=0.0, deadline_seconds=0.01,
        stop_seconds=10.0, queue_rows=20, concurrency=3,
    )  # fmt: skip
    shadow = await Shadow(configured, PlayedTeacher(fate), VERSION, None).start()
    requests = 0
    for step in steps:
        match step:
            case ("observe", kind, count):
                shadow.observe(count, text=f"{kind} {requests}")
                requests += count
            case ("turn",):
                await asyncio.sleep(0)
            case ("wait",):
                await asyncio.sleep(0.005)
            case ("break disk",):
                disk.broken = True
            case ("lock disk",):
                disk.locked = True
            case ("mend disk",):
                disk.broken = disk.locked = False
            case ("later", seconds):
                clock.later += seconds
            case ("restart",) if not disk.broken and not disk.locked:
                await shadow.pipeline.stop()
                check(shadow)
                before = cells(shadow)
                shadow = await Shadow(configured, PlayedTeacher(fate), VERSION, None).start()
                assert cells(shadow) == before
        check(shadow)
    disk.broken = disk.locked = False
    await shadow.settled()
    check(shadow)
    await shadow.pipeline.stop()
    before = cells(shadow)
    shadow = await Shadow(configured, PlayedTeacher(fate), VERSION, None).start()
    assert cells(shadow) == before
    final(shadow, requests)


def final(shadow: Shadow, requests: int) -> None:
    """Check that the outbox finally has every request exactly once."""
    found = shadow.pipeline.gap()
    assert found["counts"]["requests"] == found["counts"]["sampled"] == requests
    assert sum(found["outcomes"].values()) == requests
    rows = shadow.rows("outcome")
    lost = found["outcomes"]["queue_full"] + found["outcomes"]["store_error"]
    assert len(rows) + lost == requests
    assert (None,) not in rows


@given(st.lists(STEPS, min_size=1, max_size=25))
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_no_text_is_lost_or_counted_twice(directory, steps):
    with tempfile.TemporaryDirectory(dir=directory) as path, pytest.MonkeyPatch.context() as patch:
        asyncio.run(play(steps, Path(path) / "shadow.sqlite", Disk(patch), Clock(patch)))
