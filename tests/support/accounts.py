"""An account without a disk."""

from __future__ import annotations

import json
from dataclasses import replace

from distill.teachers.account import NoAccount, PaidResponse


class MemoryAccount(NoAccount):
    """Keeps what was `paid` for, by the key of a call, and how much was `spent`, in dollars; it has no limit."""

    def __init__(self) -> None:
        self.paid: dict[str, PaidResponse] = {}
        self.spent = 0.0

    async def recall(self, key: str) -> PaidResponse | None:
        return self.paid.get(key)

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: PaidResponse | None = None) -> None:
        self.spent += cost_usd
        if paid is not None:
            self.paid[key] = replace(paid, response=json.loads(json.dumps(paid.response)))  # as a disk gives it back
