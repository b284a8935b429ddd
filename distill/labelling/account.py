"""The account of a run, on disk: every paid response, the dollars spent, and the most that calls in flight may cost.

A call that was in flight when the process was killed may have been charged, so its highest possible cost counts as
spent: the budget holds however often a run is killed. Calls in open batches stay reserved until `batch_account`
settles them.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
import zlib
from collections.abc import Mapping
from typing import Any

from distill.errors import DistillError
from distill.labelling.sqlite_store import Statement, Store
from distill.teachers.account import BudgetError, PaidResponse

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
  key TEXT PRIMARY KEY, response BLOB NOT NULL, cost_usd REAL NOT NULL, seconds REAL NOT NULL, time REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (id INTEGER PRIMARY KEY, usd REAL NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
  id TEXT PRIMARY KEY, place TEXT NOT NULL, version TEXT NOT NULL, calls INTEGER NOT NULL, time REAL NOT NULL,
  vendor_id TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batch_calls (key TEXT PRIMARY KEY, batch TEXT NOT NULL, usd REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS calls_of_batch ON batch_calls (batch);
CREATE TABLE IF NOT EXISTS money (only INTEGER PRIMARY KEY CHECK (only = 1), spent REAL NOT NULL);
INSERT OR IGNORE INTO money VALUES (1, 0.0);
UPDATE money SET spent = spent + (SELECT coalesce(sum(usd), 0.0) FROM reservations);
DELETE FROM reservations;
"""
_RESERVED = "INSERT INTO reservations VALUES (?, ?)"
_SETTLED = "DELETE FROM reservations WHERE id = ?"
_SPENT = "UPDATE money SET spent = spent + ?"
_KEPT = "INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?, ?)"


class StoredAccount:
    """Stores paid responses, and refuses a call that might raise the run's total spending above `max_usd`.

    After the first refusal, or when the disk does not take a paid response, it refuses every further call.
    """

    def __init__(self, store: Store, max_usd: float | None = None) -> None:
        self._store = store
        self._max_usd = max_usd
        ((self.spent,),) = store.read("SELECT spent FROM money")
        ((batched,),) = store.read("SELECT coalesce(sum(usd), 0.0) FROM batch_calls")
        self.batched = float(batched)
        self._reserved: dict[int, float] = {}
        self._last = 0
        self._refusal: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def reserved(self) -> float:
        """The most that calls in flight and in open batches may cost, in dollars."""
        return sum(self._reserved.values()) + self.batched

    @property
    def left(self) -> float:
        """Dollars that may still be reserved; infinity if there is no `max_usd`."""
        return math.inf if self._max_usd is None else self._max_usd - self.spent - self.reserved

    def charge(self, cost_usd: float, key: str = "", paid: PaidResponse | None = None) -> list[Statement]:
        """Return the statements that add `cost_usd` to the spending and store the response, if there is one."""
        statements: list[Statement] = [(_SPENT, (cost_usd,))]
        if paid is not None:
            statements.append((_KEPT, (key, _packed(paid.response), paid.cost_usd, paid.seconds, time.time())))
        return statements

    async def recall(self, key: str) -> PaidResponse | None:
        """Return the paid response with this key, or None."""
        for response, cost_usd, seconds in self._store.read(
            "SELECT response, cost_usd, seconds FROM calls WHERE key = ?", (key,)
        ):
            return PaidResponse(json.loads(zlib.decompress(response)), cost_usd, seconds)
        return None

    async def reserve(self, usd: float) -> int:
        """Reserve `usd` dollars for one call and return the reservation's number.

        Waits while calls in flight may still release what is missing. Raises BudgetError when that cannot suffice, and
        DistillError when the disk does not take the reservation.
        """
        while self._refusal is None and not self._fits(usd):
            if self._reserved:
                await self._changed.wait()
            else:
                self._refuse(self._overrun(usd))
        if self._refusal is not None:
            raise self._refusal
        self._last += 1
        reservation = self._last
        self._reserved[reservation] = usd
        if usd > 0:
            try:
                await self._store.write((_RESERVED, (reservation, usd)))
            except BaseException as error:  # the call will not be made
                self._release(reservation)
                if isinstance(error, DistillError):
                    self._refuse(error)
                else:
                    self._store.put((_SETTLED, (reservation,)))
                raise
        return reservation

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: PaidResponse | None = None) -> None:
        """Replace a reservation by the call's actual cost, and store the response, if there is one.

        Raises DistillError when the disk does not take it; the whole reservation then counts as spent.
        """
        statements = [(_SETTLED, (reservation,)), *self.charge(cost_usd, key, paid)]
        worst = self._reserved.get(reservation, 0.0)
        written = self._store.put(*statements)
        try:
            await written
        except DistillError as error:
            cost_usd = worst
            self._refuse(error)
            raise
        finally:  # the statements are written even if the task that awaits them is cancelled
            self.spent += cost_usd
            self._release(reservation)

    async def close(self) -> None:
        """Refuse further calls, and wait until those in flight are settled."""
        self._refuse(BudgetError("the account is closed"))
        while self._reserved:
            await self._changed.wait()

    def _fits(self, usd: float) -> bool:
        return self._max_usd is None or self.spent + self.reserved + usd <= self._max_usd

    def _overrun(self, usd: float) -> BudgetError:
        held = f" and {dollars(self.batched)} reserved for open batches" if self.batched else ""
        return BudgetError(
            f"{dollars(self.spent)} of {dollars(self._max_usd or 0.0)} are spent{held}, and the next call may cost "
            f"{dollars(usd)}. Every answer that was paid for is stored: raise --max-usd and run the command again; "
            "nothing is paid for twice"
        )

    def _refuse(self, error: Exception) -> None:
        self._refusal = self._refusal or error
        self._notify()

    def _release(self, reservation: int) -> None:
        self._reserved.pop(reservation, None)
        self._notify()

    def _notify(self) -> None:
        """Wake the tasks that wait for money, to check again."""
        self._changed.set()
        self._changed = asyncio.Event()


def _packed(response: Mapping[str, Any]) -> bytes:
    """Compress a response. Most are a few kilobytes, and zlib sets a small window up in a tenth of the time."""
    compressor = zlib.compressobj(wbits=12, memLevel=5)
    text = json.dumps(response, ensure_ascii=False, separators=(",", ":"))
    return compressor.compress(text.encode("utf-8", "surrogatepass")) + compressor.flush()


def dollars(usd: float) -> str:
    """Format an amount with cents, or with two significant digits below one dollar."""
    digits = 2 if usd >= 1 or usd <= 0 else 1 - math.floor(math.log10(usd))
    return f"${usd:,.{digits}f}"
