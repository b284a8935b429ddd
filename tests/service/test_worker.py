"""`reflux serve` without a teacher, `reflux worker` and `reflux migrate`, as processes with one database."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.support.postgres import SharedStore
from tests.support.service_process import service_process
from tests.support.waiting import until

ROOT = Path(__file__).parents[2]
WORKER = ("-m", "reflux", "worker")


def reflux(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REFLUX_")}
    command = [sys.executable, "-m", "reflux", *arguments]
    return subprocess.run(command, cwd=ROOT, env=inherited | variables, capture_output=True, text=True, timeout=60)


@pytest.fixture
def environment(tiny_bundle, tiny_teacher, shared_store, tmp_path) -> dict[str, str]:
    """The settings of all processes. The URL has no password; the file has."""
    password = tmp_path / "password"
    password.write_text(f"{shared_store.server.password}\n")
    return {
        "REFLUX_BUNDLE": str(tiny_bundle.path),
        "REFLUX_SHADOW__ENABLED": "true",
        "REFLUX_SHADOW__RATE": "1",
        "REFLUX_SHADOW__DATABASE": f"postgresql://reflux@127.0.0.1:{shared_store.server.port}/{shared_store.name}",
        "REFLUX_SHADOW__DATABASE_PASSWORD_FILE": str(password),
        "REFLUX_SHADOW__FLUSH_SECONDS": "0.02",
        "REFLUX_SHADOW__ASK": "false",
        "REFLUX_DRAIN_SECONDS": "0",
        "REFLUX_IDLE_GRACE_SECONDS": "0",
    }


@pytest.fixture
def teacher(tiny_teacher) -> dict[str, str]:
    return {"REFLUX_SHADOW__TEACHER": json.dumps({"kind": "bundle", "path": str(tiny_teacher.path)})}


async def test_from_an_answer_over_the_worker_to_the_gap(environment, teacher, shared_store, words):
    texts = [" ".join(some[:length]) for some in words.values() for length in range(1, 6)]
    texts += ["refund", "late"]  # which the teacher takes for other labels
    async with AsyncExitStack() as stack:
        serving = [await stack.enter_async_context(service_process(**environment)) for _ in range(2)]
        worker = await stack.enter_async_context(service_process(*WORKER, **environment, **teacher))
        client = await stack.enter_async_context(httpx.AsyncClient())
        for number, text in enumerate(texts):
            url = f"http://127.0.0.1:{serving[number % 2].port}/classify"
            assert (await client.post(url, json={"text": text})).status_code == 200
        await until(lambda: shared_store.execute("SELECT count(agree) FROM rows") == [(len(texts),)], pause=0.05)
        ((disagreements,),) = shared_store.execute("SELECT count(*) FROM rows WHERE agree = 0")
        expected = {
            "requests": len(texts), "sampled": len(texts), "compared": len(texts), "disagreements": disagreements,
        }  # fmt: skip
        assert disagreements > 0

        async def counts(process) -> bool:
            found = (await client.get(f"http://127.0.0.1:{process.port}/gap")).json()
            return found["counts"] == expected and found["cost"]["usd"] is not None

        for process in (*serving, worker):
            await until(partial(counts, process), pause=0.1)
        at_worker = f"http://127.0.0.1:{worker.port}"
        listed = (await client.get(f"{at_worker}/gap/disagreements")).json()["rows"]
        assert len(listed) == disagreements
        for path in ("/gap/history", "/livez", "/readyz", "/startupz", "/metrics", "/model", "/"):
            assert (await client.get(f"{at_worker}{path}")).status_code == 200, path
        assert (await client.post(f"{at_worker}/classify", json={"text": "x"})).status_code == 404
        for process in (*serving, worker):
            does = (await client.get(f"http://127.0.0.1:{process.port}/model")).json()["process"]
            assert does == {"classifies": process is not worker, "asks": process is worker}
        refused = await client.post(f"http://127.0.0.1:{serving[0].port}/gap/ask", json={"text": "x"})
        assert (refused.status_code, "reflux worker" in refused.text) == (422, True)
        for process in (*serving, worker):
            process.terminate()
            assert await process.ended() == 0
            assert process.errors == []
            assert shared_store.server.password not in process.log


async def test_a_worker_that_is_told_to_stop_ends_its_call_and_takes_no_other(
    environment, teacher, shared_store, words
):
    """It is stopped while rows wait; what it took and did not ask about is free at once."""
    environment |= {"REFLUX_SHADOW__CONCURRENCY": "1", "REFLUX_SHADOW__STOP_SECONDS": "3"}
    async with service_process(**environment) as serving, httpx.AsyncClient() as client:
        url = f"http://127.0.0.1:{serving.port}/classify"
        for number in range(40):
            assert (await client.post(url, json={"text": f"{words['billing'][0]} {number}"})).status_code == 200
        await until(lambda: shared_store.execute("SELECT count(*) FROM rows") == [(40,)], pause=0.02)
        async with service_process(*WORKER, **environment, **teacher) as worker:
            await until(lambda: shared_store.execute("SELECT count(agree) FROM rows")[0][0] > 0, pause=0.005)
            worker.terminate()
            began = asyncio.get_running_loop().time()
            assert await worker.ended() == 0
            assert asyncio.get_running_loop().time() - began < 15
    assert shared_store.execute("SELECT count(lease) FROM rows WHERE outcome IS NULL") == [(0,)]


@pytest.mark.parametrize("command", [("-m", "service"), WORKER], ids=["serve", "worker"])
async def test_tables_must_be_migrated_first(environment, teacher, postgres, command):
    environment["REFLUX_SHADOW__DATABASE"] = SharedStore(postgres, postgres.create()).url
    async with service_process(*command, **environment, **teacher) as process:
        assert await process.ended() == 1
        assert "has no tables of Reflux; run `reflux migrate`" in process.log
        assert postgres.password not in process.log


async def test_tables_are_migrated_once_and_those_of_a_later_version_refused(environment, postgres):
    empty = SharedStore(postgres, postgres.create())
    environment["REFLUX_SHADOW__DATABASE"] = empty.url
    first, second = (reflux("migrate", **environment) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "has new tables of schema 2" in first.stdout
    assert "is at schema 2" in second.stdout
    assert postgres.password not in first.stdout
    empty.execute("INSERT INTO schema_version (version) VALUES (99)")
    async with service_process(**environment) as process:
        assert await process.ended() == 1
        assert "has schema 99" in process.log
    third = reflux("migrate", **environment)
    assert (third.returncode, "has schema 99" in third.stderr) == (1, True)


def test_migrations_at_once_wait_for_each_other(environment, postgres):
    empty = SharedStore(postgres, postgres.create())
    environment["REFLUX_SHADOW__DATABASE"] = empty.url
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("REFLUX_")}
    command = [sys.executable, "-m", "reflux", "migrate"]
    running = [subprocess.Popen(command, cwd=ROOT, env=inherited | environment) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert empty.execute("SELECT version FROM schema_version ORDER BY version") == [(1,), (2,)]


def test_a_wrong_password_is_named_and_not_repeated(environment, tmp_path):
    (tmp_path / "wrong").write_text("not-the-password")
    found = reflux("migrate", **environment | {"REFLUX_SHADOW__DATABASE_PASSWORD_FILE": str(tmp_path / "wrong")})
    assert found.returncode == 1
    assert "password authentication failed" in found.stderr
    assert "not-the-password" not in found.stderr
    found = reflux("migrate", **environment | {"REFLUX_SHADOW__DATABASE_PASSWORD_FILE": "not-the-password"})
    assert "shadow.database_password_file: No such file" in found.stderr
    assert "not-the-password" not in found.stderr


async def test_a_worker_needs_a_database(environment, teacher):
    del environment["REFLUX_SHADOW__DATABASE"]
    environment["REFLUX_SHADOW__ASK"] = "true"
    async with service_process(*WORKER, **environment, **teacher) as process:
        assert await process.ended() == 1
        assert "a worker needs" in process.log
