"""A full queue refuses whole requests, says when to come again, and goes on serving."""

from __future__ import annotations

import asyncio
import threading

import pytest

from export.runtime import Classifier


@pytest.fixture
def gate(monkeypatch):
    """`gate()` makes every inference wait until `gate.set()`; it returns the event that one has begun."""
    opened, begun = threading.Event(), threading.Event()
    run = Classifier.run

    def wait(self, rows):
        begun.set()
        assert opened.wait(30)
        return run(self, rows)

    def close():
        monkeypatch.setattr(Classifier, "run", wait)
        return begun

    close.set = opened.set
    yield close
    opened.set()


async def depth(client):
    lines = (await client.get("/metrics")).text.splitlines()
    return float(next(line for line in lines if line.startswith("reflux_queue_depth{")).split()[1])


async def test_a_full_queue_refuses_whole_requests_with_retry_after(running, gate):
    async with running(queue_limit=4, max_texts=4) as client:

        def ask(*texts):
            return asyncio.create_task(client.post("/classify", json={"texts": texts}))

        begun = gate()
        accepted = [ask("invoice")]
        assert await asyncio.to_thread(begun.wait, 30)
        accepted.append(ask("courier", "login", "crash"))
        async with asyncio.timeout(30):
            while await depth(client) < 3:
                await asyncio.sleep(0)
        refused = await ask("invoice", "courier")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "overloaded"
        assert await depth(client) == 3, "nothing of a refused request waits"
        assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 200]
        gate.set()
        answers = [(await request).json()["results"] for request in accepted]
        assert [[item["label"] for item in results] for results in answers] == [
            ["billing"],
            ["shipping", "account", "technical"],
        ]
        assert (await ask("invoice", "courier")).status_code == 200
