"""`POST /gap/ask`: the teacher's answer, for who has a key or sits at this machine."""

import pytest

KEY = "reflux_a-key-of-a-person"


@pytest.fixture
def shadow(tiny_teacher, tmp_path):
    """Settings of shadowing, by a teacher that takes `refund` for shipping."""
    teacher = {"kind": "bundle", "path": str(tiny_teacher.path)}
    return {"enabled": True, "teacher": teacher, "path": tmp_path / "shadow.sqlite", "rate": 0.01}


async def test_the_teacher_answers_a_text(running, shadow):
    async with running(host="127.0.0.1", shadow=shadow) as client:
        response = await client.post("/gap/ask", json={"text": "refund refund"})
        assert response.status_code == 200
        assert response.json()["top"][0]["label"] == "shipping"
        student = await client.post("/classify", json={"text": "refund refund"})
        assert student.json()["results"][0]["label"] == "billing"


async def test_a_service_that_is_open_to_the_network_spends_nothing_for_strangers(running, shadow, write_keys):
    async with running(host="0.0.0.0", shadow=shadow) as client:
        response = await client.post("/gap/ask", json={"text": "refund"})
        assert response.status_code == 403
        assert "REFLUX_API_KEYS" in response.json()["error"]["message"]
    async with running(host="0.0.0.0", shadow=shadow, api_keys=write_keys(person=KEY)) as client:
        assert (await client.post("/gap/ask", json={"text": "refund"})).status_code == 401
        response = await client.post("/gap/ask", json={"text": "refund"}, headers={"x-api-key": KEY})
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("body", "status"),
    [({"text": " "}, 422), ({}, 422), ({"text": "a", "more": 1}, 422), ([], 422), ({"text": 100_001 * "a"}, 422)],
)
async def test_a_body_that_does_not_fit_is_refused(running, shadow, body, status):
    async with running(host="127.0.0.1", shadow=shadow) as client:
        assert (await client.post("/gap/ask", json=body)).status_code == status


async def test_other_than_json_is_refused_so_that_no_other_page_can_ask(running, shadow):
    async with running(host="127.0.0.1", shadow=shadow) as client:
        response = await client.post("/gap/ask", content='{"text": "a"}', headers={"content-type": "text/plain"})
        assert response.status_code == 415


async def test_without_shadowing_the_request_is_refused(running):
    async with running(host="127.0.0.1") as client:
        response = await client.post("/gap/ask", json={"text": "a"})
        assert response.status_code == 422
        assert "shadow.enabled" in response.json()["error"]["message"]
