"""Which models have answered: their names and fingerprints as responses stated them, the newest few one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

from service.shadow.outbox.checks import ModelCalls
from service.shadow.slots import DAY

SHOWN = 5
"""Models that are shown one by one: a server may state a new name each time. The others are one, `other`."""

RECENT_DAYS = 7.0
"""For so long a change of the model is mentioned."""

OTHER = "other"


class TeacherModels:
    """The models by name and fingerprint, across restarts, and the `responses` of this process by the same.

    The order of the models is that of their last calls, the newest last.
    """

    def __init__(self) -> None:
        self.responses: Counter[tuple[str, str]] = Counter({(OTHER, OTHER): 0})
        self._calls: dict[tuple[str, str], ModelCalls] = {}
        self._other: ModelCalls | None = None

    def load(self, stored: Iterable[ModelCalls]) -> None:
        """Take over the models of earlier processes."""
        for calls in sorted(stored, key=lambda one: one.last):
            self._put(calls)

    def count(self, model: str | None, fingerprint: str | None, at: float) -> None:
        """Count an answer at the Unix time `at`, if its responses state a model or a fingerprint."""
        if not (model or fingerprint):
            return
        name = (model or "", fingerprint or "")
        before = self._calls.pop(name, ModelCalls(*name, at, at, 0))
        self._put(before._replace(last=max(at, before.last), calls=before.calls + 1))
        self.responses[name] += 1
        for forgotten in [one for one in self.responses if one not in self._calls and one != (OTHER, OTHER)]:
            self.responses[OTHER, OTHER] += self.responses.pop(forgotten)

    def newest(self) -> list[dict[str, object]]:
        """Return the models for `GET /gap`, the one that answered last first, and the others as one."""
        every = [*reversed(self._calls.values()), *([self._other] if self._other else [])]
        return [
            {"model": one.model or None, "fingerprint": one.fingerprint or None, **_times(one), "calls": one.calls}
            for one in every
        ]

    def change(self, now: float) -> str | None:
        """Return a sentence about the latest change of the model or its fingerprint within seven days, if any.

        A change is clean: the one before has not answered since. Several that answer in turn are no change.
        """
        if len(self._calls) < 2:
            return None
        *_, before, latest = self._calls.values()
        if latest.first <= before.last or now - latest.first > RECENT_DAYS * DAY:
            return None
        since = datetime.fromtimestamp(latest.first, UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"Since {since} the teacher's server answers as {_name(latest)}; before as {_name(before)}."

    def _put(self, calls: ModelCalls) -> None:
        """Add a model as the newest; the oldest above SHOWN becomes one of the others."""
        self._calls[calls.model, calls.fingerprint] = calls
        if len(self._calls) > SHOWN:
            oldest = self._calls.pop(next(iter(self._calls)))
            others = self._other or oldest._replace(calls=0)
            self._other = ModelCalls(
                OTHER,
                OTHER,
                min(others.first, oldest.first),
                max(others.last, oldest.last),
                others.calls + oldest.calls,
            )


def _name(one: ModelCalls) -> str:
    return f"{one.model or 'a model without a name'}{f' ({one.fingerprint})' if one.fingerprint else ''}"


def _times(one: ModelCalls) -> dict[str, float]:
    return {"first": one.first, "last": one.last}
