"""After enough live comparisons the ceilings are lowered, once, for later requests, and for good."""

from __future__ import annotations

import math

import numpy as np
import pytest

from export.bundle.ceilings import tightened
from service.shadow import tightening
from service.shadow.outbox.store import Outbox
from tests.support.waiting import until

from .conftest import REFERENCE, Shadow, answer


async def few_disagree(texts):
    return [answer("shipping" if texts[0].endswith("77") else "billing")]


@pytest.fixture
def enough(monkeypatch) -> int:
    monkeypatch.setattr(tightening, "ENOUGH", 60)
    return 60


def nulls(shadow: Shadow) -> list[list[float]]:
    return [null.tolist() for _, null in shadow.pipeline._ledger.ceilings]


async def test_ceilings_are_lowered_once_from_the_first_comparisons(make_shadow, enough):
    shadow = await make_shadow(few_disagree, concurrency=4).start()
    await shadow.process(enough - 1, top=0.5)
    assert nulls(shadow) == [REFERENCE.null.tolist()]
    await shadow.process(20, top=0.5)
    await until(lambda: len(nulls(shadow)) == 2)
    ledger = shadow.pipeline._ledger
    assert (ledger.null <= REFERENCE.null).all()
    assert ledger.null[4] < 0.3 < REFERENCE.null[4] == 0.55
    (_, _), (since, _) = ledger.ceilings
    assert (ledger.history.cells().slot < since).all()  # what they come from is not judged by them
    await shadow.process(3 * enough)
    assert len(nulls(shadow)) == 2


async def test_alerting_rules_get_the_lowered_ceilings(make_shadow, enough):
    shadow = await make_shadow(few_disagree, concurrency=4).start()
    labels = {"band": "b4", "alt": "1.5", "agree": "false"}
    before = shadow.metric("gap_llr", **labels)
    assert before == pytest.approx(math.log(min(1.5, (1 + 1 / 0.55) / 2)))
    await shadow.process(enough + 20, top=0.5)
    await until(lambda: len(nulls(shadow)) == 2)
    assert shadow.metric("gap_llr", **labels) == pytest.approx(math.log(1.5))


async def test_lowered_ceilings_and_their_detector_outlive_the_process(make_shadow, enough):
    shadow = await make_shadow(few_disagree, concurrency=4).start()
    await shadow.process(enough + 40, top=0.5)
    before = shadow.pipeline._ledger
    await until(lambda: len(before.ceilings) == 2)
    await shadow.pipeline.stop()
    again = (await make_shadow(few_disagree).start()).pipeline._ledger
    assert [since for since, _ in again.ceilings] == [since for since, _ in before.ceilings]
    assert again.null.tolist() == before.null.tolist()
    assert again.detector.evidence == before.detector.evidence
    assert again.compared == before.compared == enough + 40


async def test_a_disk_fault_leaves_the_ceilings_until_it_works_again(make_shadow, enough, monkeypatch):
    works, attempts = Outbox.tighten, []

    def fails(*args):
        attempts.append(1)
        raise OSError("no")

    monkeypatch.setattr(Outbox, "tighten", fails)
    shadow = await make_shadow(few_disagree).start()
    await shadow.process(enough + 3)
    await until(lambda: len(attempts) >= 3)
    assert len(nulls(shadow)) == 1
    monkeypatch.setattr(Outbox, "tighten", works)
    await shadow.process(1)
    await until(lambda: len(nulls(shadow)) == 2)


def test_no_ceiling_rises():
    compared = np.full(5, 200.0)
    null = tightened(REFERENCE.null, compared * 0.9, compared)
    assert null.tolist() == REFERENCE.null.tolist()
