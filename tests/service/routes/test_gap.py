"""`GET /gap`, `/gap/history` and `/gap/disagreements`, as a client sees them."""

from __future__ import annotations

import pytest

from service.monitor.windows import NAMES
from tests.support.waiting import until


@pytest.fixture
def shadow(tmp_path, tiny_teacher):
    return {
        "enabled": True,
        "rate": 1.0,
        "path": tmp_path / "shadow.sqlite",
        "teacher": {"kind": "bundle", "path": str(tiny_teacher.path)},
    }


async def ask(client, *texts):
    """Classify the texts, wait until all are compared, and return the report."""
    for text in texts:
        assert (await client.post("/classify", json={"text": text})).status_code == 200

    async def compared():
        return (await client.get("/gap")).json()["counts"]["compared"] == len(texts)

    await until(compared)
    return (await client.get("/gap")).json()


async def test_without_a_teacher_the_verdict_is_blind(client):
    found = (await client.get("/gap")).json()
    assert (found["verdict"], found["enabled"], found["window"]) == ("blind", False, "since")
    assert found["blind"] == [found["message"]]
    assert found["gap"]["ratio"] is None


@pytest.mark.parametrize("path", ["/gap", "/gap/history"])
async def test_an_unknown_window_is_refused_with_those_that_there_are(client, path):
    response = await client.get(path, params={"window": "2h"})
    assert response.status_code == 422
    assert all(name in response.json()["error"]["message"] for name in NAMES)


async def test_a_window_changes_the_gap_but_not_the_verdict(running, shadow):
    async with running(shadow=shadow) as client:
        since = await ask(client, "refund", "invoice", "courier", "crash")  # the teacher takes `refund` for shipping
        hour = (await client.get("/gap", params={"window": "1h"})).json()
    assert since["gap"]["ratio"] == hour["gap"]["ratio"] == 0.25
    assert (since["gap"]["always_valid"] is None, hour["gap"]["always_valid"] is None) == (False, True)
    for same in ("verdict", "message", "windows", "slo"):
        assert since[same] == hour[same]
    assert list(since["windows"]) == list(NAMES)
    assert all(window["compared"] == 4 for window in since["windows"].values())


@pytest.mark.parametrize(("window", "step"), [("1h", 300), ("6h", 300), ("1d", 3600), ("7d", 3600), ("since", 3600)])
async def test_the_history_of_the_gap(running, shadow, window, step):
    async with running(shadow=shadow) as client:
        assert (await client.get("/gap/history", params={"window": window})).json()["points"] == []
        await ask(client, "refund", "invoice")
        found = (await client.get("/gap/history", params={"window": window})).json()
    assert found["step_seconds"] == step
    assert 0 < found["slo"] < 1
    assert sum(point["compared"] for point in found["points"]) == 2
    measured = [point for point in found["points"] if point["ratio"] is not None]
    assert all(point["lower"] <= point["ratio"] <= point["upper"] for point in measured)
    assert all(point["time"] % step == 0 for point in found["points"])


async def test_the_newest_disagreements_come_first(running, shadow):
    async with running(shadow=shadow) as client:
        assert (await client.get("/gap/disagreements")).json() == {"rows": []}
        await ask(client, "refund please", "invoice", "refund")
        rows = (await client.get("/gap/disagreements")).json()["rows"]
        newest = (await client.get("/gap/disagreements", params={"limit": 1})).json()["rows"]
    assert [row["text"] for row in rows] == ["refund", "refund please"]
    assert newest == rows[:1]
    assert (rows[0]["student"], rows[0]["teacher"]) == ("billing", "shipping")
    assert 0 < rows[0]["student_score"] <= 1
    assert 0 < rows[0]["teacher_score"] <= 1


@pytest.mark.parametrize("limit", [0, 501, "all"])
async def test_a_senseless_limit_is_refused(client, limit):
    response = await client.get("/gap/disagreements", params={"limit": limit})
    assert response.status_code == 422
    assert "limit" in response.json()["error"]["message"]
