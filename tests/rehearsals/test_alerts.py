"""The table of the rehearsal says what did not fire, and what should not have."""

from tests.rehearsals.alerts import ABSENT, table
from tests.support.misbehaving import Case, silence

CASE = Case("drifting", "texts are foreign", frozenset({"RefluxInputDrift"}), "v1", {}, silence)
TOLD = {("RefluxInputDrift", "v1"): 20.0, ABSENT: 5.0}


def test_all_that_fired_as_it_should_is_good():
    lines, good = table([CASE], dict(TOLD))
    assert good
    assert any(line.split()[:2] == ["RefluxInputDrift", "20"] and CASE.how in line for line in lines)


def test_an_alert_that_never_fires_is_not():
    lines, good = table([CASE], {ABSENT: 5.0})
    assert not good
    assert any("RefluxInputDrift" in line and "NEVER" in line for line in lines)


def test_an_alert_that_nobody_expects_is_not_either():
    lines, good = table([CASE], TOLD | {("RefluxLatency", "v1"): 3.0})
    assert not good
    assert any("RefluxLatency" in line and "SHOULD NOT FIRE" in line for line in lines)
