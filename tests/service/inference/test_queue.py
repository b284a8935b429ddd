"""What waits keeps its order, and its tokens are those of its texts, whatever comes, goes and comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.inference.batching import ALONE, Limits
from service.inference.queue import Waiting
from service.inference.types import Item, Request

PACKED = Limits(1000, packed=True)
counts = st.integers(1, 5)
sizes = st.integers(1, 30)


def request(submitted=0.0):
    return Request((), lambda _: None, 0.0, submitted, None, None)


def items_of(one, tokens):
    return [Item(one, index, count) for index, count in enumerate(tokens)]


def drain(waiting):
    return [item for _ in range(len(waiting)) for item in waiting.take(Limits(1, packed=True), 0.0)]


@given(st.lists(st.lists(sizes, min_size=1, max_size=5), min_size=1, max_size=12), st.data())
def test_its_tokens_are_those_of_its_texts(requests, data):
    waiting, held, taken = Waiting(), [], []
    for number, tokens in enumerate(requests):
        items = items_of(request(number), tokens)
        waiting.add(items)
        held += items
        match data.draw(st.sampled_from(["nothing", "take", "put back", "withdraw"])):
            case "take":
                found = waiting.take(PACKED, 0.0)
                assert found == held[: len(found)] != []
                taken, held = found, held[len(found) :]
            case "put back":
                waiting.put_back(taken)
                held, taken = taken + held, []
            case "withdraw":
                left = data.draw(st.sampled_from(held)).request if held else None
                if left is not None:
                    waiting.withdraw(left)
                held = [item for item in held if item.request is not left]
        assert waiting.tokens == sum(item.tokens for item in held)
        assert len(waiting) == len(held)
    assert drain(waiting) == held


def test_each_change_is_counted():
    waiting, one = Waiting(), request()
    seen = [waiting.changes]
    items = items_of(one, [3, 4])
    steps = (
        lambda: waiting.add(items),
        lambda: waiting.take(PACKED, 0.0),
        lambda: waiting.put_back(items),
        lambda: waiting.withdraw(one),
    )
    for step in steps:
        step()
        seen.append(waiting.changes)
    assert len(set(seen)) == len(seen)


def test_where_every_text_runs_alone_only_the_oldest_is_taken():
    waiting = Waiting()
    items = items_of(request(), [3, 4, 5])
    waiting.add(items)
    assert waiting.take(ALONE, 0.0) == items[:1]


@given(st.lists(counts, min_size=1, max_size=8))
def test_half_of_the_texts_are_taken_to_the_end_of_a_request(lengths):
    waiting = Waiting()
    for number, count in enumerate(lengths):
        waiting.add(items_of(request(number), [1] * count))
    taken, left = waiting.take(PACKED, 0.0), len(waiting)
    assert 2 * len(taken) >= sum(lengths)
    assert not left or waiting.take(PACKED, 0.0)[0].request is not taken[-1].request
    whole = [count for number, count in enumerate(lengths) if number < taken[-1].request.submitted]
    assert 2 * sum(whole) < sum(lengths), "with the last request less, it would not be half"


def test_older_texts_that_another_thread_put_back_stay_before_younger():
    waiting = Waiting()
    old, young = items_of(request(1.0), [1, 1]), items_of(request(2.0), [1])
    waiting.put_back(old)
    waiting.put_back(young)
    assert drain(waiting) == [*old, *young]
