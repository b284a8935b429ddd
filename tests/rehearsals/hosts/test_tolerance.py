"""What a killed process excuses, and what it does not."""

from __future__ import annotations

from rehearsals.hosts.load import Answered
from rehearsals.hosts.tolerance import SCRAPED_SECONDS, STORED_SECONDS, Excuses, answered, since, within


def failed(start: float, end: float, server: str = "serving-1", status: int = 502) -> Answered:
    return Answered(start, end, status, server)


def ok(end: float, server: str = "serving-1", version: str = "v1") -> Answered:
    return Answered(end - 0.01, end, 200, server, version)


def killed() -> Excuses:
    excuses = Excuses()
    excuses.killed("serving-1", 100.0, 100.1)
    return excuses


def test_a_request_in_flight_on_a_killed_host_may_fail():
    in_flight = [failed(99.9, 100.2), failed(100.05, 100.06), failed(99.0, 100.0), failed(99.9, 100.2, "", 0)]
    assert killed().lost(in_flight) == (in_flight, [])


def test_a_request_sent_after_the_kill_ended_before_it_or_was_elsewhere_may_not():
    lost = [failed(100.11, 100.2), failed(99.0, 99.99), failed(99.9, 100.2, "serving-2")]
    assert killed().lost([*lost, ok(100.0)]) == ([], lost)


def test_without_a_kill_nothing_may_fail():
    excuses = Excuses()
    excuses.began("serving-1", 99.0)
    assert excuses.lost([failed(99.9, 100.2)]) == ([], [failed(99.9, 100.2)])


def test_counts_of_a_killed_host_may_be_missing_for_a_moment_before():
    excuses = killed()
    seen = [100.1, 100.0 - STORED_SECONDS, 99.9 - STORED_SECONDS, 100.0 - SCRAPED_SECONDS, 99.9 - SCRAPED_SECONDS]
    requests = [*map(ok, seen), ok(100.0, "serving-2"), failed(100.0, 100.05)]
    assert within(excuses.unstored, requests) == {"v1": 2}
    assert within(excuses.unscraped, requests) == {"v1": 4}


def test_what_is_excused_twice_counts_once():
    excuses = killed()
    excuses.began("serving-1", 99.0)
    assert within(excuses.unscraped, [ok(100.0)]) == {"v1": 1}


def test_answers_are_counted_by_version():
    requests = [ok(1.0), ok(2.0), ok(3.0, version="v2"), failed(1.0, 2.0)]
    assert answered(requests) == {"v1": 2, "v2": 1}
    assert since(requests, "v2") == 3.0
    assert since(requests, "v3") == 0.0
