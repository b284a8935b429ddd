"""The submission of batches: no call twice, none beyond the money, none before the server is known to be usable."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distill.teachers import TeacherError, create
from distill.teachers.account import BudgetError
from distill.teachers.batch import collect, submit
from tests.support.batch_vendors import LABELS, account, assert_once, assert_right, config, leave_open, live, pool


async def test_probes_come_before_a_batch_so_that_a_wrong_key_is_known_at_once(vendor, path) -> None:
    vendor.mishaps = [("ask", "refuse 401")]
    with pytest.raises(TeacherError, match="refuses the key"):
        await live(vendor, path, pool(5))
    assert vendor.made == []


async def test_a_text_that_stands_there_twice_is_in_a_batch_once(vendor, path) -> None:
    await live(vendor, path, ["refund 1", "refund 1", "billing 2"])
    assert_once(vendor, 2)


async def test_texts_of_any_characters_survive(vendor, path) -> None:
    texts = ["refund é\u2028\x85 \U0001f600 \"'\\", "billing </text> {", "shipping \x00"]
    assert_right(await live(vendor, path, texts), texts)
    assert_once(vendor, 3)


async def test_batches_are_no_larger_than_they_may_be_nor_is_more_than_one_in_memory(vendor, path, monkeypatch) -> None:
    add, sizes = submit._Draft.add, []

    def counted(draft: Any, *call: Any) -> None:
        add(draft, *call)
        sizes.append(len(draft.calls))

    monkeypatch.setattr(submit._Draft, "add", counted)
    await live(vendor, path, pool(25), calls=10)
    assert sorted(len(made.requests) for made in vendor.made) == [5, 10, 10]
    assert max(sizes) == 10
    assert_once(vendor, 25)


async def test_nor_of_more_bytes(vendor, path, monkeypatch) -> None:
    teacher: Any = create(config(vendor), LABELS)
    ((api, request),) = await teacher.plan("billing 0")
    (batch_api,) = teacher.batch_apis()
    await teacher.aclose()
    line = len(batch_api.line("x" * 49, request))
    monkeypatch.setattr(type(batch_api), "max_bytes", 4 * line + 40)
    await live(vendor, path, pool(10))
    assert sorted(len(made.requests) for made in vendor.made) == [2, 4, 4]
    assert api.name.startswith(vendor.kind)


async def test_a_vendor_that_asks_for_days_before_a_batch_is_made_ends_the_command(vendor, path, monkeypatch) -> None:
    monkeypatch.setattr(submit, "MINUTE", 0.01)
    monkeypatch.setattr(collect, "MINUTE", 0.01)
    vendor.mishaps = [("upload" if vendor.kind == "openai" else "create", "refuse 429 864000")] * 6
    with pytest.raises(TeacherError, match="left alone for 10 days"):
        await live(vendor, path, pool(4))
    assert account(path)[1] == 0


async def test_a_file_that_did_not_arrive_is_uploaded_again(openai, path) -> None:
    openai.mishaps = [("upload", "500 after"), ("upload", "refuse 503")]
    assert_right(await live(openai, path, pool(4)), pool(4))
    assert len(openai.made) == 1


@pytest.mark.parametrize(
    ("status", "said"), [(400, "400"), (404, r"does this server have a batch API.*leave --batch out")]
)
async def test_a_submission_that_is_refused_reserves_nothing(vendor, path, status, said) -> None:
    vendor.mishaps = [("upload" if vendor.kind == "openai" else "create", f"refuse {status}")]
    with pytest.raises(TeacherError, match=said):
        await live(vendor, path, pool(4))
    assert account(path)[1] == 0
    assert vendor.made == []


async def test_a_batch_is_reserved_at_its_worst_price_and_stays_so_after_a_restart(vendor, path) -> None:
    await leave_open(vendor, path)
    spent, reserved = account(path)
    assert spent == pytest.approx(len(vendor.ordinary) * 2 * vendor.cost)
    teacher: Any = create(config(vendor), LABELS)
    planned = [await teacher.plan(text) for text in pool(6)]
    await teacher.aclose()
    assert reserved == pytest.approx(sum(api.max_cost(request) / 2 for ((api, request),) in planned))
    assert account(path) == (spent, reserved)
    assert_right(await live(vendor, path, pool(6)), pool(6))
    assert account(path) == (pytest.approx(spent + 6 * vendor.cost), 0)
    assert_once(vendor, 6)


async def test_a_batch_is_no_larger_than_the_money_and_what_it_gives_back_pays_for_the_next(vendor, path) -> None:
    teacher: Any = create(config(vendor), LABELS)
    ((api, request),) = await teacher.plan("billing 10")
    await teacher.aclose()
    await live(vendor, path, [])
    await live(vendor, path, ["billing 0"])
    spent, _ = account(path)
    life = await live(vendor, path, pool(12), max_usd=spent + 6.5 * api.max_cost(request) / 2)
    assert_right(life, pool(12))
    assert len(vendor.made) > 2
    assert max(len(made.requests) for made in vendor.made) == 6
    assert_once(vendor, 12)


async def test_without_money_for_one_call_nothing_is_submitted(vendor, path) -> None:
    await live(vendor, path, ["billing 0"])
    spent, _ = account(path)
    with pytest.raises(BudgetError, match="raise --max-usd"):
        await live(vendor, path, pool(4), max_usd=spent + 1e-6)
    assert len(vendor.made) == 1


async def test_a_batch_of_someone_else_of_the_same_size_is_not_taken_for_ours(anthropic, path) -> None:
    body = {
        "messages": [{"content": "<text>\nrefund\n</text>"}],
        "output_config": {"format": {"schema": {"properties": {}}}},
    }
    anthropic.make([(f"theirs-{number}", body) for number in range(6)], {})
    anthropic.mishaps = [("create", "refuse 500")]
    assert_right(await live(anthropic, path, pool(6)), pool(6))
    assert len(anthropic.made) == 2
    ours = {json.dumps(body, sort_keys=True) for _, body in anthropic.made[1].requests}
    assert len(ours) == 6
