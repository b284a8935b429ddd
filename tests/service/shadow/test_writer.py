"""A few rows at a time and a rest, as long as there is time for it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from service.shadow import writer as module
from service.shadow.ledger import Ledger
from service.shadow.settings import ShadowSettings
from service.shadow.writer import BATCH_ROWS, Record, Writer


class Inline:
    """A thread that is the caller's."""

    async def call(self, function, *args):
        return function(*args)


@pytest.fixture
def work(monkeypatch):
    """What is done, in order: texts that are redacted, rests in terms of what was done before, rows that are stored."""
    done, clock = [], [0.0]
    redact = module.redact

    def redacting(text):
        done.append(text)
        clock[0] += 1.0
        return redact(text)

    def sleep(seconds):
        done.append(seconds)

    monkeypatch.setattr(module, "redact", redacting)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    return done


def writing(work, rows):
    outbox = SimpleNamespace(write=lambda rows, totals: work.append([row.text for row in rows]))
    writer = Writer(ShadowSettings(), outbox, Inline(), Ledger(np.full(5, 0.1)), lambda: None)
    for number in range(rows):
        assert writer.offer(Record(str(number), 0.0, f"text {number}", b"", 0, 1.0))
    return writer


def texts(*numbers):
    return [f"text {number}" for number in numbers]


async def test_the_thread_rests_three_times_as_long_as_it_worked_after_four_rows(work):
    await writing(work, 10).flush()
    assert work == [*texts(0, 1, 2, 3), 12.0, *texts(4, 5, 6, 7), 12.0, *texts(8, 9), 6.0, texts(*range(10))]


async def test_it_does_not_rest_while_more_waits_than_a_batch(work):
    writer = writing(work, 2 * BATCH_ROWS)
    await writer.flush()
    assert len(writer) == BATCH_ROWS
    assert work == [*texts(*range(BATCH_ROWS)), texts(*range(BATCH_ROWS))]


async def test_it_does_not_rest_when_it_is_to_end(work):
    writer = writing(work, 10)
    writer.stop()
    await writer.run()
    assert work == [*texts(*range(10)), texts(*range(10))]
