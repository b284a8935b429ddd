"""Every fault of a teacher becomes one outcome per text, and disturbs no request."""

import asyncio
import math
from typing import Any, cast

import httpx
import numpy as np
import pytest
import structlog

from distill.teachers import Answer, TeacherError
from service.shadow.ledger import Ledger
from service.telemetry.logging import describe
from tests.support.fragile_tokenizer import PanicException
from tests.support.http_server import serving
from tests.support.waiting import until

from .conftest import PlayedTeacher, agree, answer, hang


def returns(value):
    async def reply(texts):
        return value

    return reply


def raises(error):
    async def reply(texts):
        raise error

    return reply


async def cancelled_inside(texts):
    raise asyncio.CancelledError


PROPER = answer().probabilities
PRICE = {"input": 1, "output": 1}

FAULTS = {
    "hangs": (hang, "timeout"),
    "refuses every call": (raises(TeacherError("wrong key")), "teacher_error"),
    "is never reachable": (raises(TeacherError("refused", retryable=True)), "teacher_error"),
    "has a defect": (raises(ZeroDivisionError("oops")), "teacher_error"),
    "panics": (raises(PanicException("oops")), "teacher_error"),
    "times out by itself": (raises(TimeoutError()), "timeout"),
    "cancels itself": (cancelled_inside, "teacher_error"),
    "refuses a text": (returns([Answer(None, "logprobs", outcome="refused")]), "refused"),
    "will not take a text": (returns([Answer(None, "logprobs", outcome="invalid", reason="too long")]), "refused"),
    "names no label": (returns([Answer(None, "logprobs", outcome="invalid")]), "invalid_answer"),
    "says ok without an answer": (returns([Answer(None, "logprobs")]), "invalid_answer"),
    "answers nothing": (returns(None), "invalid_answer"),
    "answers no text": (returns([]), "invalid_answer"),
    "answers twice": (returns([answer(), answer()]), "invalid_answer"),
    "answers words": (returns("x"), "invalid_answer"),
    "answers too few labels": (returns([Answer(PROPER[:2], "local")]), "invalid_answer"),
    "answers in two dimensions": (returns([Answer(PROPER[None], "local")]), "invalid_answer"),
    "answers NaN": (returns([Answer(PROPER * math.nan, "local")]), "invalid_answer"),
    "answers infinity": (returns([Answer(PROPER * math.inf, "local")]), "invalid_answer"),
    "answers below zero": (returns([Answer(np.array([1.5, -0.5, 0.0], np.float32), "local")]), "invalid_answer"),
    "answers half": (returns([Answer(PROPER * np.float32(0.5), "local")]), "invalid_answer"),
    "answers strings": (returns([Answer(cast(Any, ["a", "b", "c"]), "local")]), "invalid_answer"),
    "asks for strange money": (returns([answer(cost_usd=math.nan, tokens=10**30)]), "completed"),
}


@pytest.mark.parametrize(("reply", "outcome"), FAULTS.values(), ids=FAULTS)
async def test_every_fault_has_its_outcome(make_shadow, reply, outcome):
    shadow = await make_shadow(reply, deadline_seconds=0.05).start()
    await shadow.process(3)
    assert shadow.outcomes() == {outcome: 3}
    assert [found for (found,) in shadow.rows("outcome")] == [outcome] * 3
    assert shadow.metric("requests_total") == 3
    assert shadow.metric("shadow_compared_total") == (3 if outcome == "completed" else 0)
    assert shadow.metric("shadow_teacher_seconds_count", outcome=outcome) == 3
    assert shadow.metric("shadow_cost_usd_total") == 0

    shadow.teacher.reply = agree  # it recovers
    await shadow.process()
    assert shadow.outcomes()["completed"] == (4 if outcome == "completed" else 1)


async def test_requests_do_not_wait_for_a_hanging_teacher(make_shadow):
    shadow = await make_shadow(hang, deadline_seconds=1000.0, queue_rows=50, stop_seconds=0.2).start()
    shadow.observe(200)  # without a single turn of the event loop
    assert shadow.metric("requests_total") == 200
    assert shadow.outcomes() == {"queue_full": 150}
    await until(lambda: shadow.metric("shadow_inflight") == shadow.settings.concurrency)
    shadow.observe(10)
    assert shadow.metric("requests_total") == 210
    assert shadow.metric("shadow_oldest_age_seconds") > 0
    assert shadow.unaccounted() == 0


async def test_the_queue_is_bounded_in_bytes(make_shadow):
    shadow = await make_shadow(queue_bytes=10_000).start()
    shadow.observe(5, text="x" * 4000)
    assert shadow.outcomes() == {"queue_full": 3}
    await shadow.settled()
    await shadow.process(1, text="x" * 4000)
    assert shadow.outcomes() == {"queue_full": 3, "completed": 3}


async def test_pending_rows_are_bounded(make_shadow):
    shadow = await make_shadow(hang, deadline_seconds=1000.0, backlog_rows=10, concurrency=1, stop_seconds=0.2).start()
    shadow.observe(8)
    await until(lambda: shadow.metric("shadow_inflight") == 1 and len(shadow.rows()) == 8)
    shadow.observe(8)
    assert shadow.outcomes() == {"queue_full": 5}
    assert shadow.metric("shadow_queue_depth") == 10


async def test_stop_ends_though_the_teacher_hangs(make_shadow):
    shadow = await make_shadow(hang, deadline_seconds=1000.0, stop_seconds=0.3).start()
    shadow.observe(5)
    await until(lambda: shadow.metric("shadow_inflight") > 0)
    async with asyncio.timeout(20):
        await shadow.pipeline.stop()
    assert shadow.unaccounted() == 0
    assert shadow.metric("shadow_inflight") == 0  # they wait for the next start
    assert [outcome for (outcome,) in shadow.rows("outcome")] == [None] * 5


async def test_stop_ends_though_the_teacher_cannot_be_cancelled(make_shadow):
    release = asyncio.Event()

    async def stubborn(texts):
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue
        return [answer()]

    teacher = PlayedTeacher(stubborn)
    teacher.aclose = lambda: stubborn([])  # type: ignore[method-assign]
    shadow = await make_shadow(teacher, deadline_seconds=1000.0, stop_seconds=0.3).start()
    shadow.observe(5)
    await until(lambda: shadow.metric("shadow_inflight") > 0)
    async with asyncio.timeout(20):
        await shadow.pipeline.stop()
    assert shadow.unaccounted() == 0
    release.set()


@pytest.mark.parametrize(
    ("failures", "retryable", "calls", "outcome"),
    [(1, True, 2, "completed"), (9, True, 2, "teacher_error"), (1, False, 1, "teacher_error")],
)
async def test_a_retryable_error_is_tried_once_more(make_shadow, failures, retryable, calls, outcome):
    async def fails_first(texts):
        if shadow.teacher.asked.count(texts[0]) <= failures:
            raise TeacherError("busy", retryable=retryable)
        return [answer()]

    shadow = await make_shadow(fails_first).start()
    await shadow.process(2)
    assert shadow.outcomes() == {outcome: 2}
    assert len(shadow.teacher.asked) == 2 * calls


async def test_a_server_that_is_down_is_no_timeout(make_shadow):
    """Nothing listens on port 9. Six attempts, the default elsewhere, take longer than this deadline on any machine."""
    down = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "usd_per_million": PRICE}
    shadow = make_shadow(teacher=down, deadline_seconds=11.0)
    await shadow.pipeline.start()
    await shadow.process(2)
    assert shadow.outcomes() == {"teacher_error": 2}


async def test_a_server_that_asks_for_a_long_pause_keeps_no_call_waiting(make_shadow):
    asked = []
    async with serving(lambda request: asked.append(1) or httpx.Response(429, headers={"retry-after": "3000"})) as it:
        busy = {"kind": "openai", "model": "m", "base_url": f"{it.url}/v1", "usd_per_million": PRICE}
        shadow = make_shadow(teacher=busy, deadline_seconds=50.0, concurrency=1)
        await shadow.pipeline.start()
        shadow.observe(3)
        await until(lambda: asked and shadow.metric("shadow_inflight") == 0)
        await until(lambda: len(shadow.rows("seq")) == 3)
        assert (len(asked), shadow.outcomes(), shadow.metric("shadow_queue_depth")) == (1, {}, 3)


async def test_while_the_server_asks_for_no_calls_texts_wait_in_the_outbox_and_a_stop_does_not(make_shadow):
    shadow = make_shadow(agree)
    shadow.teacher.held = 3600.0
    await shadow.start()
    shadow.observe(5)
    await until(lambda: len(shadow.rows("seq")) == 5)
    assert shadow.teacher.asked == []
    assert shadow.outcomes() == {}
    assert shadow.unaccounted() == 0

    shadow.teacher.held = 0.0
    await shadow.process()  # whose row wakes the worker, as the end of the wait would
    assert shadow.outcomes() == {"completed": 6}

    shadow.teacher.held = 3600.0
    shadow.observe(2)
    await until(lambda: len(shadow.rows("seq")) == 8)
    async with asyncio.timeout(4):
        await shadow.pipeline.stop()
    assert shadow.teacher.closed


@pytest.mark.parametrize("failing", [hang, raises(TeacherError("slow down", retryable=True))], ids=["late", "at once"])
async def test_texts_in_flight_when_the_server_asks_for_no_calls_are_requeued(make_shadow, failing):
    async def busy(texts):
        shadow.teacher.held = 3600.0
        return await failing(texts)

    shadow = make_shadow(busy, concurrency=25, deadline_seconds=0.05)
    shadow.teacher.held = 0.0
    await shadow.start()
    shadow.observe(30)
    await until(lambda: shadow.teacher.asked and shadow.metric("shadow_inflight") == 0)
    await until(lambda: len(shadow.rows("seq")) == 30)
    assert shadow.outcomes() == {}
    assert shadow.metric("shadow_breaker_state") == 0
    assert shadow.metric("shadow_queue_depth") == 30
    assert shadow.metric("shadow_oldest_age_seconds") > 0
    assert shadow.unaccounted() == 0

    shadow.teacher.held, shadow.teacher.reply = 0.0, agree
    await shadow.process()  # whose row wakes the worker, as the end of the wait would
    assert shadow.outcomes() == {"completed": 31}
    assert [outcome for (outcome,) in shadow.rows("outcome")] == ["completed"] * 31


async def test_the_breaker_stops_calls_to_a_failing_teacher(make_shadow):
    async def once(texts):
        if len(shadow.teacher.asked) > 1:
            raise TeacherError("down")
        return [answer(cost_usd=1.0)]

    shadow = await make_shadow(once, concurrency=1, usd_per_hour=50.0).start()
    await shadow.process(50)
    # Failures and calls not made cost nothing, so the budget never ends.
    assert shadow.outcomes() == {"completed": 1, "teacher_error": 19, "breaker_open": 30}
    assert len(shadow.teacher.asked) == 20
    assert shadow.metric("shadow_breaker_state") == 2


@pytest.mark.parametrize(
    "refusal",
    [Answer(None, "logprobs", outcome="refused"), Answer(None, "logprobs", outcome="invalid", reason="too long")],
)
async def test_refusals_do_not_open_the_breaker(make_shadow, refusal):
    shadow = await make_shadow(returns([refusal])).start()
    await shadow.process(50)
    assert shadow.outcomes() == {"refused": 50}


async def test_calls_stop_at_the_budget(make_shadow):
    shadow = await make_shadow(returns([answer(cost_usd=1.0, tokens=5)]), usd_per_hour=50.0, concurrency=1).start()
    await shadow.process(20)
    assert shadow.outcomes() == {"completed": 5, "budget": 15}
    assert shadow.metric("shadow_cost_usd_total", teacher="played") == 5.0
    assert shadow.metric("shadow_tokens_total") == 25
    assert shadow.metric("shadow_budget_usd_per_hour") == 50.0
    assert shadow.pipeline.gap()["cost"]["usd_per_1000_comparisons"] == 1000.0


async def test_a_call_that_timed_out_keeps_its_reservation(make_shadow):
    async def once(texts):
        return [answer(cost_usd=1.0)] if len(shadow.teacher.asked) == 1 else await hang(texts)

    shadow = await make_shadow(once, usd_per_hour=50.0, concurrency=1, deadline_seconds=0.01).start()
    await shadow.process(10)
    assert shadow.outcomes() == {"completed": 1, "timeout": 4, "budget": 5}


async def test_the_cost_of_a_refusal_is_counted(make_shadow):
    shadow = await make_shadow(returns([Answer(None, "logprobs", outcome="refused", cost_usd=0.5)])).start()
    await shadow.process(2)
    assert shadow.metric("shadow_cost_usd_total") == 1.0


async def test_an_answer_is_stored_before_it_is_counted(make_shadow, monkeypatch):
    shadow = await make_shadow(concurrency=1).start()
    counted = Ledger.finish
    seen = []

    def finish(self, key, outcome):
        seen.append([stored for (stored,) in shadow.rows("outcome")].count("completed"))
        counted(self, key, outcome)

    monkeypatch.setattr(Ledger, "finish", finish)
    await shadow.process(3)
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("kind", [TeacherError, ZeroDivisionError, PanicException])
async def test_a_teacher_s_error_message_is_not_logged(make_shadow, kind):
    with structlog.testing.capture_logs() as log:
        shadow = await make_shadow(raises(kind("it repeats the canary"))).start()
        await shadow.process(1)
    (line,) = (line for line in log if line["event"] == "teacher failed")
    error = line.pop("exc_info", None)
    told = f"{line}{describe(error) if error else ''}"
    assert kind.__name__ in told
    assert "canary" not in told
