"""Which texts share a run: none is lost, the limits hold, similar lengths run together, and no text waits for ever."""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.inference.batching import ALONE, WINDOW, Limits, by_length, choose, packed_price, tokens_of, window


@dataclass(frozen=True)
class Item:
    """A text that came as number `place`."""

    place: int
    tokens: int


def items(lengths):
    return [Item(place, tokens) for place, tokens in enumerate(lengths)]


def padded(batch):
    return len(batch) * max(item.tokens for item in batch)


waiting_texts = st.lists(st.integers(1, 64), min_size=1, max_size=80).map(items)
limits_of_a_run = st.builds(Limits, tokens=st.integers(1, 600), rows=st.integers(1, 20))
packed_limits = st.builds(Limits, tokens=st.integers(1, 600), rows=st.integers(1, 20), packed=st.just(True))
slacks = st.one_of(st.floats(0, 100), st.just(1e9))


@settings(deadline=None)
@given(waiting_texts, limits_of_a_run, slacks)
def test_no_text_is_lost_or_doubled_and_both_parts_keep_their_order(waiting, limits, slack):
    batch, left = choose(waiting, limits, slack)
    assert sorted(batch + left, key=lambda item: item.place) == waiting
    for part in (batch, left):
        assert [item.place for item in part] == sorted(item.place for item in part)


@settings(deadline=None)
@given(waiting_texts, limits_of_a_run, slacks)
def test_the_oldest_is_always_taken(waiting, limits, slack):
    batch, _ = choose(waiting, limits, slack)
    assert batch[0] == waiting[0]


@settings(deadline=None)
@given(waiting_texts, limits_of_a_run, slacks)
def test_the_limits_hold_except_for_a_single_longer_text(waiting, limits, slack):
    batch, _ = choose(waiting, limits, slack)
    assert len(batch) <= limits.rows
    assert len(batch) == 1 or padded(batch) <= limits.tokens


@settings(deadline=None)
@given(waiting_texts, limits_of_a_run, slacks)
def test_no_text_brings_more_padding_than_a_run_of_its_own_would_cost(waiting, limits, slack):
    batch, _ = choose(waiting, limits, slack)
    assert padded(batch) - sum(item.tokens for item in batch) <= slack * (len(batch) - 1)


@settings(deadline=None)
@given(waiting_texts, limits_of_a_run, slacks)
def test_those_nearest_to_the_oldest_in_length_are_preferred(waiting, limits, slack):
    def distance(item):
        return abs(item.tokens - waiting[0].tokens)

    batch, left = choose(waiting, limits, slack)
    assert max(map(distance, batch)) <= min(map(distance, left), default=math.inf)


@settings(deadline=None)
@given(waiting_texts, limits_of_a_run, slacks)
def test_a_batch_is_as_large_as_it_may_be(waiting, limits, slack):
    batch, left = choose(waiting, limits, slack)
    if not left:
        return
    another = [*batch, min(left, key=lambda item: (abs(item.tokens - waiting[0].tokens), item.place))]
    padding = padded(another) - padded(batch) - another[-1].tokens
    assert len(another) > limits.rows or padded(another) > limits.tokens or padding > slack


@settings(deadline=None)
@given(waiting_texts, slacks)
def test_alone_means_alone(waiting, slack):
    assert choose(waiting, ALONE, slack) == (waiting[:1], waiting[1:])


@pytest.mark.parametrize(
    ("slack", "expected"), [(0, [8, 8]), (1, [8, 8, 7]), (11, [8, 8, 7]), (12, [8, 8, 12, 7]), (112, [8, 40, 8, 12, 7])]
)
def test_the_higher_the_fixed_cost_of_a_run_the_less_lengths_matter(slack, expected):
    waiting = items([8, 40, 8, 12, 7])
    batch, _ = choose(waiting, Limits(1000), slack)
    assert [item.tokens for item in batch] == expected


@settings(deadline=None)
@given(
    arrivals=st.lists(st.lists(st.integers(1, 64), max_size=30), min_size=1, max_size=15),
    limits=limits_of_a_run | packed_limits,
    slack=slacks,
)
def test_no_text_waits_for_more_runs_than_there_were_texts_before_it(arrivals, limits, slack):
    waiting, bounds, waited = deque(), {}, {}
    coming, place = deque(arrivals), 0
    while coming or waiting:
        for tokens in coming.popleft() if coming else ():
            bounds[place], waited[place] = len(waiting), 0
            waiting.append(Item(place, tokens))
            place += 1
        if not waiting:
            continue
        considered = [
            waiting.popleft() for _ in range(min(window(waiting, limits, slack, len(waiting) // 2), len(waiting)))
        ]
        _, left = choose(considered, limits, slack)
        waiting.extendleft(reversed(left))
        for item in waiting:
            waited[item.place] += 1
    assert all(waited[place] <= bounds[place] for place in bounds)


@settings(deadline=None)
@given(waiting_texts, packed_limits, slacks)
def test_packed_as_many_of_the_oldest_run_together_as_fit_whatever_their_lengths(waiting, limits, slack):
    batch, left = choose(waiting, limits, slack)
    assert batch + left == waiting
    assert batch
    assert len(batch) <= limits.rows
    assert len(batch) == 1 or sum(item.tokens for item in batch) <= limits.tokens
    if left:
        assert len(batch) == limits.rows or sum(item.tokens for item in [*batch, left[0]]) > limits.tokens


@pytest.mark.parametrize(
    ("lengths", "limits", "count"),
    [
        ([3, 40, 5, 2], Limits(50, packed=True), 4),
        ([3, 40, 5, 2], Limits(49, packed=True), 3),
        ([3, 40, 5, 2], Limits(48, packed=True), 3),
        ([3, 40, 5, 2], Limits(47, packed=True), 2),
        ([3, 40, 5, 2], Limits(42, packed=True), 1),
        ([3, 40, 5, 2], Limits(100, rows=3, packed=True), 3),
        ([40, 1, 1], Limits(39, packed=True), 1),
        ([40], Limits(1, packed=True), 1),
        ([1, 1], Limits(1, rows=1, packed=True), 1),
    ],
)
def test_packed_a_text_that_does_not_fit_keeps_those_after_it_waiting(lengths, limits, count):
    waiting = items(lengths)
    assert choose(waiting, limits, 0.0) == (waiting[:count], waiting[count:])


@settings(deadline=None)
@given(waiting_texts, limits_of_a_run)
def test_a_run_pays_for_padding_or_if_packed_for_the_width_of_attention(batch, limits):
    lengths = [item.tokens for item in batch]
    assert limits.paid(batch) == len(lengths) * max(lengths)
    assert replace(limits, packed=True).paid(batch) == sum(lengths) + sum(lengths) * max(lengths) // 1024


@settings(deadline=None)
@given(waiting_texts, slacks)
def test_runs_by_length_lose_and_double_no_text_and_do_not_overlap_in_length(batch, slack):
    runs = by_length(batch, slack)
    assert sorted((item for run in runs for item in run), key=lambda item: item.place) == batch
    spans = sorted((min(lengths), max(lengths)) for run in runs if (lengths := [item.tokens for item in run]))
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@settings(deadline=None)
@given(st.lists(st.integers(1, 8).map(lambda part: 64 * part), min_size=1, max_size=4).map(items), st.floats(0, 300))
def test_no_other_partition_costs_less(batch, slack):
    def cost(runs):
        return sum(slack + packed_price(tokens_of(run), max(item.tokens for item in run)) for run in runs)

    found = cost(by_length(batch, slack))
    for parts in itertools.product(range(len(batch)), repeat=len(batch)):
        others = [[item for item, part in zip(batch, parts, strict=True) if part == one] for one in set(parts)]
        assert found <= cost(others) + 1e-6


def test_a_long_text_among_short_ones_has_a_run_of_its_own_where_that_is_cheaper():
    batch = items([16, 18, 512, 16, 18, 16, 18, 16])
    assert [len(run) for run in by_length(batch, slack=50.0)] == [1, 7]
    assert [len(run) for run in by_length(batch, slack=60.0)] == [8]
    assert by_length(batch, slack=400.0) == [batch]


@pytest.mark.parametrize(("slack", "considered"), [(0.0, 2), (1.0, 2), (2.5, 2), (3.75, 3), (5.0, 4), (100.0, 4)])
def test_few_packed_texts_run_together_where_the_fixed_cost_is_high(slack, considered):
    waiting = items([10, 10, 10, 10])
    assert window(iter(waiting), Limits(100, packed=True), slack, 2) == considered


@settings(deadline=None)
@given(waiting_texts, packed_limits, slacks, st.integers(0, 40))
def test_packed_as_many_texts_are_considered_as_are_worth_a_run_if_they_fit(waiting, limits, slack, least):
    fit = len(choose(waiting, limits, slack)[0])
    worth = (count for count in range(fit) if count >= least and tokens_of(waiting[:count]) >= 8 * slack)
    assert window(iter(waiting), limits, slack, least) == max(1, next(worth, fit))


@settings(deadline=None)
@given(waiting_texts, limits_of_a_run, slacks)
def test_many_texts_are_considered_where_lengths_matter(waiting, limits, slack):
    assert window(waiting, limits, slack, 1) == WINDOW
