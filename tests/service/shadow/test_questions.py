"""A person may ask the teacher about a text: within the budget, a few a minute, and no count knows of it."""

import asyncio

import pytest

from distill.teachers import TeacherError
from service.errors import InvalidRequestError, NotReadyError, RateLimitedError
from service.shadow.questions import PER_MINUTE
from tests.support.clock import Clock
from tests.support.waiting import until

from .conftest import PlayedTeacher, answer, hang


def counts(shadow):
    body = shadow.pipeline.gap()
    return body["counts"], body["outcomes"], body["cost"]["usd"]


async def test_the_answer_names_the_labels_the_cost_and_what_was_sent(make_shadow):
    async def reply(texts):
        return [answer("shipping", cost_usd=0.002)]

    shadow = await make_shadow(reply).start()
    said = await shadow.pipeline.ask("write to anna@example.org")
    assert (said["outcome"], said["cost_usd"]) == ("completed", 0.002)
    assert shadow.teacher.asked == [said["text"]] == ["write to <EMAIL>"]
    assert said["top"][0]["label"] == "shipping"
    assert said["top"][0]["score"] == pytest.approx(0.98)


async def test_the_answer_is_calibrated_as_the_student_learned_it(make_shadow):
    calibration = {"method": "bias", "scale": [1.0, 1.0, 1.0], "bias": [0.0, 9.0, 0.0]}
    shadow = await make_shadow(calibration=calibration).start()
    assert (await shadow.pipeline.ask("a text"))["top"][0]["label"] == "shipping"


async def test_no_count_knows_of_it(make_shadow):
    shadow = await make_shadow().start()
    await shadow.process(3)
    before = counts(shadow)
    await shadow.pipeline.ask("a text")
    assert counts(shadow) == before
    assert len(shadow.rows()) == 3


async def test_a_failure_is_an_outcome_without_labels(make_shadow):
    async def fail(texts):
        raise TeacherError("no")

    shadow = await make_shadow(fail).start()
    assert await shadow.pipeline.ask("a text") == {
        "text": "a text",
        "outcome": "teacher_error",
        "top": [],
        "cost_usd": None,
    }


async def test_it_is_paid_from_the_budget_of_the_comparisons_and_refused_where_that_is_spent(make_shadow):
    async def reply(texts):
        return [answer("billing", cost_usd=0.5)]

    shadow = await make_shadow(reply, usd_per_hour=1.0).start()
    await shadow.pipeline.ask("a text")
    assert shadow.pipeline.gap()["cost"]["budget_usd_left_now"] < 0
    with pytest.raises(RateLimitedError, match="budget"):
        await shadow.pipeline.ask("another")
    assert len(shadow.teacher.asked) == 1


async def test_a_few_a_minute_and_one_at_a_time(make_shadow):
    shadow = await make_shadow().start()
    questions, clock = shadow.pipeline._active.asking.questions, Clock()
    questions._clock = clock
    for _ in range(PER_MINUTE):
        await shadow.pipeline.ask("a text")
        clock.now += 1.0
    with pytest.raises(RateLimitedError, match="try again in 54 s"):
        await shadow.pipeline.ask("a text")
    clock.now += 54.0
    shadow.teacher.reply = hang
    asking = asyncio.create_task(shadow.pipeline.ask("a text"))
    await until(lambda: len(shadow.teacher.asked) == PER_MINUTE + 1)
    with pytest.raises(RateLimitedError, match="another text"):
        await shadow.pipeline.ask("a text")
    asking.cancel()


async def test_it_gives_way_while_the_teacher_fails_or_asked_for_a_pause(make_shadow):
    class Held(PlayedTeacher):
        held = 30.0

    shadow = await make_shadow(Held()).start()
    with pytest.raises(NotReadyError, match="pause"):
        await shadow.pipeline.ask("a text")
    assert shadow.teacher.asked == []


async def test_without_shadowing_there_is_nobody_to_ask(make_shadow):
    shadow = await make_shadow(enabled=False).start()
    with pytest.raises(InvalidRequestError, match=r"shadow\.enabled"):
        await shadow.pipeline.ask("a text")
