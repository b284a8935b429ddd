"""More than can be answered: whole requests are refused at once and told when to come again; the others are served."""

from __future__ import annotations

import asyncio
import json

import httpx

from export.bundle.classifier import Classifier
from tests.support.waiting import until


def series(page, name):
    """The value of the one series that begins like this."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"reflux_{name}"))
    return float(line.split()[-1])


async def metric(client, name):
    return series((await client.get("/metrics")).text, name)


async def test_a_full_queue_refuses_whole_requests_with_retry_after(running, gate):
    async with running(queue_limit=4, max_texts=4) as client:

        def ask(*texts):
            return asyncio.create_task(client.post("/classify", json={"texts": texts}))

        async def depth_is(count):
            return await metric(client, "queue_depth{") == count

        gate.close()
        accepted = [ask("invoice")]
        await gate.held()
        accepted.append(ask("courier", "login", "crash"))
        await until(lambda: depth_is(3))
        refused = await ask("invoice", "courier")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "overloaded"
        assert await depth_is(3), "nothing of a refused request waits"
        assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 200]
        gate.opened.set()
        answers = [(await request).json()["results"] for request in accepted]
        assert [[item["label"] for item in results] for results in answers] == [
            ["billing"],
            ["shipping", "account", "technical"],
        ]
        assert (await ask("invoice", "courier")).status_code == 200


async def test_what_cannot_be_answered_in_time_is_refused_before_any_work(running, monkeypatch):
    async with running() as client:
        encoded = []
        monkeypatch.setattr(Classifier, "encode", lambda self, text: encoded.append(text))
        refused = await client.post("/classify", json={"text": "a"}, headers={"x-request-timeout-ms": "0.000001"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        assert encoded == []


async def test_a_deadline_that_passes_while_waiting_is_a_504(running, gate):
    async with running() as client:

        async def one_waits():
            return await metric(client, "queue_depth{") == 1

        gate.close()
        held = asyncio.create_task(client.post("/classify", json={"text": "invoice"}))
        await gate.held()
        headers = {"x-request-timeout-ms": "200"}
        late = asyncio.create_task(client.post("/classify", json={"text": "courier"}, headers=headers))
        await until(one_waits)
        await asyncio.sleep(0.21)
        gate.opened.set()
        response = await late
        assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline")
        assert (await held).status_code == 200, "what had begun in time is answered"


async def test_a_client_that_hangs_up_frees_its_places(listening, connect, gate):
    async with listening(queue_limit=4, max_texts=4) as serving:
        four = {"texts": ["courier", "login", "crash", "invoice"]}

        async def page():
            async with httpx.AsyncClient() as probe:
                return (await probe.get(f"http://127.0.0.1:{serving.port}/metrics")).text

        async def depth_is(count):
            return series(await page(), "queue_depth{") == count

        gate.close()
        held, waiting, refused, admitted = [await connect(serving.port) for _ in range(4)]
        held.send(json.dumps({"text": "invoice"}).encode())
        await gate.held()
        waiting.send(json.dumps(four).encode())
        await until(lambda: depth_is(4))
        assert (await refused.ask({"text": "invoice"}))[0] == 429
        waiting.close()
        await until(lambda: depth_is(0))
        admitted.send(json.dumps(four).encode())
        await until(lambda: depth_is(4))
        gate.opened.set()
        assert (await held.receive())[0] == 200
        status, _, body = await admitted.receive()
        assert status == 200
        assert [result["label"] for result in body["results"]] == ["shipping", "account", "technical", "billing"]
        counted = await page()
        assert 'outcome="left"} 1.0' in counted
        assert series(counted, 'http_requests_total{code="499"') == 1
        for connection in (held, refused, admitted):
            connection.close()
