"""A cascade asks the teacher about what no student is sure of; whatever keeps that from answering, a student does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import numpy as np
import pytest

from distill.teachers import Answer, TeacherError
from service.app import create_worker_app
from service.errors import StartupError
from service.shadow import teacher as shadow_teacher
from tests.support.decision_server import DecisionServer
from tests.support.http_server import serving
from tests.support.stub_teacher import StubTeacher
from tests.support.tiny_bundle import WORDS, build_bundle, build_cascade, build_witness, rewritten
from tests.support.waiting import until

LABELS = tuple(WORDS)
SURE, UNSURE, DEFER = "invoice", "my invoice is late", 0.8
"""Every tiny bundle has a score of 0.87 on the first text, and of 0.38 for `billing` on the second."""

Reply = Callable[[Sequence[str]], Awaitable[Any]]


def distribution(label: str, top: float = 0.9) -> Any:
    """Return probabilities [K] with `top` for a label."""
    others = (1 - top) / (len(LABELS) - 1)
    return np.array([top if one == label else others for one in LABELS], dtype=np.float32)


class Teacher(StubTeacher):
    """Answers as `reply` does, and records the texts in `asked`."""

    name, labels, concurrency = "played", LABELS, 256

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.asked: list[str] = []

    async def ask(self, texts: Sequence[str], repeat: int = 0) -> Any:
        self.asked += texts
        return await self.reply(texts)


def says(label: str, **facts: Any) -> Reply:
    return returns([Answer(distribution(label), "local", **facts)])


def returns(answers: Any) -> Reply:
    async def reply(texts: Sequence[str]) -> Any:
        return answers

    return reply


async def hang(texts: Sequence[str]) -> Any:
    await asyncio.Event().wait()


async def fail(texts: Sequence[str]) -> Any:
    raise TeacherError("the server is down")


async def break_down(texts: Sequence[str]) -> Any:
    raise RuntimeError("a defect of the teacher")


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return build_bundle(tmp_path_factory.mktemp("students") / "right", name="right")


@pytest.fixture(scope="module")
def bundle(student: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A student that is sure of the word `invoice` alone, wrongly; a better one; and the teacher after them."""
    folder = tmp_path_factory.mktemp("cascade")
    quick = build_bundle(folder / "quick", name="quick", flip={"invoice": "account"})
    return build_cascade(folder / "cascade", [quick, student], [DEFER], defer=DEFER)


@pytest.fixture
def deferring(bundle: Any, running: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`async with deferring(teacher or reply, **defer)`: a client of the cascade; `service` has other settings."""
    return lambda played, **given: running(**prepared(bundle, monkeypatch, played, **given))


def prepared(
    bundle: Any, monkeypatch: pytest.MonkeyPatch, played: Any, *, service: dict[str, Any] | None = None, **defer: Any
) -> dict[str, Any]:
    """Return the settings that serve `bundle` with a teacher that is handed over."""
    teacher = played if isinstance(played, StubTeacher) else Teacher(played)
    monkeypatch.setattr(shadow_teacher, "create", lambda config, labels, **_: teacher)
    return {"bundle": bundle.path, "defer": {"teacher": {"kind": "played"}, **defer}, **(service or {})}


async def answers(client: httpx.AsyncClient, *texts: str, headers: Any = None, **body: Any) -> list[dict[str, Any]]:
    response = await client.post("/classify", json={"texts": texts, **body}, headers=headers)
    assert response.status_code == 200, response.text
    results: list[dict[str, Any]] = response.json()["results"]
    return results


async def metric(client: httpx.AsyncClient, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels."""
    total = 0.0
    for line in (await client.get("/metrics")).text.splitlines():
        named = line.startswith((f"reflux_{name} ", f"reflux_{name}{{"))
        if named and all(f'{key}="{value}"' in line for key, value in labels.items()):
            total += float(line.rsplit(" ", 1)[1])
    return total


def told(result: dict[str, Any]) -> tuple[Any, ...]:
    return result["label"], result["stage"], result["deferred"], result.get("fallback")


async def test_the_teacher_answers_what_no_student_is_sure_of(deferring: Any) -> None:
    teacher = Teacher(says("shipping", cost_usd=0.25))
    async with deferring(teacher) as client:
        sure, unsure = await answers(client, SURE, UNSURE, logits=True, embedding=True, top_k=2)
        model = (await client.get("/model")).json()
        counts = [await metric(client, "deferrals_total", outcome=outcome) for outcome in ("answered", "timeout")]
        cost = await metric(client, "deferral_cost_usd_total")
        shipping = await metric(client, "predictions_total", label="shipping")
    assert told(sure) == ("account", "0-quick", False, None)
    assert told(unsure) == ("shipping", "teacher", True, None)
    assert unsure["score"] == pytest.approx(0.9, abs=1e-5)
    assert unsure["top"][0] == {"label": "shipping", "score": unsure["score"]}
    assert np.exp(unsure["logits"]).sum() == pytest.approx(1, abs=1e-4), "its logits are log probabilities"
    assert unsure["tokens"] == 5
    assert len(unsure["embedding"]) == len(sure["embedding"])
    assert teacher.asked == [UNSURE]
    assert model["answers_by_stage"] == {"0-quick": 1, "1-right": 0, "teacher": 1}
    assert model["stages"][-1]["cut_off"] == DEFER
    assert (counts, cost, shipping) == ([1, 0], 0.25, 1)
    assert teacher.closed


async def test_one_student_may_stand_before_the_teacher(
    student: Any, running: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    alone = build_cascade(tmp_path / "alone", [student], [], defer=DEFER)
    async with running(**prepared(alone, monkeypatch, says("technical"))) as client:
        found = [told(one) for one in await answers(client, SURE, UNSURE)]
    assert found == [("billing", "0-right", False, None), ("technical", "teacher", True, None)]


async def test_the_teachers_answer_is_calibrated_as_the_labels_were(
    bundle: Any, running: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    taught = {"name": "played", "calibration": {"method": "temperature", "temperature": 2.0}}
    calibrated = rewritten(bundle, tmp_path / "calibrated", teacher=taught)
    async with running(**prepared(calibrated, monkeypatch, says("shipping"))) as client:
        (result,) = await answers(client, UNSURE)
    root = np.sqrt(distribution("shipping"))
    assert result["score"] == pytest.approx(float((root / root.sum()).max()), abs=1e-5)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (fail, "teacher_error"),
        (break_down, "teacher_error"),
        (hang, "timeout"),
        (returns([]), "invalid_answer"),
        (returns([Answer(None, "verbalised", outcome="invalid")]), "invalid_answer"),
        (returns([Answer(np.full(4, np.nan, dtype=np.float32), "local")]), "invalid_answer"),
        (returns([Answer(np.ones(1, dtype=np.float32), "local")]), "invalid_answer"),
        (returns([Answer(None, "verbalised", outcome="refused")]), "refused"),
    ],
    ids=["down", "broken", "hanging", "silent", "unknown label", "not a number", "too few labels", "refusing"],
)
async def test_whatever_fails_the_last_student_answers_and_says_so(deferring: Any, reply: Reply, reason: str) -> None:
    async with deferring(reply, deadline_seconds=0.3, retry_seconds=0) as client:
        sure, unsure = await answers(client, SURE, UNSURE)
        counted = await metric(client, "deferrals_total", outcome=reason)
        by_stage = (await client.get("/model")).json()["answers_by_stage"]
    assert told(sure) == ("account", "0-quick", False, None)
    assert told(unsure) == ("billing", "1-right", True, reason)
    assert unsure["score"] == pytest.approx(0.38, abs=0.01)
    assert counted == 1
    assert by_stage == {"0-quick": 1, "1-right": 1, "teacher": 0}


async def test_a_teacher_that_fails_most_of_the_time_is_asked_no_more_for_a_while(deferring: Any) -> None:
    teacher = Teacher(fail)
    async with deferring(teacher, retry_seconds=0) as client:
        await answers(client, *[UNSURE] * 20)
        asked = len(teacher.asked)
        (result,) = await answers(client, UNSURE)
        state = await metric(client, "deferral_breaker_state")
    assert told(result) == ("billing", "1-right", True, "breaker_open")
    assert (len(teacher.asked), state) == (asked, 2)


def _down(kind: str) -> dict[str, Any]:
    """Return a teacher whose server is down: nothing listens on port 9 of this machine."""
    price = {"input": 1, "output": 1}
    return {"kind": kind, "model": "tiny", "base_url": "http://127.0.0.1:9/v1", "usd_per_million": price}


@pytest.mark.parametrize(
    "teacher",
    [
        *(_down(kind) for kind in ("decisions", "openai", "anthropic")),
        {"kind": "ensemble", "members": [{"teacher": _down("decisions")}, {"teacher": _down("openai")}]},
    ],
    ids=lambda teacher: teacher["kind"],
)
async def test_a_server_that_is_down_is_no_timeout_and_keeps_no_text_waiting(
    bundle: Any, running: Any, teacher: dict[str, Any]
) -> None:
    # Six attempts, the default elsewhere, take longer than this deadline, whatever the machine.
    async with running(bundle=bundle.path, defer={"teacher": teacher, "deadline_seconds": 11}) as client:
        (result,) = await answers(client, UNSURE)
        counts = [await metric(client, "deferrals_total", outcome=one) for one in ("teacher_error", "timeout")]
    assert told(result) == ("billing", "1-right", True, "teacher_error")
    assert counts == [1, 0]


@pytest.mark.parametrize("deadline_seconds", [0.5, 50.0])
async def test_a_server_that_asks_for_a_pause_past_the_deadline_is_no_timeout_and_no_failure(
    bundle: Any, running: Any, deadline_seconds: float
) -> None:
    """One text waits for no deadline. Of two at once, the second may wait for its turn at the server until then."""
    together = [UNSURE] * (2 if deadline_seconds < 1 else 1)
    async with serving(lambda request: httpx.Response(429, headers={"retry-after": "3000"})) as server:
        teacher = _down("openai") | {"base_url": f"{server.url}/v1"}
        defer = {"teacher": teacher, "deadline_seconds": deadline_seconds}
        async with running(bundle=bundle.path, defer=defer, shutdown_seconds=4000.0) as client:
            found = [*await answers(client, *together), *await answers(client, UNSURE)]
            counted = await metric(client, "deferrals_total", outcome="rate_limited")
            state = await metric(client, "deferral_breaker_state")
    assert {told(one) for one in found} == {("billing", "1-right", True, "rate_limited")}
    assert (counted, state) == (len(found), 0)


@pytest.mark.parametrize("hurried", [True, False], ids=["the request's deadline", "the teacher's"])
async def test_a_text_that_the_server_leaves_without_an_answer_is_late_though_another_caused_a_pause(
    bundle: Any, running: Any, hurried: bool
) -> None:
    """The server, once in use, never answers the first text, and asks for a pause in its answer to the second."""
    begun, over, working = asyncio.Event(), asyncio.Event(), DecisionServer()

    async def hang_then_ask_for_a_pause(request: httpx.Request) -> httpx.Response:
        if not begun.is_set():
            begun.set()
            await over.wait()
        return httpx.Response(429, headers={"retry-after": "3000"})

    handlers: list[Any] = [working]
    async with serving(lambda request: handlers[-1](request)) as server:
        teacher = _down("decisions") | {"base_url": f"{server.url}/v1"}
        defer = {"teacher": teacher, "deadline_seconds": 10.0 if hurried else 4.0}
        async with running(bundle=bundle.path, defer=defer) as client:
            (usual,) = await answers(client, UNSURE)
            handlers.append(hang_then_ask_for_a_pause)
            headers = {"x-request-timeout-ms": "4000"} if hurried else None
            first = asyncio.create_task(answers(client, UNSURE, headers=headers))
            await until(begun.is_set)
            (second,) = await answers(client, UNSURE)
            assert not first.done()
            found = told((await first)[0])
            over.set()
    assert usual["stage"] == "teacher"
    assert told(second)[-1] == "rate_limited"
    assert found == ("billing", "1-right", True, "deadline" if hurried else "timeout")


async def test_a_short_pause_that_the_server_asks_for_is_waited_for(bundle: Any, running: Any) -> None:
    server, busy = DecisionServer(), [httpx.Response(429, headers={"retry-after-ms": "500"})]
    async with serving(lambda request: busy.pop() if busy else server(request)) as place:
        teacher = _down("decisions") | {"base_url": f"{place.url}/v1"}
        async with running(bundle=bundle.path, defer={"teacher": teacher, "deadline_seconds": 19.0}) as client:
            (result,) = await answers(client, UNSURE)
    assert (result["stage"], result["deferred"], busy) == ("teacher", True, [])


async def test_a_tenth_of_the_days_budget_may_be_spent_at_once(deferring: Any) -> None:
    async with deferring(says("shipping", cost_usd=1.0), usd_per_day=20.0) as client:
        found = [told((await answers(client, UNSURE))[0]) for _ in range(3)]
    assert found == [("shipping", "teacher", True, None)] * 2 + [("billing", "1-right", True, "budget")]


async def test_more_texts_than_may_wait_are_answered_by_the_student(deferring: Any) -> None:
    limits = {"max_texts": 3, "queue_limit": 3}
    async with deferring(hang, deadline_seconds=0.3, service=limits) as client:
        first = asyncio.create_task(answers(client, *[UNSURE] * 3))
        await until(lambda: _is(client, "deferral_waiting", 3))
        (second,) = await answers(client, UNSURE)
        assert told(second) == ("billing", "1-right", True, "queue_full")
        assert {told(one)[-1] for one in await first} == {"timeout"}


async def _is(client: httpx.AsyncClient, name: str, value: float) -> bool:
    return await metric(client, name) == value


async def test_the_deadline_of_a_request_comes_first_and_does_not_tell_against_the_teacher(deferring: Any) -> None:
    async with deferring(hang, deadline_seconds=10, concurrency=64) as client:
        found = await answers(client, *[UNSURE] * 30, headers={"x-request-timeout-ms": "200"})
        state = await metric(client, "deferral_breaker_state")
    assert {told(one) for one in found} == {("billing", "1-right", True, "deadline")}
    assert state == 0


async def test_texts_wait_for_their_turn_at_the_teacher(deferring: Any) -> None:
    at_once = most = 0

    async def reply(texts: Sequence[str]) -> Any:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        return [Answer(distribution("shipping"), "local")]

    async with deferring(reply, concurrency=2) as client:
        found = await answers(client, *[UNSURE] * 8)
    assert {told(one)[1] for one in found} == {"teacher"}
    assert most == 2


async def test_a_request_that_waits_for_the_teacher_holds_up_no_other(deferring: Any) -> None:
    async with deferring(hang, deadline_seconds=10) as client:
        waiting = asyncio.create_task(answers(client, UNSURE))
        await until(lambda: _is(client, "deferral_waiting", 1))
        assert told((await answers(client, SURE))[0])[1] == "0-quick"
        assert await metric(client, "inference_inflight") == 0
        waiting.cancel()
        await until(lambda: _is(client, "deferral_waiting", 0))


@pytest.mark.parametrize("more", ["", " and" * 1000], ids=["short", "long"])
async def test_personal_data_are_redacted_before_the_teacher_sees_them(deferring: Any, more: str) -> None:
    teacher = Teacher(says("shipping"))
    async with deferring(teacher) as client:
        await answers(client, f"my invoice is late, write to ada@lovelace.example{more}")
    assert teacher.asked == [f"my invoice is late, write to <EMAIL>{more}"]


@pytest.mark.parametrize(
    ("path", "body", "label"),
    [
        ("/v1/classify", {"input": UNSURE}, lambda found: found["data"][0]["label"]),
        ("/", {"inputs": UNSURE, "parameters": {"top_k": 1}}, lambda found: found[0][0]["label"]),
        ("/predict", {"inputs": [[UNSURE]]}, lambda found: found[0][0]["label"]),
        ("/vertex", {"instances": [UNSURE]}, lambda found: found["predictions"][0][0]["label"]),
        ("/classify", {"input": [UNSURE]}, lambda found: found["data"][0][0]["label"]),
        (
            "/v2/models/tiny-cascade/infer",
            {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": [UNSURE]}]},
            lambda found: found["outputs"][0]["data"][0],
        ),
        ("/v1/models/tiny-cascade:predict", {"instances": [UNSURE]}, lambda found: found["predictions"][0]["label"]),
        ("/invocations", {"inputs": UNSURE, "parameters": {"top_k": 1}}, lambda found: found[0][0]["label"]),
        (
            "/v1/decisions",
            {
                "input": UNSURE,
                "questions": [{"type": "choice", "choices": [{"value": label} for label in LABELS]}],
            },
            lambda found: found["answers"][0]["choice"],
        ),
        (
            "/v1/systemone",
            {"state": UNSURE, "questions": {"q": {"type": "choice", "criteria": dict.fromkeys(LABELS)}}},
            lambda found: found["answers"]["q"]["choice"],
        ),
    ],
)
async def test_every_protocol_gets_the_teachers_answer(deferring: Any, path: str, body: Any, label: Any) -> None:
    async with deferring(says("shipping")) as client:
        response = await client.post(path, json=body)
        assert response.status_code == 200, response.text
    assert label(response.json()) == "shipping"


class Held(Teacher):
    """Answers once `opened` is set."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self.opened = asyncio.Event()

    async def _wait(self, texts: Sequence[str]) -> Any:
        await self.opened.wait()
        return [Answer(distribution("shipping"), "local")]


@pytest.mark.parametrize("answering", [True, False], ids=["the teacher answers", "the teacher hangs"])
async def test_a_stop_lets_texts_at_the_teacher_end(
    bundle: Any, listening: Any, connect: Any, monkeypatch: pytest.MonkeyPatch, answering: bool
) -> None:
    teacher = Held()
    deadline, service = 30 if answering else 0.4, {"shutdown_seconds": 60}
    settings = prepared(bundle, monkeypatch, teacher, deadline_seconds=deadline, service=service)
    async with listening(**settings) as serving:
        connection = await connect(serving.port)
        connection.send(json.dumps({"text": UNSURE}).encode())
        await until(lambda: teacher.asked)
        serving.stop()
        if answering:
            await until(lambda: _refused(connect, serving.port))
            teacher.opened.set()
        status, _, body = await connection.receive()
    assert status == 200
    expected = ("shipping", "teacher", True, None) if answering else ("billing", "1-right", True, "timeout")
    assert told(body["results"][0]) == expected
    assert teacher.closed


async def _refused(connect: Any, port: int) -> bool:
    """Whether the server listens no more."""
    try:
        (await connect(port)).writer.close()
    except OSError:
        return True
    return False


async def test_a_client_that_leaves_takes_its_texts_back(
    bundle: Any, listening: Any, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = Held()
    async with listening(**prepared(bundle, monkeypatch, teacher, deadline_seconds=10)) as serving:
        connection = await connect(serving.port)
        connection.send(json.dumps({"text": UNSURE}).encode())
        await until(lambda: teacher.asked)
        connection.writer.close()
        async with httpx.AsyncClient(base_url=serving.url) as client:
            await until(lambda: _is(client, "deferral_waiting", 0))
            assert await metric(client, "answers_total", outcome="left") == 1


async def test_where_the_app_ends_the_student_answers_what_waits_for_the_teacher(deferring: Any) -> None:
    async with deferring(hang, deadline_seconds=10) as client:
        waiting = asyncio.create_task(answers(client, UNSURE))
        await until(lambda: _is(client, "deferral_waiting", 1))
    assert told((await waiting)[0]) == ("billing", "1-right", True, "shutdown")


async def test_the_gap_of_all_answers_counts_the_teachers_own_as_agreement(deferring: Any, tmp_path: Any) -> None:
    async def reply(texts: Sequence[str]) -> Any:
        return [Answer(distribution("billing" if SURE in texts[0] else "shipping"), "local")]

    teacher = Teacher(reply)
    shadow = {"enabled": True, "rate": 1.0, "path": tmp_path / "shadow.sqlite", "teacher": {"kind": "played"}}
    async with deferring(teacher, service={"shadow": shadow}) as client:
        await answers(client, *[SURE] * 20, *["parcel"] * 30)  # the student takes the former for `account`
        await answers(client, *[UNSURE] * 50)
        found: dict[str, Any] = {}

        async def compared() -> bool:
            found.update((await client.get("/gap")).json())
            return bool(found["counts"]["compared"] == 50)

        await until(compared)
    assert found["counts"]["requests"] == found["counts"]["sampled"] == 50, "what the teacher answered is not sampled"
    assert found["gap"]["ratio"] == pytest.approx(0.4)
    deferred = found["deferred"]
    assert (deferred["answered"], deferred["share"]) == (50, 0.5)
    assert deferred["gap"]["ratio"] == pytest.approx(0.2)
    assert deferred["gap"]["lower"] < 0.2 < deferred["gap"]["upper"]


async def test_a_text_that_the_student_answered_instead_is_shadowed_like_any(deferring: Any, tmp_path: Any) -> None:
    replies = iter([fail])

    async def reply(texts: Sequence[str]) -> Any:
        return await next(replies, says("shipping"))(texts)

    shadow = {"enabled": True, "rate": 1.0, "path": tmp_path / "shadow.sqlite", "teacher": {"kind": "played"}}
    async with deferring(reply, service={"shadow": shadow}) as client:
        (result,) = await answers(client, UNSURE)
        assert told(result)[-1] == "teacher_error"
        found: dict[str, Any] = {}

        async def compared() -> bool:
            found.update((await client.get("/gap")).json())
            return bool(found["counts"]["compared"] == 1)

        await until(compared)
    assert found["counts"]["disagreements"] == 1
    assert found["deferred"]["answered"] == 0


async def test_without_a_teacher_the_start_is_refused(running: Any, bundle: Any) -> None:
    with pytest.raises(StartupError, match=r"tiny-cascade leaves texts to its teacher.*REFLUX_DEFER__TEACHER"):
        async with running(bundle=bundle.path):
            pass


async def test_a_witness_beside_the_teacher_is_refused(
    deferring: Any, bundle: Any, student: Any, tmp_path: Any
) -> None:
    witness = build_witness(tmp_path / "witness", bundle, student)
    shadow = {"enabled": True, "path": tmp_path / "shadow.sqlite", "teacher": {"kind": "played"}}
    with pytest.raises(StartupError, match=r"unset shadow\.witness"):
        async with deferring(says("billing"), service={"shadow": {**shadow, "witness": witness.path}}):
            pass


async def test_a_teacher_of_other_labels_is_refused(deferring: Any) -> None:
    teacher = Teacher(hang)
    teacher.labels = ("a", "b")
    with pytest.raises(StartupError, match=r"defer\.teacher"):
        async with deferring(teacher):
            pass
    assert teacher.closed


async def test_a_teacher_may_not_take_longer_than_a_stop(deferring: Any) -> None:
    with pytest.raises(StartupError, match="must be less than the 20 of REFLUX_SHUTDOWN_SECONDS"):
        async with deferring(hang, deadline_seconds=20):
            pass


async def test_the_teacher_of_the_shadow_serves_where_no_other_is_named(
    bundle: Any, student: Any, running: Any, tmp_path: Any
) -> None:
    shadow = {"path": tmp_path / "shadow.sqlite", "teacher": {"kind": "bundle", "path": str(student.path)}}
    async with running(bundle=bundle.path, shadow=shadow) as client:
        (result,) = await answers(client, UNSURE)
    assert told(result) == ("billing", "teacher", True, None)


async def test_a_process_that_does_not_classify_needs_no_teacher_to_defer_to(make_settings: Any, bundle: Any) -> None:
    app = create_worker_app(make_settings(bundle=bundle.path))
    async with app.router.lifespan_context(app):
        assert app.state.reflux.models.loaded


async def test_a_reload_to_another_kind_of_bundle_and_back_loses_no_text(
    bundle: Any, student: Any, running: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    path = rewritten(bundle, tmp_path / "served").path
    teacher = Held()
    async with running(**prepared(bundle, monkeypatch, teacher) | {"bundle": path}, admin=True) as client:
        waiting = asyncio.create_task(answers(client, UNSURE))
        await until(lambda: teacher.asked)
        rewritten(student, path)
        assert (await client.post("/admin/reload")).status_code == 200
        (plain,) = await answers(client, UNSURE)
        assert "deferred" not in plain
        teacher.opened.set()
        assert told((await waiting)[0]) == ("shipping", "teacher", True, None)
        rewritten(bundle, path)
        assert (await client.post("/admin/reload")).status_code == 200
        assert told((await answers(client, UNSURE))[0]) == ("shipping", "teacher", True, None)
