"""The rate limiter on a loop with a fake clock."""

from __future__ import annotations

import asyncio

import pytest

from distill.teachers.api.rate_limit import RateLimiter
from distill.teachers.errors import TeacherError
from tests.support.fake_clock import now, with_fake_clock


def rate(remaining: float, reset: str, kind: str = "requests", **more: str) -> dict[str, str]:
    headers = {f"x-ratelimit-remaining-{kind}": str(remaining), f"x-ratelimit-reset-{kind}": reset}
    return headers | {f"x-ratelimit-{name}-{kind}": value for name, value in more.items()}


async def times(limiter: RateLimiter, count: int, tokens: float = 1.0) -> list[float]:
    """When each of `count` waiters gets through, rounded to a hundredth of a second."""

    async def one() -> float:
        await limiter.wait(tokens)
        return round(now(), 2)

    return list(await asyncio.gather(*(one() for _ in range(count))))


@with_fake_clock
async def test_without_limits_nobody_waits() -> None:
    assert await times(RateLimiter(), 100) == [0.0] * 100


@with_fake_clock
async def test_requests_a_minute_are_spaced_evenly_in_the_order_of_coming() -> None:
    assert await times(RateLimiter(requests_per_minute=30), 4) == pytest.approx([0, 2, 4, 6], abs=0.2)


@with_fake_clock
async def test_no_minute_has_more_than_its_limit_and_a_tenth_of_a_second_and_little_is_lost() -> None:
    through = await times(RateLimiter(requests_per_minute=600), 1500)
    most = max(sum(start <= moment < start + 60 for moment in through) for start in through)
    assert 598 <= most <= 602


@with_fake_clock
async def test_tokens_a_minute_count_what_each_call_takes() -> None:
    limiter = RateLimiter(tokens_per_minute=600)
    assert await times(limiter, 3, tokens=50) == pytest.approx([0, 5, 10], abs=0.2)


@with_fake_clock
async def test_time_not_used_is_not_saved_up() -> None:
    limiter = RateLimiter(requests_per_minute=60)
    await asyncio.sleep(30)
    assert await times(limiter, 3) == pytest.approx([30, 31, 32], abs=0.2)


@with_fake_clock
async def test_everybody_is_held_and_the_longest_hold_counts() -> None:
    limiter = RateLimiter()
    limiter.hold(5)
    limiter.hold(2)
    assert await times(limiter, 3) == [5.0] * 3


@with_fake_clock
async def test_a_hold_reaches_those_who_wait_already() -> None:
    limiter = RateLimiter()
    limiter.hold(1)
    waiting = asyncio.create_task(times(limiter, 2))
    await asyncio.sleep(0.5)
    limiter.hold(5)
    assert await waiting == [5.5] * 2


@with_fake_clock
async def test_no_more_go_than_the_server_says_are_left_and_the_others_wait_for_its_reset() -> None:
    limiter = RateLimiter()
    limiter.update(rate(2, "10s"))
    assert await times(limiter, 4) == [0.0, 0.0, 10.0, 10.0]


@with_fake_clock
async def test_a_limit_that_is_used_up_holds_calls_as_much_as_a_429() -> None:
    limiter = RateLimiter()
    assert limiter.held == 0.0
    await times(limiter, 1)
    limiter.update(rate(1, "10s"))
    assert limiter.held == 0.0
    limiter.update(rate(0, "10s"))
    assert limiter.held == 10.0


@with_fake_clock
async def test_many_who_wait_for_a_reset_do_not_pass_the_limit_together() -> None:
    limiter = RateLimiter()
    limiter.update(rate(0, "10s", limit="3"))
    waiting = asyncio.create_task(times(limiter, 5))
    await asyncio.sleep(11)
    limiter.update(rate(0, "60s", limit="3"))
    assert await waiting == [10.0] * 3 + [71.0] * 2


@with_fake_clock
async def test_a_server_that_says_no_more_holds_up_no_longer_than_it_said() -> None:
    limiter = RateLimiter()
    limiter.update(rate(0, "2s"))
    assert await times(limiter, 3) == [2.0, 4.0, 6.0]


@with_fake_clock
async def test_news_wakes_those_who_wait() -> None:
    limiter = RateLimiter()
    limiter.update(rate(0, "10s", limit="1"))
    waiting = asyncio.create_task(times(limiter, 2))
    await asyncio.sleep(12)  # one went at 10, and the other would wait until 20
    limiter.update(rate(0, "3s"))
    assert await waiting == [10.0, 15.0]


@with_fake_clock
async def test_an_answer_that_comes_late_does_not_give_back_what_was_used_since() -> None:
    limiter = RateLimiter()
    limiter.update(rate(5, "30s"))
    assert await times(limiter, 4) == [0.0] * 4
    limiter.update(rate(4, "30s"))  # the server said this before three of them
    assert await times(limiter, 2) == [0.0, 30.0]


@with_fake_clock
async def test_a_call_larger_than_the_whole_limit_waits_for_all_of_it_and_no_longer() -> None:
    limiter = RateLimiter()
    limiter.update(rate(500, "10s", kind="tokens", limit="1000"))
    assert await times(limiter, 1, tokens=5000) == [10.0]


@with_fake_clock
async def test_anthropics_headers_are_followed_by_the_servers_clock() -> None:
    limiter = RateLimiter()
    limiter.update(
        {
            "date": "Tue, 24 Nov 2026 08:00:00 GMT",
            "anthropic-ratelimit-input-tokens-remaining": "50",
            "anthropic-ratelimit-input-tokens-limit": "1000",
            "anthropic-ratelimit-input-tokens-reset": "2026-11-24T08:00:20Z",
            "anthropic-ratelimit-requests-remaining": "99",
            "anthropic-ratelimit-requests-reset": "2026-11-24T08:00:01Z",
        }
    )
    assert await times(limiter, 2, tokens=40) == [0.0, 20.0]


@with_fake_clock
async def test_a_reset_far_away_is_not_waited_for_longer_than_a_minute() -> None:
    limiter = RateLimiter()
    limiter.update(rate(0, "7h30m"))
    limiter.hold(3600)
    assert await times(limiter, 1) == [60.0]


@with_fake_clock
async def test_what_litellm_passes_on_under_another_name_is_heard() -> None:
    limiter = RateLimiter()
    limiter.update({"x-ratelimit-remaining-requests": "1", "llm_provider-x-ratelimit-reset-requests": "7s"})
    assert await times(limiter, 2) == [0.0, 7.0]


@with_fake_clock
async def test_who_waits_when_stopped_does_so_no_longer() -> None:
    limiter = RateLimiter()
    limiter.hold(50)
    waiting = [asyncio.create_task(limiter.wait(1)), asyncio.create_task(limiter.sleep(50))]
    await asyncio.sleep(1)
    limiter.stop()
    for one in waiting:
        with pytest.raises(TeacherError, match="stopped"):
            await one
    assert now() == 1.0


@with_fake_clock
async def test_who_is_cancelled_while_waiting_holds_nobody_up() -> None:
    limiter = RateLimiter()
    limiter.hold(5)
    gone, stays = asyncio.create_task(limiter.wait(1)), asyncio.create_task(times(limiter, 1))
    await asyncio.sleep(1)
    gone.cancel()
    assert await stays == [5.0]


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-remaining-requests": "many"}, rate(5, "soon"), rate(9, "")])
@with_fake_clock
async def test_headers_that_say_nothing_hold_nobody(headers: dict[str, str]) -> None:
    limiter = RateLimiter()
    limiter.update(headers)
    assert await times(limiter, 3) == [0.0] * 3
