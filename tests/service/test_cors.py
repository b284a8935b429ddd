"""Only web pages of origins that the settings name may send requests."""

import pytest

from service.auth.keyfile import key_line

ORIGIN = "https://desk.example"
ASKED = {"origin": ORIGIN, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}


async def test_by_default_no_page_of_another_origin_may_ask(client):
    response = await client.post("/classify", json={"text": "invoice"}, headers={"origin": ORIGIN})
    assert not [name for name in response.headers if name.startswith("access-control")]
    assert (await client.options("/classify", headers=ASKED)).status_code == 405


async def test_pages_of_a_named_origin_may_ask_and_see_the_request_id(running):
    async with running(cors_origins=[ORIGIN]) as client:
        preflight = await client.options("/classify", headers=ASKED)
        assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, ORIGIN)
        response = await client.post("/classify", json={"text": "invoice"}, headers={"origin": ORIGIN})
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert "X-Request-ID" in response.headers["access-control-expose-headers"]
        other = await client.post("/classify", json={"text": "invoice"}, headers={"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in other.headers


async def test_a_preflight_needs_no_key_and_a_refusal_can_be_read(running, tmp_path):
    (tmp_path / "keys").write_text(key_line("tickets", "right"))
    async with running(cors_origins=["*"], api_keys=tmp_path / "keys") as client:
        assert (await client.options("/classify", headers=ASKED)).status_code == 200
        response = await client.post("/classify", json={"text": "invoice"}, headers={"origin": ORIGIN})
        assert (response.status_code, response.headers["access-control-allow-origin"]) == (401, "*")


@pytest.mark.parametrize("origin", ["desk.example", "https://desk.example/", "https://*.example", "null", ""])
def test_what_is_no_origin_is_refused(make_settings, origin):
    with pytest.raises(ValueError, match="cors_origins"):
        make_settings(cors_origins=[origin])
