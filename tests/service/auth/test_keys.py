"""Who may use the service: keys, their rates, their rotation, and what needs no key."""

from __future__ import annotations

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from service.app import create_app
from service.auth.keyfile import KeyOptions, key_line
from service.auth.keys import Caller, Keys
from service.errors import RateLimitedError, StartupError
from service.telemetry.metrics import Metrics

TEXT = {"text": "invoice"}
PROBES = ("/livez", "/readyz", "/startupz", "/health", "/ping", "/v2/health/live", "/v2/health/ready")
NO_SECRETS = ("/", "/docs", "/docs/swagger-ui.css", "/openapi.json")


@dataclass
class Guarded:
    """A client of an app with keys, and the keys."""

    client: httpx.AsyncClient
    keys: Keys

    async def classify(self, key: str, body: Any = TEXT, **headers: str) -> httpx.Response:
        return await self.client.post("/classify", json=body, headers={**bearer(key), **headers})

    async def statuses(self, *keys: str) -> list[int]:
        """The status that each key gets."""
        return [(await self.client.get("/model", headers=bearer(key))).status_code for key in keys]

    async def admitted(self) -> dict[tuple[str, str], float]:
        """The samples of `reflux_key_requests_total` that are not 0."""
        return {
            (sample.labels["key"], sample.labels["outcome"]): sample.value
            for family in text_string_to_metric_families((await self.client.get("/metrics")).text)
            for sample in family.samples
            if sample.name == "reflux_key_requests_total" and sample.value
        }


@pytest.fixture
def guarded(make_settings):
    """`async with guarded(path, **settings) as service`: an app with the keys of a file."""

    @asynccontextmanager
    async def run(path, **settings):
        app = create_app(make_settings(api_keys=path, **settings))
        async with app.router.lifespan_context(app):
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://reflux") as client:
                yield Guarded(client, app.state.reflux.keys)

    return run


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.mark.parametrize(
    "headers",
    [
        bearer("right"),
        {"authorization": "bearer right"},
        {"x-api-key": "right"},
        {"authorization": "Basic eDp5", "x-api-key": "right"},
    ],
)
async def test_a_key_may_be_in_either_header(guarded, write_keys, headers):
    async with guarded(write_keys(other="wrong", tickets="right")) as service:
        assert (await service.client.post("/classify", json=TEXT, headers=headers)).status_code == 200
        assert await service.admitted() == {("tickets", "allowed"): 1}


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({}, "needed"),
        ({"authorization": "Bearer "}, "needed"),
        ({"authorization": "Basic cmlnaHQ="}, "needed"),
        (bearer("wrong"), "not known"),
        (bearer("righ"), "not known"),
        (bearer("right2"), "not known"),
        ({"authorization": b"Bearer r\xffght"}, "not known"),
        ({"x-api-key": "Bearer right"}, "not known"),
        ({**bearer("wrong"), "x-api-key": "right"}, "not known"),
    ],
)
async def test_without_a_known_key_nothing_is_answered(guarded, write_keys, headers, message):
    asked = [("POST", "/classify"), ("GET", "/model"), ("GET", "/nope"), ("POST", "/livez")]
    async with guarded(write_keys(tickets="right")) as service:
        for method, path in asked:
            given = {"x-request-id": "mine", **headers}
            response = await service.client.request(method, path, json=TEXT, headers=given)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.headers["x-request-id"] == "mine"
            error = response.json()["error"]
            assert (error["code"], error["request_id"]) == ("unauthorised", "mine")
            assert message in error["message"]
        assert await service.admitted() == {("", "unauthorised"): len(asked)}


@pytest.mark.parametrize(
    ("path", "message_of"),
    [
        ("/predict", lambda error: error["error"]),
        ("/", lambda error: error["error"]),
        ("/v1/models/tiny:predict", lambda error: error["error"]),
        ("/v2/models/tiny/infer", lambda error: error["error"]),
        ("/v1/classify", lambda error: error["error"]["message"]),
        ("/v1/decisions", lambda error: error["error"]["message"]),
        ("/v1/systemone", lambda error: error["detail"]["message"]),
        ("/classify", lambda error: error["error"]["message"]),
    ],
)
async def test_refusals_have_the_error_shape_of_the_protocol(guarded, write_keys, path, message_of):
    async with guarded(write_keys(tickets="right:rate=0.01/s")) as service:
        assert "a key is needed" in message_of((await service.client.post(path, json={})).json())
        await service.classify("right")
        limited = await service.client.post(path, json={}, headers=bearer("right"))
        assert limited.status_code == 429
        assert "this key has 0.01 texts a second" in message_of(limited.json())


async def test_without_a_key_the_body_is_not_read(make_settings, write_keys):
    app = create_app(make_settings(api_keys=write_keys(tickets="right")))
    sent = []

    async def receive():
        raise AssertionError("read")

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/classify", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    assert sent[0]["status"] == 401


@pytest.mark.parametrize(("settings", "open_metrics"), [({}, True), ({"metrics_open": False}, False)])
async def test_probes_and_pages_need_no_key_and_metrics_as_configured(guarded, write_keys, settings, open_metrics):
    async with guarded(write_keys(tickets="right"), **settings) as service:
        for path in (*PROBES, *NO_SECRETS):
            assert (await service.client.get(path)).status_code == 200
        assert (await service.client.get("/metrics")).status_code == (200 if open_metrics else 401)
        page = (await service.client.get("/metrics", headers=bearer("right"))).text
        page = (await service.client.get("/metrics", headers=bearer("right"))).text
        assert not open_metrics or await service.admitted() == {}
    series = [("tickets", "allowed"), ("tickets", "limited"), ("tickets", "forbidden"), ("", "unauthorised")]
    for name, outcome in series:  # at zero, too
        assert f'reflux_key_requests_total{{key="{name}",outcome="{outcome}"}} ' in page


async def test_only_an_admin_may_administer(guarded, write_keys):
    async with guarded(write_keys(tickets="right", boss="master:admin"), admin=True) as service:
        client = service.client
        response = await client.post("/admin/reload", headers={**bearer("right"), "x-request-id": "mine"})
        assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
        assert response.headers["x-request-id"] == "mine"
        assert (await client.post("/admin/reload")).status_code == 401
        assert (await client.post("/admin/reload", headers=bearer("master"))).status_code == 200
        assert (await service.classify("master")).status_code == 200
        assert await service.admitted() == {
            ("tickets", "forbidden"): 1,
            ("", "unauthorised"): 1,
            ("boss", "allowed"): 2,
        }


async def test_the_log_names_the_key_and_does_not_hold_it(guarded, write_keys):
    async with guarded(write_keys(tickets="right"), access_log=True) as service:
        with capture_logs() as events:
            await service.classify("right")
            await service.classify("wrong")
    assert [event["key"] for event in events if event["event"] == "request"] == ["tickets", None]
    assert "right" not in str(events)
    assert "wrong" not in str(events)


async def test_a_rate_counts_texts_and_its_refusal_says_when_to_retry(guarded, write_keys):
    async with guarded(write_keys(tickets="slow:rate=0.01/s", other="fast")) as service:
        assert (await service.classify("slow", {"texts": ["invoice"] * 5})).status_code == 200
        response = await service.classify("slow", **{"x-request-id": "mine"})
        assert (response.status_code, response.json()["error"]["code"]) == (429, "rate_limited")
        assert response.headers["x-request-id"] == "mine"
        assert 400 < int(response.headers["retry-after"]) <= 500
        assert (await service.classify("fast")).status_code == 200
        assert await service.admitted() == {
            ("tickets", "allowed"): 1,
            ("tickets", "limited"): 1,
            ("other", "allowed"): 1,
        }
        # It is refused before its body is read.
        response = await service.client.post("/classify", content=b"no JSON", headers=bearer("slow"))
        assert response.json()["error"]["code"] == "rate_limited"


async def test_concurrent_requests_do_not_exceed_the_rate(guarded, write_keys):
    async with guarded(write_keys(tickets="slow:rate=0.01/s")) as service:
        answered = await asyncio.gather(*(service.classify("slow") for _ in range(20)))
        assert sorted(response.status_code for response in answered) == [200, *[429] * 19]
        assert await service.admitted() == {("tickets", "allowed"): 1, ("tickets", "limited"): 19}


@pytest.mark.parametrize(("path", "body"), [("/classify", TEXT), ("/predict", {"inputs": "invoice"})])
async def test_overload_refusals_cost_a_key_nothing(guarded, write_keys, path, body):
    async with guarded(write_keys(tickets="slow:rate=0.01/s")) as service:
        hurried = {**bearer("slow"), "x-request-timeout-ms": "0.001"}  # less than any text takes
        for _ in range(3):
            response = await service.client.post(path, json=body, headers=hurried)
            assert response.status_code == 429
            assert "this key" not in response.text
        assert (await service.classify("slow")).status_code == 200
        assert (await service.classify("slow")).status_code == 429


def test_over_time_a_caller_gets_its_rate_in_requests_of_any_size():
    caller = Caller("tickets", KeyOptions(rate=10.0))
    answered, now = 0, 1000.0
    while now < 1100.0:
        try:
            caller.spend(7, now)
            answered += 7
            now += 0.01
        except RateLimitedError as error:
            now += int(error.headers["retry-after"])
    assert 900 <= answered <= 1010 + 7


def test_a_caller_is_admitted_after_the_seconds_that_a_refusal_names():
    caller = Caller("tickets", KeyOptions(rate=10.0))
    caller.spend(64, 1000.0)
    with pytest.raises(RateLimitedError) as refused:
        caller.spend(1, 1000.0)
    assert refused.value.headers["retry-after"] == "6"  # 54 are owed
    caller.spend(1, 1006.0)


def test_a_bucket_holds_the_texts_of_one_second():
    caller = Caller("tickets", KeyOptions(rate=10.0))
    for _ in range(10):
        caller.spend(1, 5000.0)
    with pytest.raises(RateLimitedError):
        caller.spend(1, 5000.0)


async def test_keys_are_rotated_without_a_restart(guarded, write_keys):
    async with guarded(write_keys(tickets="old")) as service:
        assert await service.statuses("old", "new") == [200, 401]
        write_keys(tickets="old", tickets__2="new")
        service.keys.refresh()
        assert await service.statuses("old", "new") == [200, 200]
        write_keys(tickets="new")
        service.keys.refresh()
        assert await service.statuses("old", "new") == [401, 200]


async def test_the_file_is_checked_once_a_second(guarded, write_keys, monkeypatch):
    async with guarded(write_keys(tickets="old")) as service:
        looks = []
        monkeypatch.setattr(Keys, "refresh", lambda _: looks.append(1))
        service.keys._checked -= 10
        await service.statuses("old", "old", "old")
    assert len(looks) == 1


def replace(path, make):
    path.unlink()
    make(path)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda path: path.write_text("hunter2"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text(key_line("tickets", "right") + "\n" + key_line("other", "more")[:40]),
        lambda path: replace(path, os.mkdir),
        lambda path: replace(path, os.mkfifo),
    ],
    ids=["text", "bytes", "half", "directory", "pipe"],
)
async def test_an_invalid_file_leaves_the_keys_and_is_logged_once(guarded, write_keys, break_it):
    path = write_keys(tickets="right")
    async with guarded(path) as service:
        with capture_logs() as events:
            break_it(path)
            service.keys.refresh()
            service.keys.refresh()
            assert await service.statuses("right") == [200]
        assert [event["log_level"] for event in events] == ["error"]
        assert "previous keys stay in force" in str(events)
        assert "hunter2" not in str(events)
        if path.is_dir():
            path.rmdir()
        write_keys(tickets="new")
        service.keys.refresh()
        assert await service.statuses("new", "right") == [200, 401]


@pytest.mark.parametrize(
    "empty",
    [
        lambda path: path.write_text(""),
        lambda path: path.write_text("# nobody any more\n\n"),
        lambda path: path.unlink(),
        lambda path: replace(path, lambda path: path.symlink_to(path.parent / "nowhere")),
    ],
    ids=["emptied", "comments", "deleted", "dangling"],
)
async def test_an_emptied_or_deleted_file_revokes_all_keys_and_is_logged_once(guarded, write_keys, empty):
    path = write_keys(tickets="right", boss="master:admin")
    async with guarded(path, admin=True) as service:
        assert await service.statuses("right") == [200]
        with capture_logs() as events:
            empty(path)
            service.keys.refresh()
            assert await service.statuses("right", "right") == [401, 401]
            assert (await service.client.post("/admin/reload", headers=bearer("master"))).status_code == 401
        errors = [event for event in events if event["log_level"] == "error"]
        assert [event["event"] for event in errors] == ["all keys are revoked"]
        assert str(path) in errors[0]["error"]
        path.write_text("half a li")
        assert await service.statuses("right") == [401]
        write_keys(tickets="right")
        assert await service.statuses("right") == [200]  # without waiting for the next second


async def test_a_mounted_secret_is_replaced_by_its_link(guarded, tmp_path):
    for number, key in enumerate(("old", "new")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "keys").write_text(key_line("tickets", key))
    (tmp_path / "..data").symlink_to("0")
    (tmp_path / "keys").symlink_to("..data/keys")
    async with guarded(tmp_path / "keys") as service:
        assert await service.statuses("old") == [200]
        (tmp_path / "..new").symlink_to("1")
        (tmp_path / "..new").rename(tmp_path / "..data")
        service.keys.refresh()
        assert await service.statuses("old", "new") == [401, 200]


async def test_a_new_key_for_a_name_keeps_its_token_bucket(guarded, write_keys):
    async with guarded(write_keys(tickets="old:rate=0.01/s")) as service:
        assert (await service.classify("old")).status_code == 200
        for options, status in (("rate=0.01/s", 429), ("rate=9/s", 200)):
            write_keys(tickets=f"new:{options}")
            service.keys.refresh()
            assert (await service.classify("new")).status_code == status


def test_an_invalid_file_stops_the_start(make_settings, tmp_path):
    with pytest.raises(StartupError, match="cannot be read"):
        create_app(make_settings(api_keys=tmp_path / "none"))


def test_every_key_is_compared_whichever_matches(write_keys, monkeypatch):
    keys = Keys(write_keys(a="1", b="2", c="3"), Metrics())
    compared = []

    def compare(left, right):
        compared.append(left)
        return left == right

    monkeypatch.setattr("service.auth.keys.hmac.compare_digest", compare)
    assert keys._find(b"1").name == "a"
    assert len(set(compared)) == 3


async def test_the_document_says_which_operations_need_a_key(guarded, write_keys, client):
    async with guarded(write_keys(tickets="right"), admin=True) as secured:
        paths = (await secured.client.get("/openapi.json")).json()["paths"]
    assert "401" in paths["/classify"]["post"]["responses"]
    assert paths["/classify"]["post"]["security"] == [{"bearer": []}, {"header": []}]
    assert {"401", "403"} <= set(paths["/admin/reload"]["post"]["responses"])
    refused = paths["/v2/models/{name}/infer"]["post"]["responses"]["401"]["content"]["application/json"]["schema"]
    assert refused == {"$ref": "#/components/schemas/KServeErrorBody"}
    assert "security" not in paths["/livez"]["get"]
    assert "security" not in (await client.get("/openapi.json")).json()["paths"]["/classify"]["post"]
