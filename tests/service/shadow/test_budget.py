from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.shadow.budget import BURST, Budget
from tests.support.clock import Clock


def spend(budget: Budget, cost_usd: float) -> bool:
    reserved = budget.reserve()
    if reserved is None:
        return False
    budget.settle(reserved, cost_usd)
    return True


def test_without_a_limit_every_call_is_allowed():
    budget = Budget(None, Clock())
    assert all(spend(budget, 1e6) for _ in range(10))
    assert budget.balance is None


def test_a_burst_is_a_tenth_and_the_rest_flows_in():
    clock = Clock()
    budget = Budget(100.0, clock)
    assert sum(spend(budget, 1.0) for _ in range(50)) == round(100 * BURST)
    clock.now += 360  # a tenth of an hour brings nine dollars
    assert sum(spend(budget, 1.0) for _ in range(50)) == 9


@given(st.lists(st.tuples(st.floats(0.0, 900.0), st.integers(1, 30)), min_size=1, max_size=40))
def test_no_hour_costs_more(steps):
    clock = Clock()
    budget = Budget(60.0, clock)
    paid = []
    for pause, calls in steps:
        clock.now += pause
        paid += [clock.now for _ in range(calls) if spend(budget, 0.5)]
    for start in paid:
        hour = sum(start <= moment < start + 3600 for moment in paid)
        assert hour * 0.5 <= 60.0 + 0.5  # the first call is not yet known to cost anything


def test_calls_in_flight_keep_their_reservation():
    clock = Clock()
    budget = Budget(100.0, clock)
    assert spend(budget, 1.0)
    reserved = [budget.reserve() for _ in range(20)]
    assert sum(value is not None for value in reserved) == 9
    for value in reserved:
        if value is not None:
            budget.release(value)
    assert budget.balance == 9.0


def test_a_call_that_costs_more_than_the_burst_is_allowed_when_the_bucket_is_full():
    clock = Clock()
    budget = Budget(10.0, clock)
    assert spend(budget, 5.0)
    assert not spend(budget, 5.0)
    clock.now += 3600 * 5.0 / 9.0 + 1  # until the debt is paid and the bucket full
    assert spend(budget, 5.0)
