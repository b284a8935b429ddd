"""The log and the metrics never contain a text, whatever the route and the failure."""

import json

import httpx
import pytest

from service.auth.keyfile import key_line

SECRET = "xyzzyplugh"
QUICK = {"REFLUX_DRAIN_SECONDS": "0", "REFLUX_IDLE_GRACE_SECONDS": "0", "REFLUX_LOG_LEVEL": "debug"}
BODIES = (
    {"text": SECRET},
    {"texts": [SECRET, f"invoice {SECRET}"]},
    {"inputs": SECRET},
    {"inputs": [SECRET]},
    {"input": SECRET, "model": SECRET},
    {"instances": [SECRET]},
    {SECRET: SECRET},
    [SECRET],
    SECRET,
)
FAILING = (
    ({"text": f"poison {SECRET}"}, 500),
    ({"text": SECRET * 20_000}, 422),
    ({"text": SECRET, "top_k": SECRET}, 422),
    ({"text": SECRET * 200_000}, 413),
)


@pytest.fixture
def variables(tmp_path):
    """Variables that turn on everything that logs, counts or refuses."""
    keys = [key_line("mine", "right", "admin"), key_line("slow", "slow", "rate=0.001/s"), key_line("lesser", "lesser")]
    (tmp_path / "keys").write_text("\n".join(keys))
    return {"REFLUX_ACCESS_LOG": "true", "REFLUX_ADMIN": "true", "REFLUX_API_KEYS": str(tmp_path / "keys"), **QUICK}


async def test_no_text_is_in_the_log_or_the_metrics(start_process, variables):
    async with start_process(**variables) as process:
        address = f"http://127.0.0.1:{process.port}"
        async with httpx.AsyncClient(base_url=address, headers={"x-api-key": "right"}, timeout=30) as client:
            statuses = set()

            async def ask(method, path, **options):
                statuses.add((await client.request(method, path, **options)).status_code)

            for path, operations in (await client.get("/openapi.json")).json()["paths"].items():
                path = path.replace("{", "").replace("}", "")
                for method in operations:
                    for body in BODIES:
                        await ask(method, path, json=body, params={SECRET: SECRET, "variant": SECRET})
                        await ask(method, path, json=body)
                await ask("POST", path, content=f'{{"text": "{SECRET}')
                await ask("DELETE", path, json=BODIES[0])
            for body, status in FAILING:
                assert (await client.post("/classify", json=body)).status_code == status
            for headers, status in (
                ({"x-api-key": SECRET}, 401),
                ({"x-request-timeout-ms": "0.001"}, 429),
                ({"x-request-timeout-ms": SECRET}, 422),
                ({"x-reflux-variant": SECRET}, 422),
                ({"content-type": SECRET}, 415),
                ({"x-api-key": "slow"}, 200),
                ({"x-api-key": "slow"}, 429),
                ({"traceparent": SECRET}, 200),
            ):
                answer = await client.post("/classify", json={"text": SECRET}, headers=headers)
                assert (answer.status_code, "x-request-id" in answer.headers) == (status, True)
            await ask("POST", "/admin/reload", json={"text": SECRET}, headers={"x-api-key": "lesser"})
            await ask("GET", f"/{SECRET}", params={SECRET: SECRET})
            await ask(SECRET, "/classify")
            page = (await client.get("/metrics")).text
        process.terminate()
        assert await process.ended() == 0
    assert {200, 400, 403, 404, 405, 422} <= statuses
    events = [json.loads(line) for line in process.lines]
    assert {event["code"] for event in events if event["event"] == "request"} >= {200, 401, 403, 413, 422, 429, 500}
    assert all(event["exception"] for event in events if event["event"] == "request failed")
    assert "reflux_http_requests_total" in page
    for kept in (process.log, page):
        assert SECRET not in kept
        assert SECRET.upper() not in kept
