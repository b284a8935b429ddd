"""Our server at five times its capacity, where every request has a deadline: how much is answered in time."""

from __future__ import annotations

from serving_tools.contenders import REFLUX
from serving_tools.measure import Conditions, running
from serving_tools.plan import Latency
from serving_tools.report import Bound, Part, ratio

TIMES = 5
REFUSED = "429"
DEADLINE = "X-Request-Timeout-Ms"


def overload(conditions: Conditions, deadline_ms: float) -> Part:
    """An open loop whose requests name their deadline. Latencies count from the intended time of sending."""
    with running(REFLUX, conditions) as one:
        capacity = one.load(clients=64).throughput
        load = one.load(
            rate=TIMES * capacity,
            headers={DEADLINE: f"{deadline_ms:.0f}"},
            deadline_ms=deadline_ms,
            most_connections=4096,
        )
    refused = load.others.get(REFUSED, Latency(0, *[float("nan")] * 4))
    answers = ", ".join(f"{count:,} x {status}" for status, count in load.statuses.items())
    print(
        f"capacity {capacity:,.0f} req/s, offered {load.offered:,.0f}: {answers}, {load.unanswered:,} unanswered; "
        f"429 after {refused.p50:.2f} ms (p99 {refused.p99:.2f}), 200 after {load.latency.p50:.1f} ms "
        f"(p99 {load.latency.p99:.1f}); the generator was late by {load.late_p99:.2f} ms (p99)"
    )
    bounds = [
        Bound("answers within the deadline / capacity", ratio(load.throughput * load.within, capacity), least=0.9),
        Bound("share of answers 200 within the deadline", load.within, least=0.99),
        Bound("p99 of answers 429, ms", refused.p99, most=5.0),
    ]
    return Part({"capacity": capacity, "deadline_ms": deadline_ms, "load": load}, bounds)
