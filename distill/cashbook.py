"""The account of a run, on disk: every response that was paid for, what was spent, and what calls in flight may cost.

A call that was in flight when the process was killed may have been paid, so that it counts as spent at its worst price:
the budget holds however often a run is killed.
"""

from __future__ import annotations

import asyncio
import json
import time
import zlib

from distill.store import Statement, Store
from distill.teachers.account import BudgetError, Paid

SCHEMA = """
CREATE TABLE IF NOT EXISTS calls (
  key TEXT PRIMARY KEY, response BLOB NOT NULL, cost_usd REAL NOT NULL, seconds REAL NOT NULL, time REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservations (id INTEGER PRIMARY KEY, usd REAL NOT NULL);
CREATE TABLE IF NOT EXISTS money (only INTEGER PRIMARY KEY CHECK (only = 1), spent REAL NOT NULL);
INSERT OR IGNORE INTO money VALUES (1, 0.0);
UPDATE money SET spent = spent + (SELECT coalesce(sum(usd), 0.0) FROM reservations);
DELETE FROM reservations;
"""
_SETTLED = "DELETE FROM reservations WHERE id = ?"
_SPENT = "UPDATE money SET spent = spent + ?"
_KEPT = "INSERT OR REPLACE INTO calls VALUES (?, ?, ?, ?, ?)"


class Cashbook:
    """Keeps responses, and refuses a call that might bring what was ever spent in this run above `max_usd`."""

    def __init__(self, store: Store, max_usd: float | None = None) -> None:
        self._store = store
        self._max_usd = max_usd
        ((self.spent,),) = store.read("SELECT spent FROM money").fetchall()
        self._reserved: dict[int, float] = {}
        self._last = 0
        self._changed = asyncio.Condition()

    @property
    def reserved(self) -> float:
        """What the calls in flight may cost, in dollars."""
        return sum(self._reserved.values())

    async def recall(self, key: str) -> Paid | None:
        """The response that was paid for under this key, if one was."""
        row = self._store.read("SELECT response, cost_usd, seconds FROM calls WHERE key = ?", (key,)).fetchone()
        return None if row is None else Paid(json.loads(zlib.decompress(row[0])), row[1], row[2])

    async def reserve(self, usd: float) -> int:
        """Set money apart for one call; waits for calls in flight where they may give back what is lacking.

        Raises BudgetError when they cannot.
        """
        async with self._changed:
            while self._max_usd is not None and self.spent + self.reserved + usd > self._max_usd:
                if not self._reserved:
                    raise BudgetError(
                        f"{self.spent:.4f} of {self._max_usd:.4f} dollars are spent, and the next call may cost "
                        f"{usd:.4f}: raise --max-usd and run the command again; nothing is paid for twice"
                    )
                await self._changed.wait()
            self._last += 1
            reservation = self._last
            self._reserved[reservation] = usd
        if usd > 0:
            await self._store.write(("INSERT INTO reservations VALUES (?, ?)", (reservation, usd)))
        return reservation

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: Paid | None = None) -> None:
        """End a reservation at what was spent, and keep the response, where there is one."""
        statements: list[Statement] = [(_SETTLED, (reservation,)), (_SPENT, (cost_usd,))]
        if paid is not None:
            packed = zlib.compress(json.dumps(paid.response, ensure_ascii=False).encode("utf-8", "surrogatepass"))
            statements.append((_KEPT, (key, packed, paid.cost_usd, paid.seconds, time.time())))
        await self._store.write(*statements)
        async with self._changed:
            self.spent += cost_usd
            del self._reserved[reservation]
            self._changed.notify_all()
