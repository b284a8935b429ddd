"""The queue keeps its order and knows its tokens, whatever is added, taken, put back or withdrawn."""

from hypothesis import given
from hypothesis import strategies as st

from service.inference.batching import ALONE, Limits
from service.inference.stage_runner import Queue
from service.inference.types import Item, Submission

PACKED = Limits(1000, packed=True)
counts = st.integers(1, 5)
sizes = st.integers(1, 30)


def request(submitted=0.0):
    return Submission((), lambda _: None, 0.0, submitted)


def items_of(one, tokens):
    return [Item(one, index, count, 0.0) for index, count in enumerate(tokens)]


def drain(queue):
    return [item for _ in range(len(queue.items)) for item in queue.take(Limits(1, packed=True), 0.0)]


@given(st.lists(st.lists(sizes, min_size=1, max_size=5), min_size=1, max_size=12), st.data())
def test_its_tokens_are_those_of_its_texts(requests, data):
    queue, held, taken = Queue(), [], []
    for number, tokens in enumerate(requests):
        items = items_of(request(number), tokens)
        queue.add(items, sum(tokens))
        held += items
        match data.draw(st.sampled_from(["nothing", "take", "put back", "withdraw"])):
            case "take":
                found = queue.take(PACKED, 0.0)
                assert found == held[: len(found)] != []
                taken, held = found, held[len(found) :]
            case "put back":
                queue.put_back(taken)
                held, taken = taken + held, []
            case "withdraw":
                left = data.draw(st.sampled_from(held)).submission if held else None
                if left is not None:
                    queue.withdraw(left)
                held = [item for item in held if item.submission is not left]
        assert queue.tokens == sum(item.tokens for item in held)
        assert len(queue.items) == len(held)
    assert drain(queue) == held


def test_where_every_text_runs_alone_only_the_oldest_is_taken():
    queue = Queue()
    items = items_of(request(), [3, 4, 5])
    queue.add(items, 12)
    assert queue.take(ALONE, 0.0) == items[:1]


@given(st.lists(counts, min_size=1, max_size=8))
def test_half_of_the_texts_are_taken_up_to_the_end_of_a_request(lengths):
    queue = Queue()
    for number, count in enumerate(lengths):
        queue.add(items_of(request(number), [1] * count), count)
    taken, left = queue.take(PACKED, 0.0), len(queue.items)
    assert 2 * len(taken) >= sum(lengths)
    assert not left or queue.take(PACKED, 0.0)[0].submission is not taken[-1].submission
    whole = [count for number, count in enumerate(lengths) if number < taken[-1].submission.submitted]
    assert 2 * sum(whole) < sum(lengths), "with the last request less, it would not be half"


def test_older_texts_that_another_thread_put_back_stay_before_younger():
    queue = Queue()
    old, young = items_of(request(1.0), [1, 1]), items_of(request(2.0), [1])
    queue.put_back(old)
    queue.put_back(young)
    assert drain(queue) == [*old, *young]
