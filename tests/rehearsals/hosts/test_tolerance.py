"""What a killed process excuses, and what it does not."""

from __future__ import annotations

from tests.rehearsals.hosts.load import Answered
from tests.rehearsals.hosts.tolerance import Excuses, Span, answered, since, within


def failed(start: float, end: float, server: str = "serving-1", status: int = 502) -> Answered:
    return Answered(start, end, status, server)


def ok(end: float, server: str = "serving-1", version: str = "v1") -> Answered:
    return Answered(end - 0.01, end, 200, server, version)


def killed() -> Excuses:
    return Excuses(dying=[Span("serving-1", 100.0, 100.1)])


def test_a_request_in_flight_on_a_killed_host_may_fail():
    in_flight = [failed(99.9, 100.2), failed(100.05, 100.06), failed(99.0, 100.0), failed(99.9, 100.2, "", 0)]
    assert killed().lost(in_flight) == (in_flight, [])


def test_a_request_sent_after_the_kill_ended_before_it_or_was_elsewhere_may_not():
    lost = [failed(100.11, 100.2), failed(99.0, 99.99), failed(99.9, 100.2, "serving-2")]
    assert killed().lost([*lost, ok(100.0)]) == ([], lost)


def test_without_a_kill_nothing_may_fail():
    excuses = Excuses(starts=[("serving-1", 99.0)])
    assert excuses.lost([failed(99.9, 100.2)]) == ([], [failed(99.9, 100.2)])
    assert excuses.unstored([ok(99.9)]) == []


def test_counts_of_a_killed_host_may_be_missing_for_a_moment_before():
    requests = [*map(ok, (100.1, 99.0, 98.9)), ok(100.0, "serving-2"), failed(100.0, 100.05)]
    assert within(killed().unstored(requests), requests) == {"v1": 2}


def test_where_requests_wait_writing_waits_too():
    requests = [ok(98.0), Answered(97.5, 99.5, 200, "serving-2", "v1")]
    assert within(killed().unstored(requests), requests) == {"v1": 1}
    long_ago = [ok(98.0), Answered(90.0, 94.9, 200, "serving-2", "v1")]
    assert within(killed().unstored(long_ago), long_ago) == {}


def test_what_was_counted_after_the_last_scrape_of_a_killed_process_is_not_seen():
    spans = killed().unscraped({"serving-1": [97.0, 98.0, 103.0], "serving-2": [99.9]})
    assert within(spans, [ok(97.9), ok(98.1), ok(100.0), ok(100.2), ok(99.0, "serving-2")]) == {"v1": 2}


def test_what_is_counted_before_the_first_scrape_is_not_seen():
    excuses = Excuses(starts=[("serving-1", 100.0)])
    answers = [ok(99.9), ok(100.5), ok(102.1), ok(103.1)]
    assert within(excuses.unscraped({"serving-1": [99.0, 102.0, 103.0]}), answers) == {"v1": 2}
    assert within(excuses.unscraped({}), answers) == {"v1": 3}


def test_what_is_excused_twice_counts_once():
    excuses = killed()
    excuses.starts.append(("serving-1", 99.0))
    assert within(excuses.unscraped({"serving-1": [99.5]}), [ok(100.0)]) == {"v1": 1}


def test_answers_are_counted_by_version():
    requests = [ok(1.0), ok(2.0), ok(3.0, version="v2"), failed(1.0, 2.0)]
    assert answered(requests) == {"v1": 2, "v2": 1}
    assert since(requests, "v2") == 3.0
    assert since(requests, "v3") == 0.0
