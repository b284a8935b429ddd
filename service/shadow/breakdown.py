"""Where the gap hurts, ready for JSON: the gap of the application's decision."""

from __future__ import annotations

from service.monitor.gap import estimate
from service.shadow.history import History


def decision_gap(history: History, start: float = 0.0) -> dict[str, float] | None:
    """Return how often the decision is another one by the teacher's answer, of the slots from `start` (Unix seconds).

    None before the first comparison.
    """
    found = estimate(history.decision_cells().since(start))
    if found is None:
        return None
    return {"ratio": found.gap, "lower": found.lower, "upper": found.upper, "compared": found.compared}
