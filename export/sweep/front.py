"""The Pareto front of measured candidates, and the best candidate within a budget. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A student or cascade: its agreement with the teacher on validation, and what a text costs.

    `milliseconds` is the median time of a text alone on one core, by which the front and the limit judge speed.
    """

    name: str
    agreement: float
    milliseconds: float
    usd_per_million: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that the median text may take, and a million texts may cost; None is no limit."""

    latency_ms: float | None = None
    cost_per_million: float | None = None

    @property
    def given(self) -> bool:
        """Whether there is a limit."""
        return self.latency_ms is not None or self.cost_per_million is not None

    def allow(self, candidate: Candidate) -> bool:
        """Whether a candidate is within the limits."""
        fast = self.latency_ms is None or candidate.milliseconds <= self.latency_ms
        return fast and (self.cost_per_million is None or candidate.usd_per_million <= self.cost_per_million)

    def __str__(self) -> str:
        parts = []
        if self.latency_ms is not None:
            parts.append(f"{self.latency_ms:g} ms")
        if self.cost_per_million is not None:
            parts.append(f"${self.cost_per_million:g} per million texts")
        return " and ".join(parts) or "no limit"


def pareto(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates than which no other is both at least as good and as fast, the fastest first."""
    front: list[Candidate] = []
    for one in sorted(candidates, key=lambda each: (each.milliseconds, -each.agreement)):
        if not front or one.agreement > front[-1].agreement:
            front.append(one)
    return front


def best_within(candidates: Sequence[Candidate], limits: Limits) -> Candidate | None:
    """Return the candidate within the limits that agrees best with the teacher, the faster of equals; None if none."""
    allowed = [each for each in candidates if limits.allow(each)]
    return max(allowed, key=lambda each: (each.agreement, -each.milliseconds), default=None)
