from __future__ import annotations

from service.shadow.breaker import Breaker, State
from tests.support.clock import Clock


def run(breaker: Breaker, *, failures: int, successes: int) -> None:
    for index in range(failures + successes):
        ticket = breaker.allow()
        assert ticket is not None
        breaker.record(ticket, success=index >= failures)


def probing(clock: Clock) -> tuple[Breaker, int]:
    """Return a breaker that opened and has let a probe through, and the probe's ticket."""
    breaker = Breaker(clock)
    run(breaker, failures=20, successes=0)
    assert breaker.state is State.OPEN
    clock.now += 30
    probe = breaker.allow()
    assert probe is not None
    return breaker, probe


def test_opens_at_half_of_twenty():
    breaker = Breaker(Clock())
    run(breaker, failures=9, successes=10)
    assert breaker.state is State.CLOSED
    run(breaker, failures=1, successes=0)
    assert breaker.state is State.OPEN
    assert breaker.allow() is None


def test_few_failures_do_not_open():
    breaker = Breaker(Clock())
    run(breaker, failures=19, successes=0)
    assert breaker.state is State.CLOSED


def test_failures_count_for_one_window():
    clock = Clock()
    breaker = Breaker(clock)
    run(breaker, failures=19, successes=0)
    clock.now += 30.1
    run(breaker, failures=19, successes=0)
    assert breaker.state is State.CLOSED


def test_one_probe_decides():
    breaker, probe = probing(Clock())
    assert breaker.state is State.HALF_OPEN
    assert breaker.allow() is None
    breaker.record(probe, success=True)
    assert breaker.state is State.CLOSED
    run(breaker, failures=19, successes=0)
    assert breaker.state is State.CLOSED  # it starts with a clean record


def test_after_a_failed_probe_the_breaker_stays_open_for_another_pause():
    clock = Clock()
    breaker, probe = probing(clock)
    breaker.record(probe, success=False)
    assert breaker.state is State.OPEN
    clock.now += 29
    assert breaker.allow() is None
    clock.now += 1
    assert breaker.allow() is not None


def test_a_call_from_before_the_probe_is_ignored():
    clock = Clock()
    breaker = Breaker(clock)
    late = breaker.allow()
    assert late is not None
    run(breaker, failures=20, successes=0)
    clock.now += 30
    assert breaker.allow() is not None
    breaker.record(late, success=True)
    assert breaker.state is State.HALF_OPEN


def test_after_an_inconclusive_probe_another_follows_after_a_pause():
    clock = Clock()
    breaker, probe = probing(clock)
    breaker.release(probe)
    assert breaker.allow() is None
    clock.now += 30
    another = breaker.allow()
    assert another is not None
    breaker.release(probe)  # of before: it takes nothing from the other
    breaker.record(another, success=True)
    assert breaker.state is State.CLOSED


def test_an_inconclusive_call_is_no_failure():
    breaker = Breaker(Clock())
    for _ in range(40):
        ticket = breaker.allow()
        assert ticket is not None
        breaker.release(ticket)
    assert breaker.state is State.CLOSED
