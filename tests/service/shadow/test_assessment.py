"""From counts to the verdict, through the pipeline: what turns a student's verdict, and what does not."""

from __future__ import annotations

import math
import time
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from distill.teachers import Answer
from export.bundle.format import Manifest
from service.monitor import verdict as verdicts
from service.monitor.cells import SLOT_SECONDS
from service.process.parts import whole as run_whole
from service.shadow import assessment, metrics
from service.shadow.assessment import other_teacher
from service.shadow.history import COLUMNS
from service.shadow.outbox.rows import TeacherIdentity
from service.shadow.slots import Key, slot_of
from service.telemetry.metrics import render

from .conftest import LABELS, PlayedTeacher, agree, answer, disagree, hang


def later(monkeypatch, seconds):
    """Let the report and the metrics be read `seconds` from now, and time stand still for them."""
    now = time.time() + seconds
    for module in (assessment, metrics):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: now))


async def calm(shadow):
    """Have 200 texts compared that are as those of validation were."""
    for count, top in ((60, 0.999), (60, 0.98), (40, 0.93), (20, 0.75), (20, 0.5)):
        shadow.observe(count, top=top)
    await shadow.settled()


async def test_a_calm_student_is_certified(make_shadow):
    shadow = await make_shadow().start()
    await calm(shadow)
    found = shadow.pipeline.gap()
    assert (found["verdict"], found["cause"], found["blind"]) == ("stay", None, [])
    assert found["evidence"]["log_certify"] > found["evidence"]["certify_at"]
    assert shadow.metric("gap_verdict") == 0
    assert shadow.metric("gap_window_compared", window="1h") == 200


async def test_a_student_that_mostly_disagrees_must_leave(make_shadow):
    shadow = await make_shadow(disagree).start()
    await shadow.process(40)
    found = shadow.pipeline.gap()
    assert (found["verdict"], found["cause"]) == ("leave", "student")
    assert found["evidence"]["log_evalue"] > found["evidence"]["page_at"]
    assert shadow.metric("gap_verdict") == 2


async def test_leave_is_held_while_the_evidence_is_strong_or_the_last_day_is_bad(make_shadow, monkeypatch):
    shadow = await make_shadow(disagree).start()
    await shadow.process(40)
    assert shadow.pipeline.gap()["verdict"] == "leave"
    strong = shadow.pipeline.gap()["evidence"]["log_evalue"]
    monkeypatch.setattr(shadow.pipeline._ledger, "edetector_threshold", lambda now: math.inf)
    monkeypatch.setattr(verdicts, "LOG_PAGE", strong + 1)
    for ticket in (strong - 1, strong + 1):
        monkeypatch.setattr(verdicts, "LOG_TICKET", ticket)
        assert shadow.pipeline.gap()["verdict"] == "leave"
    later(monkeypatch, 2 * 86400)
    assert shadow.pipeline.gap()["verdict"] == "watch", "no bad answer is in the last day"


async def test_the_slo_is_that_of_the_bundle_unless_a_setting_gives_another(make_shadow):
    assert make_shadow().pipeline.gap()["slo"]["source"] == "bundle"
    strict = make_shadow(gap_slo=0.02)
    assert strict.pipeline.gap()["slo"] == {"ratio": 0.02, "source": "setting"}
    assert strict.metric("gap_slo") == 0.02
    for wrong in (0.0, 1.0):
        with pytest.raises(ValueError, match="gap_slo"):
            make_shadow(gap_slo=wrong)


async def test_a_teacher_that_says_nothing_blinds_after_two_minutes(make_shadow, monkeypatch):
    shadow = await make_shadow(hang).start()
    shadow.observe(12)
    assert shadow.pipeline.gap()["verdict"] == "watch"
    later(monkeypatch, 130)
    found = shadow.pipeline.gap()
    assert found["verdict"] == "blind"
    assert "No text was compared for 2 minutes, although 12 were sampled" in found["message"]


async def test_a_verdict_has_its_time_until_another_one_is_given(make_shadow, monkeypatch):
    shadow = await make_shadow(hang).start()
    shadow.observe(12)
    began = shadow.pipeline.gap()["verdict_since"]
    assert began == pytest.approx(time.time(), abs=60)
    later(monkeypatch, 60)
    assert shadow.pipeline.gap()["verdict_since"] == began
    later(monkeypatch, 130)
    assert shadow.pipeline.gap()["verdict_since"] == pytest.approx(began + 130, abs=10)


async def test_traffic_that_stops_does_not_blind(make_shadow, monkeypatch):
    shadow = await make_shadow().start()
    await calm(shadow)
    later(monkeypatch, 86_400)
    found = shadow.pipeline.gap()
    assert found["verdict"] == "stay"
    assert found["last_comparison_age_seconds"] == pytest.approx(86_400, abs=60)
    assert found["windows"]["1h"]["requests"] == 0


async def test_a_spent_budget_blinds(make_shadow):
    async def dear(texts):
        return [answer("billing", cost_usd=1.0)]

    shadow = await make_shadow(dear, usd_per_hour=10.0, concurrency=1).start()
    await calm(shadow)
    found = shadow.pipeline.gap()
    assert found["verdict"] == "blind"
    assert "raise shadow.usd_per_hour" in found["message"]
    assert found["losses"]["by_outcome"]["budget"] > 150


async def test_refused_disagreements_do_not_make_a_bad_student_stay(make_shadow):
    async def shy(texts):
        number = int(texts[0].split()[1])
        if number % 10 < 4:  # a gap of 40 %, of which 30 % is refused
            return [Answer(None, "logprobs", outcome="refused") if number % 100 < 30 else answer("shipping")]
        return [answer("billing")]

    shadow = await make_shadow(shy).start()
    await shadow.process(300)
    assert shadow.pipeline.gap()["verdict"] == "leave"


@pytest.mark.parametrize(
    ("learned", "other"),
    [
        ({}, False),
        ({"name": "played"}, False),
        ({"name": "played", "version": "1"}, False),
        ({"name": "played", "version": "2"}, True),
        ({"name": "local:large", "version": "1"}, True),
    ],
)
def test_a_teacher_other_than_that_of_the_bundle_is_named(learned, other):
    manifest = Manifest("tiny", "tiny", LABELS, 32, "fp32", 1.0, {}, "0123", teacher=learned)
    message = other_teacher(manifest, TeacherIdentity("played", "1", ("played", "1")))
    assert (message is not None) == other
    assert message is None or "set shadow.teacher to that one" in message


@pytest.mark.parametrize(("version", "verdict"), [("7", "stay"), ("8", "blind")])
async def test_the_bundle_of_a_teacher_stands_for_it(make_shadow, version, verdict):
    teacher = PlayedTeacher(name="bundle:large")
    teacher.origin = ("played", version)
    shadow = make_shadow(teacher)
    shadow.pipeline._manifest.teacher.update(name="played", version="7")
    await shadow.start()
    await calm(shadow)
    assert shadow.pipeline.gap()["verdict"] == verdict


async def test_another_teacher_blinds(make_shadow):
    shadow = make_shadow(PlayedTeacher(agree, name="other"))
    shadow.pipeline._manifest.teacher["name"] = "played"
    await shadow.start()
    await calm(shadow)
    found = shadow.pipeline.gap()
    assert found["verdict"] == "blind"
    assert "other@1" in found["message"]


async def test_a_budget_that_is_spent_blinds_within_five_minutes(make_shadow):
    shadow = await make_shadow().start()
    history, running = shadow.pipeline._ledger.history, slot_of(time.time())
    history.turn(time.time())

    def load(slot, **counts):
        values = {"requests": 200, "expected": 4, "sampled": 20} | counts
        history.load([(slot, 1, 1.0, *(values.get(name, 0) for name in COLUMNS))], [])

    for slots_ago in range(1, 60):
        load(running - SLOT_SECONDS * slots_ago, agreed=20)
    assert shadow.pipeline.gap()["verdict"] == "stay"
    load(running, budget=20)
    found = shadow.pipeline.gap()
    assert found["verdict"] == "blind"
    assert "50.0 % of the newest samples" in found["message"]
    assert "budget 20" in found["message"]


async def test_a_report_in_parts_is_of_the_counts_with_which_it_began(make_shadow, monkeypatch):
    shadow = await make_shadow().start()
    await calm(shadow)
    later(monkeypatch, 0.0)
    whole, parts, count = shadow.pipeline.gap("1h"), shadow.pipeline.gap_parts("1h"), 0
    try:
        while True:
            next(parts)
            count += 1
            shadow.observe(5, top=0.7)
            shadow.pipeline._ledger.history.add_pair(Key(slot_of(time.time()), 0, 1.0), 0, 1)
    except StopIteration as done:
        found = done.value
    assert count > 10
    changing = ("queue", "cost", "drift")  # of now
    assert {name: found[name] for name in found.keys() - changing} == {
        name: whole[name] for name in whole.keys() - changing
    }


async def test_a_history_in_parts_is_of_the_counts_with_which_it_began(make_shadow, monkeypatch):
    shadow = await make_shadow().start()
    await calm(shadow)
    later(monkeypatch, 0.0)
    whole, parts, count = shadow.pipeline.gap_history("6h"), shadow.pipeline.gap_history_parts("6h"), 0
    try:
        while True:
            next(parts)
            count += 1
            shadow.observe(5, top=0.7)
    except StopIteration as done:
        found = done.value
    assert found == whole
    assert whole["points"]
    assert count >= 5


async def test_metrics_prepared_in_parts_are_those_collected_at_once(make_shadow, monkeypatch):
    shadow = await make_shadow().start()
    await calm(shadow)
    later(monkeypatch, 0.0)
    models = {"v": [shadow.registry]}
    at_once = run_whole(render(CollectorRegistry(), models))
    run_whole(shadow.pipeline.prepare_metrics())
    assert run_whole(render(CollectorRegistry(), models)) == at_once
    assert b"reflux_gap_verdict" in at_once


async def test_a_student_that_had_to_leave_must_leave_after_a_restart_too(make_shadow, monkeypatch):
    shadow = await make_shadow(disagree).start()
    await shadow.process(40)
    first = shadow.pipeline.gap()
    assert first["verdict"] == "leave"
    await shadow.pipeline.stop()
    again = await make_shadow().start()
    # The evidence alone would be no more than a reason to watch.
    evidence = first["evidence"]["ticket_at"], first["evidence"]["log_evalue"]
    monkeypatch.setattr(again.pipeline._ledger, "edetector_threshold", lambda now: math.inf)
    monkeypatch.setattr(verdicts, "LOG_PAGE", evidence[1] + 1.0)
    found = again.pipeline.gap()
    assert (found["verdict"], found["verdict_since"]) == ("leave", pytest.approx(first["verdict_since"]))
    monkeypatch.setattr(verdicts, "LOG_TICKET", evidence[1] + 1.0)
    later(monkeypatch, 2 * 86400.0)
    assert again.pipeline.gap()["verdict"] != "leave"
    await again.pipeline.stop()
    monkeypatch.undo()
    last = await make_shadow().start()
    assert last.pipeline._ledger.left is None
