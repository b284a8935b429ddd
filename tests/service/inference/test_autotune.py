"""A graph is run in the way that was measured to be fastest, unless a setting fixes it."""

import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

from export.bundle.classifier import Encoded
from service.inference import autotune
from service.inference.autotune import BUDGETS, Conditions, Overrides, choose
from service.inference.batching import ALONE, Limits

LENGTH = 16
TEXTS = ["a" * length for length in (2, LENGTH, 30)]


@pytest.fixture
def clock(monkeypatch):
    """The time that is measured: it passes only where a run takes some.

    `others` is how much more passes meanwhile in which others have the CPU, in terms of the run's.
    """
    clock = SimpleNamespace(now=0.0, others=0.0)
    now = SimpleNamespace(thread_time=lambda: clock.now, monotonic=lambda: clock.now * (1 + clock.others))
    monkeypatch.setattr(autotune, "time", now)
    return clock


@pytest.fixture
def hop(monkeypatch):
    """`hop(seconds)`: set the duration of a thread hop."""
    return lambda seconds: monkeypatch.setattr(autotune, "_hop_seconds", lambda: seconds)


class Graph:
    """A graph whose run of n tokens takes `cost(n)` seconds of a clock."""

    packed = False

    def __init__(self, clock, cost):
        self.clock, self.cost = clock, cost
        self.shapes = []

    def encode(self, text):
        return Encoded([1] * len(text), False)

    def run(self, rows):
        self.shapes.append((len(rows), max(len(row.ids) for row in rows)))
        self.clock.now += self.cost(sum(len(row.ids) for row in rows))
        return []


def tuned(graph, overrides, *, cpus=2, batches=True):
    return choose(lambda threads: graph, TEXTS, overrides, cpus=cpus, batches=batches)[0]


def linear(token, run):
    return lambda tokens: token * tokens + run


@pytest.fixture
def rates(monkeypatch):
    """`rates(function)`: let a tuning answer `function(tuning)` texts per second; the list of those that were tried."""

    def replace(function):
        tried = []

        def rate(graph, texts, tuning, *_, **__):
            tried.append(tuning)
            return function(tuning)

        monkeypatch.setattr(autotune, "_texts_per_second", rate)
        return tried

    return replace


@pytest.mark.parametrize(
    ("cost", "limits"),
    [
        (linear(1e-4, 0.0), ALONE),  # nothing is gained by waiting for each other
        (linear(1e-5, 1e-2), Limits(max(BUDGETS))),  # the more the better
        (linear(1e-4, 3e-5), ALONE),  # a gain of less than 2%
        (linear(1e-4, 4e-5), Limits(32)),  # of more
        (lambda tokens: 1e-3 + 1e-5 * tokens + (1.0 if tokens > 256 else 0.0), Limits(256)),
    ],
)
def test_runs_are_as_long_as_longer_ones_are_faster(clock, cost, limits):
    tuning = tuned(Graph(clock, cost), Overrides(workers=1))
    assert (tuning.workers, tuning.threads, tuning.limits) == (1, 1, limits)


def test_a_tuning_knows_the_measured_cost_of_runs(clock):
    tuning = tuned(Graph(clock, linear(2e-5, 1e-3)), Overrides(workers=1))
    for tokens, runs in [(8, 1), (100, 1), (1000, 4)]:
        assert tuning.cost.seconds(tokens, runs) == pytest.approx(2e-5 * tokens + 1e-3 * runs, rel=0.05)


def test_full_runs_of_the_text_of_median_length_are_measured(clock):
    graph = Graph(clock, linear(1e-5, 1e-3))
    tuned(graph, Overrides(workers=1))
    rows = {min(64, max(1, tokens // LENGTH)) for tokens in (1, *BUDGETS)}
    assert set(graph.shapes) == {(count, LENGTH) for count in rows}


def test_a_graph_that_is_cheaper_than_a_thread_runs_on_the_event_loop(clock, hop):
    hop(1e-4)
    graph = Graph(clock, linear(1e-6, 1e-5))
    assert tuned(graph, Overrides()).workers == 0


def test_a_graph_that_costs_more_than_a_thread_runs_on_threads(clock, hop, rates):
    hop(1e-6)
    rates(lambda tuning: tuning.workers)
    tuning = tuned(Graph(clock, linear(1e-6, 1e-5)), Overrides())
    assert (tuning.workers, tuning.threads) == (2, 1)


@pytest.mark.parametrize(("seconds", "workers"), [(0.002, 0), (0.1, 1)])
def test_a_single_cpu_has_no_threads_unless_runs_are_too_long_for_the_event_loop(clock, hop, seconds, workers):
    hop(1e-6)
    tuning = tuned(Graph(clock, linear(0.0, seconds)), Overrides(batch_tokens=0), cpus=1)
    assert tuning.workers == workers


def test_runs_on_the_event_loop_are_short_even_if_longer_ones_were_faster(clock):
    graph = Graph(clock, linear(5e-5, 3e-3))
    assert tuned(graph, Overrides(workers=1)).limits == Limits(max(BUDGETS))
    limits = tuned(graph, Overrides(workers=0)).limits
    assert limits == Limits(256)
    assert graph.cost(limits.tokens) < 0.02 < graph.cost(2 * limits.tokens)


def test_on_the_event_loop_each_run_costs_a_turn_more(clock):
    graph = Graph(clock, linear(1e-4, 0.0))
    assert tuned(graph, Overrides(workers=1)).limits == ALONE
    assert tuned(graph, Overrides(workers=0)).limits == Limits(128)


@pytest.mark.parametrize(("packed", "workers", "tokens"), [(True, 0, 512), (False, 0, 256), (True, 1, 256)])
def test_of_equally_good_runs_the_event_loop_takes_the_longest_if_packed(clock, rates, packed, workers, tokens):
    rates(lambda tuning: {256: 1000.0, 512: 985.0, 1024: 970.0}.get(tuning.limits.tokens, 900.0))
    graph = Graph(clock, linear(1e-5, 1e-3))
    graph.packed = packed
    assert tuned(graph, Overrides(workers=workers)).limits.tokens == tokens


@pytest.mark.parametrize("packed", [False, True])
def test_a_graph_that_is_packed_gets_limits_that_say_so(clock, packed):
    graph = Graph(clock, linear(1e-5, 1e-2))
    graph.packed = packed
    for overrides in (Overrides(workers=1), Overrides(workers=1, batch_tokens=512)):
        assert tuned(graph, overrides).limits.packed is packed
    assert tuned(graph, Overrides(workers=1), batches=False).limits == ALONE


@pytest.mark.parametrize(
    ("overrides", "cpus", "expected"),
    [
        (Overrides(workers=2, threads=3, batch_tokens=500), 8, (2, 3, Limits(500))),
        (Overrides(workers=2, threads=3, batch_tokens=0), 8, (2, 3, ALONE)),
        (Overrides(workers=0, batch_tokens=64), 8, (0, 1, Limits(64))),
        (Overrides(workers=5, batch_tokens=64), 1, (5, 1, Limits(64))),
    ],
)
def test_nothing_is_measured_if_the_settings_fix_everything(clock, overrides, cpus, expected):
    graph, made = Graph(clock, linear(1e-5, 1e-3)), []
    tuning, chosen = choose(lambda threads: made.append(threads) or graph, TEXTS, overrides, cpus=cpus, batches=True)
    assert (tuning.workers, tuning.threads, tuning.limits) == expected
    assert (made, chosen, graph.shapes) == ([expected[1]], graph, [])


@pytest.mark.parametrize(("threads", "cpus", "workers"), [(2, 8, 4), (3, 8, 2), (8, 4, 1)])
def test_workers_share_the_cpus_that_the_fixed_threads_leave(clock, hop, threads, cpus, workers):
    hop(0.0)
    tuning = tuned(Graph(clock, linear(1e-5, 1e-3)), Overrides(threads=threads, batch_tokens=0), cpus=cpus)
    assert (tuning.workers, tuning.threads) == (workers, threads)


@pytest.mark.parametrize(
    "overrides", [Overrides(workers=1), Overrides(workers=0), Overrides(workers=2, batch_tokens=512)]
)
def test_texts_that_must_not_share_a_run_do_not_whatever_the_settings_say(clock, overrides):
    graph = Graph(clock, linear(1e-5, 1e-2))
    assert tuned(graph, overrides, batches=False).limits == ALONE
    assert {rows for rows, _ in graph.shapes} <= {1}


def test_the_best_of_workers_threads_and_tokens_is_taken_with_its_graph(clock, hop, rates):
    hop(0.0)
    best = (2, 2, Limits(128))
    tried = rates(lambda tuning: 2.0 if (tuning.workers, tuning.threads, tuning.limits) == best else 1.0)
    graphs = {}

    def make(threads):
        return graphs.setdefault(threads, Graph(clock, linear(1e-5, 1e-3)))

    tuning, graph = choose(make, TEXTS, Overrides(), cpus=4, batches=True)
    assert (tuning.workers, tuning.threads, tuning.limits) == best
    assert graph is graphs[2]
    assert {(tuning.workers, tuning.threads) for tuning in tried} == {(4, 1), (2, 2), (1, 4)}
    assert {tuning.limits for tuning in tried} == {ALONE, *map(Limits, BUDGETS)}


@pytest.mark.parametrize("time", [1, 2])
def test_a_disturbance_during_one_measurement_does_not_decide(clock, rates, time):
    seen = []

    def rate(tuning):
        seen.append(tuning)
        disturbed = tuning.limits == Limits(256) and seen.count(tuning) == time
        return 0.1 if disturbed else tuning.limits.tokens if tuning.limits.tokens <= 256 else 1.0

    rates(rate)
    assert tuned(Graph(clock, linear(1e-5, 1e-3)), Overrides(workers=1)).limits == Limits(256)


@pytest.mark.parametrize("overrides", [Overrides(), Overrides(workers=0), Overrides(workers=1)])
def test_other_work_on_the_only_cpu_changes_no_tuning(clock, hop, overrides):
    hop(1e-6)
    cost = linear(5e-5, 3e-3)
    alone, graph = tuned(Graph(clock, cost), overrides, cpus=1), Graph(clock, cost)
    clock.others = 20.0
    tuning = tuned(graph, overrides, cpus=1)
    assert tuning == alone
    assert tuning.cost.seconds(100, 1) == pytest.approx(cost(100), rel=0.05)


def test_on_several_busy_cpus_a_run_is_compared_with_a_hop_that_waits_as_long(clock, hop):
    clock.others = 20.0
    hop(1e-4 * 21)
    assert tuned(Graph(clock, linear(0.0, 5e-4)), Overrides(batch_tokens=0), cpus=2).workers == 2


def test_a_single_worker_is_measured_by_the_time_of_its_own_thread(clock):
    threads = set()

    class Noting(Graph):
        def run(self, rows):
            threads.add(threading.get_ident())
            return super().run(rows)

    tuned(Noting(clock, linear(5e-5, 3e-3)), Overrides(workers=1))
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("shape", [{"workers": 2}, {"workers": 1, "threads": 2}])
def test_several_threads_are_measured_by_wall_clock_time(clock, shape):
    cost = linear(5e-5, 3e-3)
    clock.others = 1.0  # as where each waits for the others
    tuning = tuned(Graph(clock, cost), Overrides(**shape))
    assert tuning.cost.seconds(100, 1) == pytest.approx(2 * cost(100), rel=0.2)


def test_a_gpu_is_measured_by_wall_clock_time(clock):
    cost = linear(5e-5, 3e-3)
    clock.others = 1.0  # as where the thread waits for the GPU
    tuning, _ = choose(lambda _: Graph(clock, cost), TEXTS, Overrides(), cpus=1, batches=True, gpu=True)
    assert tuning.cost.seconds(100, 1) == pytest.approx(2 * cost(100), rel=0.2)


def test_the_measurement_ends_even_if_each_run_takes_long(clock):
    graph = Graph(clock, linear(0.0, 5.0))
    assert tuned(graph, Overrides(workers=1)).limits == ALONE
    assert len(graph.shapes) == 1


def test_every_worker_runs_at_the_same_time(clock):
    together = threading.Barrier(3)

    class Shared(Graph):
        def run(self, rows):
            together.wait(30)
            self.clock.now += 1.0
            return []

    tuned(Shared(clock, None), Overrides(workers=3))


async def test_a_thread_hop_can_be_measured_while_an_event_loop_runs():
    assert 0 < autotune._hop_seconds() < 1


CONDITIONS = Conditions("encoder", "int8", graph_bytes=1000, max_tokens=128, batches=True, cpus=2)


@pytest.mark.parametrize(
    ("change", "like"),
    [
        ({}, True),
        ({"graph_bytes": 1049}, True),
        ({"graph_bytes": 951}, True),
        ({"graph_bytes": 1060}, False),
        ({"graph_bytes": 900}, False),
        ({"family": "static"}, False),
        ({"variant": "fused"}, False),
        ({"max_tokens": 256}, False),
        ({"batches": False}, False),
        ({"cpus": 4}, False),
    ],
)
def test_a_tuning_holds_for_a_graph_of_the_same_kind_and_cost_on_as_many_cpus(change, like):
    assert replace(CONDITIONS, **change).like(CONDITIONS) is like
