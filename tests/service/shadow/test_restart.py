from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from service.monitor.evalues import EDetector
from tests.support.waiting import until

from .conftest import REFERENCE, VERSION, PlayedTeacher, Shadow, answer, disagree, hang

ROOT = Path(__file__).parents[3]


def counted(shadow: Shadow) -> dict:
    found = shadow.pipeline.gap()
    return {name: found[name] for name in ("counts", "outcomes", "gap", "divergence", "bands", "expected_gap")}


async def test_counts_survive_a_restart(make_shadow):
    shadow = await make_shadow(lambda texts: disagree(texts)).start()
    shadow.observe(30)
    await shadow.process(10, top=0.5)
    before = counted(shadow)
    await shadow.pipeline.stop()
    assert shadow.teacher.closed

    again = await make_shadow().start()
    assert counted(again) == before
    assert again.metric("shadow_sampled_total") == 0  # counters start at zero
    await again.process(5)
    assert again.pipeline.gap()["counts"] == {"requests": 45, "sampled": 45, "compared": 45, "disagreements": 40}


async def leave_pending(shadow: Shadow, count: int) -> None:
    """Observe `count` texts and stop, with all of them on disk and none answered."""
    await shadow.start()
    shadow.observe(count)
    await until(lambda: len(shadow.rows()) == count)  # the time to stop may not suffice to write them
    await shadow.pipeline.stop()


async def test_pending_rows_are_resumed(make_shadow):
    shadow = make_shadow(hang, stop_seconds=1.0, concurrency=3)
    await leave_pending(shadow, 20)
    assert shadow.outcomes() == {}
    assert shadow.unaccounted() == 0

    again = make_shadow()
    await again.start()
    assert again.metric("shadow_resumed_total") == 20
    assert again.unaccounted() == 0
    await again.settled()
    assert again.outcomes() == {"completed": 20}
    assert again.pipeline.gap()["counts"]["sampled"] == again.pipeline.gap()["counts"]["requests"] == 20


@pytest.mark.parametrize(
    ("settings", "count", "counts", "dropped"),
    [
        ({"queue_rows": 5}, 12, {"requests": 12, "sampled": 12, "compared": 5, "disagreements": 0}, 7),
        ({"rate": 1e-9}, 9, {"requests": 9, "sampled": 0, "compared": 0, "disagreements": 0}, 0),
    ],
    ids=["dropped", "not sampled"],
)
async def test_texts_without_rows_are_remembered_too(make_shadow, settings, count, counts, dropped):
    shadow = await make_shadow(**settings).start()
    await shadow.process(count)
    await shadow.pipeline.stop()
    found = (await make_shadow().start()).pipeline.gap()
    assert found["counts"] == counts
    assert found["outcomes"]["queue_full"] == dropped


async def test_another_version_starts_at_zero(make_shadow):
    shadow = await make_shadow().start()
    await shadow.process(3)
    await shadow.pipeline.stop()
    other = await make_shadow(version="another").start()
    assert other.pipeline.gap()["counts"]["requests"] == 0
    await other.pipeline.stop()
    again = await make_shadow(version=VERSION).start()
    assert again.pipeline.gap()["counts"]["compared"] == 3


async def test_another_teacher_starts_at_zero_and_gets_the_pending_rows(make_shadow):
    await leave_pending(make_shadow(hang, stop_seconds=1.0), 4)
    other = await make_shadow(PlayedTeacher(version="2")).start()
    await other.settled()
    assert other.pipeline.gap()["counts"]["compared"] == 4
    assert {teacher for (teacher,) in other.rows("teacher")} == {"played@2"}


async def some_disagree(texts):
    return [answer("shipping" if texts[0].endswith("3") else "billing")]


def evidence(shadow: Shadow) -> tuple:
    ledger = shadow.pipeline._ledger
    return ledger.detector.evidence, ledger.last_comparison, ledger.history.pairs


async def test_the_detector_goes_on_after_a_restart(make_shadow):
    shadow = await make_shadow(some_disagree, concurrency=8).start()
    for top in (0.97, 0.5, 0.9999):
        await shadow.process(25, top=top)
    before = evidence(shadow)
    await shadow.pipeline.stop()
    again = await make_shadow(some_disagree, concurrency=8).start()
    assert evidence(again) == before
    await again.process(20)
    before = evidence(again)
    await again.pipeline.stop()
    assert evidence(await make_shadow().start()) == before


async def test_rows_deleted_by_retention_change_neither_counts_nor_evidence(make_shadow):
    shadow = await make_shadow(some_disagree).start()
    await shadow.process(40)
    before = counted(shadow), evidence(shadow)
    await shadow.pipeline.stop()
    again = await make_shadow(some_disagree, retention_days=1e-9).start()
    await until(lambda: again.rows() == [])
    assert (counted(again), evidence(again)) == before
    await again.process(30)
    before = counted(again), evidence(again)
    await again.pipeline.stop()
    last = await make_shadow().start()
    assert (counted(last), evidence(last)) == before
    assert len(last.rows()) == 30  # the next deletion would have come an hour later


async def test_rows_without_an_outcome_are_kept(make_shadow):
    await leave_pending(make_shadow(hang, stop_seconds=1.0), 8)
    again = await make_shadow(hang, retention_days=1e-9, stop_seconds=0.2).start()
    await until(lambda: again.metric("shadow_inflight") > 0)
    assert len(again.rows()) == 8


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.service.shadow.conftest import VERSION, PlayedTeacher, Shadow, ShadowSettings, answer

class Writing(PlayedTeacher):
    async def ask(self, texts, repeat=0):
        await asyncio.sleep(0.001)
        return [answer("shipping" if texts[0].endswith("3") else "billing")]

async def main(path):
    settings = ShadowSettings(enabled=True, teacher={}, rate=1.0, path=path, flush_seconds=0.01, concurrency=4)
    shadow = await Shadow(settings, Writing(), VERSION, None).start()
    while True:
        shadow.observe(3)
        print(int(shadow.metric("requests_total")), int(shadow.metric("shadow_compared_total")), flush=True)
        await asyncio.sleep(0.002)

asyncio.run(main(Path(sys.argv[1])))
"""


def killed(path: Path, comparisons: int) -> tuple[int, int]:
    """Return the requests and comparisons that a process had counted when it was killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as child:
        assert child.stdout is not None
        line = "0 0"
        for line in child.stdout:
            if int(line.split()[1]) >= comparisons:
                break
        child.send_signal(signal.SIGKILL)
        # What was printed between the decision and the end counts as well.
        *_, line = [line, *(rest for rest in child.stdout if rest.endswith("\n"))]
    requests, compared = map(int, line.split())
    return requests, compared


async def test_a_killed_process_loses_no_row_and_counts_none_twice(make_shadow, directory):
    path = directory / "shadow.sqlite"
    requests, compared = 0, 0
    for _ in range(2):
        asked, answered = killed(path, 40)
        requests, compared = requests + asked, compared + answered

    with sqlite3.connect(path) as reader:
        stored = reader.execute("SELECT id, text, outcome, agree FROM rows").fetchall()
        compared_rows = reader.execute("SELECT band, agree FROM rows WHERE agree NOT NULL ORDER BY finished").fetchall()
    expected = EDetector(REFERENCE.null)
    for band, agree in compared_rows:
        expected.update(band, not agree)
    assert len({key for key, *_ in stored}) == len(stored)
    ended = {key: (outcome, agree) for key, _, outcome, agree in stored if outcome}
    assert len(ended) >= compared  # what was counted had been stored

    shadow = make_shadow()
    await shadow.start()
    found = shadow.pipeline.gap()
    assert evidence(shadow)[0] == expected.evidence
    assert sum(evidence(shadow)[2].values()) == len(ended)
    assert found["counts"]["compared"] == len(ended)
    assert found["counts"]["disagreements"] == sum(agree == 0 for _, agree in ended.values())
    assert found["counts"]["sampled"] == len(stored)
    assert len(stored) <= found["counts"]["requests"] <= requests
    assert shadow.metric("shadow_resumed_total") == len(stored) - len(ended)
    await shadow.settled()
    after = {key: (outcome, agree) for key, outcome, agree in shadow.rows("id, outcome, agree")}
    assert after.keys() == {key for key, *_ in stored}
    assert ended.items() <= after.items()
    assert set(shadow.teacher.asked) == {text for _, text, outcome, _ in stored if not outcome}
    assert shadow.pipeline.gap()["counts"]["compared"] == len(stored)
    json.dumps(shadow.pipeline.gap(), allow_nan=False)
    assert shadow.unaccounted() == pytest.approx(0)
