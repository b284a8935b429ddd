"""The results of batches: what each row settles, whatever a vendor loses, reorders, lets expire or forgets."""

from __future__ import annotations

from typing import Any

import pytest

from distill.teachers import TeacherError
from distill.teachers.batch import collect
from tests.support.batch_vendors import account, assert_once, assert_right, leave_open, live, pool


async def test_calls_that_failed_for_once_are_in_the_next_round(vendor, path) -> None:
    failed: set[str] = set()

    def says(text: str) -> int:
        if text in ("refund 1", "refund 4") and text not in failed:
            failed.add(text)
            return 500
        return 200

    vendor.row_says = says
    life = await live(vendor, path, pool(6))
    assert_right(life, pool(6))
    assert [len(made.requests) for made in vendor.made] == [6, 2]
    assert_once(vendor, 6)


async def test_a_call_that_fails_in_two_rounds_while_others_are_answered_is_its_texts_own(vendor, path) -> None:
    vendor.row_says = lambda text: 500 if text == "refund 1" else 200
    life = await live(vendor, path, pool(6))
    assert [answer.outcome for answer in life.answers] == ["ok", "invalid", "ok", "ok", "ok", "ok"]
    assert [len(made.requests) for made in vendor.made] == [6, 1]


@pytest.mark.parametrize(
    ("status", "bad", "count", "said"),
    [
        (404, lambda text: text == "refund 1", 6, r"1 of the 6 calls .*\(1 × .*others are kept"),
        (400, lambda text: True, 3, r"3 of the 3 calls .*\(3 × 400: row 400\)"),
        (400, lambda text: text != "refund 1", 30, r"29 of the 30 calls .*\(29 × 400: row 400\)"),
    ],
    ids=["for good", "no text is answered", "many alike and few are answered"],
)
async def test_failures_that_are_not_for_the_texts_end_the_command_and_name_one(
    vendor, path, status, bad, count, said
) -> None:
    vendor.row_says = lambda text: status if bad(text) else 200
    with pytest.raises(TeacherError, match=said) as failure:
        await live(vendor, path, pool(count))
    assert bad(failure.value.text)
    assert account(path)[1] == 0
    vendor.row_says = lambda text: 200
    assert_right(await live(vendor, path, pool(count)), pool(count))
    assert_once(vendor, count)


@pytest.mark.parametrize(("status", "outcome"), [(400, "invalid"), (413, "invalid"), (451, "refused")])
async def test_a_text_rejected_while_others_are_answered_has_that_outcome(vendor, path, status, outcome) -> None:
    vendor.row_says = lambda text: status if text == "refund 1" else 200
    life = await live(vendor, path, pool(6))
    assert [answer.outcome for answer in life.answers] == ["ok", outcome, "ok", "ok", "ok", "ok"]
    assert life.answers[1].cost_usd == 0
    assert f"row {status}" in life.answers[1].reason
    again = await live(vendor, path, pool(6))
    assert [answer.outcome for answer in again.answers].count(outcome) == 1
    assert len(vendor.made) == 1
    assert account(path)[1] == 0
    assert_once(vendor, 5)


@pytest.mark.parametrize(
    ("status", "texts", "outcomes"),
    [(400, 3, ["ok", "invalid", "ok"]), (413, 1, ["invalid"])],
    ids=["unclear", "clear"],
)
async def test_a_batch_of_one_rejected_text_is_judged_by_other_batches_or_what_the_vendor_says(
    vendor, path, status, texts, outcomes
) -> None:
    asked = pool(3) if texts == 3 else ["refund 1"]
    vendor.row_says = lambda text: status if text == "refund 1" else 200
    life = await live(vendor, path, asked, calls=1)
    assert [answer.outcome for answer in life.answers] == outcomes


async def test_what_expired_was_paid_as_far_as_it_came_and_the_rest_is_in_the_next_round(vendor, path) -> None:
    vendor.finishes = [(4, "expired"), (3, "expired")]
    life = await live(vendor, path, pool(10))
    assert_right(life, pool(10))
    assert [len(made.requests) for made in vendor.made] == [10, 6, 3]
    assert_once(vendor, 10)


@pytest.mark.parametrize(
    ("finishes", "said"),
    [
        ([(2, "expired"), (0, "expired")], r"answered none of the calls .*3 × .*expired.*without --batch"),
        ([(2, "cancelled")], r"was cancelled at the vendor\. What was answered is kept"),
    ],
)
async def test_a_round_without_answers_and_a_cancelled_batch_end_the_command(vendor, path, finishes, said) -> None:
    vendor.finishes = list(finishes)
    with pytest.raises(TeacherError, match=said):
        await live(vendor, path, pool(5))
    assert len(vendor.made) == len(finishes)
    assert account(path)[1] == 0
    assert_right(await live(vendor, path, pool(5)), pool(5))
    assert_once(vendor, 5)


async def test_a_batch_that_the_vendor_finds_wrong_says_why(openai, path) -> None:
    openai.problem = [{"code": "invalid_json_line", "message": "line 7 is no JSON", "line": 7}]
    openai.finishes = [(0, "failed")]
    with pytest.raises(TeacherError, match=r"batch_0 .*failed: line 7 is no JSON"):
        await live(openai, path, pool(5))
    assert account(path) == (pytest.approx(2 * 3 * openai.cost), 0)


async def test_a_batch_that_the_vendors_queue_had_no_room_for_is_submitted_again(openai, path) -> None:
    openai.problem = [{"code": "token_limit_exceeded", "message": "Enqueued token limit reached", "line": None}]
    openai.finishes = [(None, "completed"), (0, "failed")]
    life = await live(openai, path, pool(10), calls=5)
    assert_right(life, pool(10))
    assert len(openai.made) == 3
    assert_once(openai, 10)


async def test_an_answer_that_cannot_be_read_is_paid_and_its_texts_own_where_others_can(vendor, path) -> None:
    texts = [*pool(4), "broken 1"]
    life = await live(vendor, path, texts)
    assert [answer.outcome for answer in life.answers] == ["ok"] * 4 + ["invalid"]
    assert life.answers[4].cost_usd == pytest.approx(vendor.cost)
    spent, reserved = account(path)
    probes = len(vendor.ordinary) * 2 * vendor.cost
    assert (spent, reserved) == (pytest.approx(5 * vendor.cost + probes), 0)
    await live(vendor, path, texts)
    assert len(vendor.made) == 1


async def test_answers_that_can_never_be_read_are_paid_and_not_kept(vendor, path) -> None:
    with pytest.raises(TeacherError, match=r"1 of the 1 calls .*paid for, but"):
        await live(vendor, path, ["broken 1"])
    spent, reserved = account(path)
    probes = len(vendor.ordinary) * 2 * vendor.cost
    assert (spent, reserved) == (pytest.approx(vendor.cost + probes), 0)


@pytest.mark.parametrize("trouble", [{"choices": []}, {"error": {"code": 502, "message": "bad gateway"}}])
@pytest.mark.parametrize(("times", "outcome"), [(1, "ok"), (9, "invalid")])
async def test_an_error_in_a_row_of_200_is_asked_again_once(openai, path, monkeypatch, trouble, times, outcome) -> None:
    answered, left = openai.response, ["refund 1"] * times

    def response(body: dict[str, Any]) -> dict[str, Any]:
        if openai.text(body) not in left:
            return answered(body)
        left.remove(openai.text(body))
        return {**trouble, "usage": answered(body)["usage"]}

    monkeypatch.setattr(openai, "response", response)
    life = await live(openai, path, pool(3))
    assert [answer.outcome for answer in life.answers] == ["ok", outcome, "ok"]
    assert [len(made.requests) for made in openai.made] == [3, 1]


async def test_what_does_not_say_its_tokens_costs_what_was_reserved(vendor, path) -> None:
    await live(vendor, path, pool(3))
    before, _ = account(path)
    vendor.usage = False
    await live(vendor, path, ["refund 7"])
    after, reserved = account(path)
    assert after - before > 3 * vendor.cost
    assert reserved == 0


@pytest.mark.parametrize(
    ("mishap", "said", "settings"),
    [
        ("long line", r"more than 0.0191 MiB.*max_response_bytes", {"max_response_bytes": 20_000}),
        ("repeated", "endless results", {}),
    ],
)
async def test_results_with_a_line_too_large_or_without_end_are_not_read(vendor, path, mishap, said, settings) -> None:
    vendor.mishaps = [("results", mishap)]
    with pytest.raises(TeacherError, match=said):
        await live(vendor, path, pool(8), **settings)
    assert_right(await live(vendor, path, pool(8)), pool(8))


@pytest.mark.parametrize("mishap", ["cut line", "lose lines", "other's"])
async def test_results_that_are_not_whole_or_anothers_are_fetched_again(vendor, path, mishap) -> None:
    vendor.mishaps = [("results", mishap)]
    life = await live(vendor, path, pool(8))
    assert_right(life, pool(8))
    assert_once(vendor, 8)


async def test_a_batch_of_another_configuration_is_fetched_and_kept_for_it(vendor, path) -> None:
    await leave_open(vendor, path)
    life = await live(vendor, path, pool(3), prompt={"instructions": "Sort it."})
    assert_right(life, pool(3))
    assert len(vendor.made) == 2
    assert account(path)[1] == 0
    assert_right(await live(vendor, path, pool(6)), pool(6))
    assert len(vendor.made) == 2


async def test_a_batch_that_the_vendor_does_not_know_is_not_taken_for_unpaid(vendor, path, monkeypatch) -> None:
    await leave_open(vendor, path)
    _, reserved = account(path)
    (lost,), vendor.made = vendor.made, []
    with pytest.raises(TeacherError, match=r"does not know batch .*key of the account"):
        await live(vendor, path, pool(6))
    assert account(path)[1] == reserved
    monkeypatch.setattr(collect, "_KEPT_BY_VENDORS", -1.0)
    spent, _ = account(path)
    await live(vendor, path, [])
    assert account(path) == (pytest.approx(spent + reserved), 0)
    assert len(lost.requests) == 6


async def test_a_batch_of_another_model_stays_reserved_until_that_model_is_asked_again(vendor, path) -> None:
    await leave_open(vendor, path)
    _, reserved = account(path)
    await live(vendor, path, pool(2), model="other")
    assert account(path)[1] == pytest.approx(reserved)
    assert_right(await live(vendor, path, pool(6)), pool(6))
    assert account(path)[1] == 0
    assert [len(made.requests) for made in vendor.made] == [6, 2]
