"""A scheduler of its own for each test."""

import pytest

from tests.support.scheduling import Bench, stop_clock


@pytest.fixture
async def start():
    """`start(**options)`: a bench whose scheduler runs; with `workers=0` its gate is open."""
    benches = []

    def make(graph=None, **options):
        bench = Bench(graph, **options)
        if options.get("workers") == 0 and graph is None:
            bench.graph.gate.set()
        bench.scheduler.start()
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        await bench.close()


@pytest.fixture
def clock(monkeypatch):
    return stop_clock(monkeypatch)
