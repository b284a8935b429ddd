"""What of a process's counts without rows is in the shared store, so that only differences are added there.

A process knows the values of its own counts (`history.Changes`); the store has the sums over all processes. When a
connection breaks during a commit, nobody knows whether the differences were added. The store therefore keeps the number
of the latest batch of each process, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence

from service.shadow.history import WITHOUT_ROWS, Changes
from service.shadow.slots import Key, folded

_Values = dict[Key, list[float]]


class Written:
    """The values that are stored, and those of the latest batch as long as that is not known to be stored."""

    def __init__(self) -> None:
        self._hour = 0
        self._stored: _Values = {}
        self._sent: tuple[int, _Values] = 0, {}

    def differences(self, changes: Changes, latest: int) -> dict[Key, Sequence[float]]:
        """Return what to add to the store to bring it to `changes`, as batch number `latest` + 1.

        `latest` is the number of the latest batch of this process that is stored.
        """
        number, values = self._sent
        if number == latest:
            self._stored |= values
        if changes.hour != self._hour:
            self._fold(changes.hour)
        values = dict(zip(changes.keys, changes.values, strict=True))
        self._sent = latest + 1, values
        nothing = [0.0] * len(WITHOUT_ROWS)
        return {
            key: [now - before for now, before in zip(new, self._stored.get(key, nothing), strict=True)]
            for key, new in values.items()
        }

    def _fold(self, hour: int) -> None:
        """Merge the values of old slots as `History` has done."""
        self._hour, before, self._stored = hour, self._stored, {}
        for key, values in before.items():
            target = key._replace(slot=folded(key.slot, hour))
            known = self._stored.get(target)
            self._stored[target] = values if known is None else [sum(pair) for pair in zip(known, values, strict=True)]
