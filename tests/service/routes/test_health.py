"""Probes reflect starting, stopping and inference threads that ended."""

import asyncio

import httpx

from export.bundle.classifier import Classifier
from service.app import create_app

PROBES = ("/livez", "/readyz", "/startupz")


async def statuses(client):
    return [(await client.get(path)).status_code for path in PROBES]


async def test_a_started_service_is_alive_ready_and_started(client):
    assert await statuses(client) == [200, 200, 200]
    assert (await client.get("/readyz")).json() == {"status": "ok"}


async def test_before_the_start_a_service_is_alive_but_neither_ready_nor_started(make_settings):
    transport = httpx.ASGITransport(create_app(make_settings()))
    async with httpx.AsyncClient(transport=transport, base_url="http://reflux") as client:
        assert await statuses(client) == [200, 503, 503]
        for method, path in (("POST", "/classify"), ("GET", "/model"), ("GET", "/gap")):
            response = await client.request(method, path, json={"text": "invoice"})
            assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")


async def test_a_dead_inference_thread_fails_the_probes_and_leaves_no_request_waiting(client, monkeypatch):
    def die(self, rows):
        raise SystemExit

    monkeypatch.setattr(Classifier, "run", die)
    response = await client.post("/classify", json={"text": "invoice"})
    assert response.json()["error"]["code"] == "inference_failed"
    assert await statuses(client) == [503, 503, 200]
    assert (await client.post("/classify", json={"text": "invoice"})).json()["error"]["code"] == "not_ready"


async def test_a_run_that_takes_too_long_fails_livez(running, gate):
    async with running(stall_seconds=1e-9) as client:
        assert (await client.get("/livez")).status_code == 200
        gate.close()
        asking = asyncio.create_task(client.post("/classify", json={"text": "invoice"}))
        await gate.held()
        assert (await client.get("/livez")).status_code == 503
        gate.opened.set()
        assert (await asking).status_code == 200
