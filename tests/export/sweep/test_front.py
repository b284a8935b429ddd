"""On the front is what nothing else beats in both; the best within limits is the one that agrees most."""

from __future__ import annotations

import pytest

from export.sweep.front import Candidate, Limits, best_within, pareto


def candidate(name, agreement, milliseconds, usd=None):
    return Candidate(name, agreement, milliseconds, milliseconds if usd is None else usd)


LADDER = [
    candidate("six", 0.97, 1.8),
    candidate("static", 0.93, 0.03),
    candidate("worse", 0.92, 0.5),
    candidate("three", 0.95, 0.9),
    candidate("ngrams", 0.90, 0.02),
    candidate("cascade", 0.95, 0.04, usd=0.3),
]


def names(candidates):
    return [each.name for each in candidates]


def test_the_front_leaves_out_what_another_beats_in_both():
    assert names(pareto(LADDER)) == ["ngrams", "static", "cascade", "six"]
    assert names(pareto(LADDER[::-1])) == names(pareto(LADDER))
    assert pareto([]) == []


def test_of_equals_one_is_on_the_front():
    assert names(pareto([candidate("a", 0.9, 1), candidate("b", 0.9, 1), candidate("c", 0.9, 2)])) == ["a"]


@pytest.mark.parametrize(
    ("limits", "best"),
    [
        (Limits(), "six"),
        (Limits(latency_ms=1.0), "cascade"),
        (Limits(latency_ms=0.03), "static"),
        (Limits(latency_ms=0.01), None),
        (Limits(cost_per_million=0.3), "cascade"),
        (Limits(cost_per_million=0.2), "static"),
        (Limits(latency_ms=5, cost_per_million=0.02), "ngrams"),
        (Limits(latency_ms=0.02, cost_per_million=0.01), None),
    ],
)
def test_the_best_within_limits(limits, best):
    found = best_within(LADDER, limits)
    assert (found and found.name) == best


def test_limits_say_what_they_are():
    assert str(Limits(5, 0.25)) == "5 ms and $0.25 per million texts"
    assert not Limits().given
