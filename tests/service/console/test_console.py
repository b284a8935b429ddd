"""The page needs nothing but this service."""

import re


async def test_the_page_is_self_contained(client):
    response = await client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert not re.search(r"(src|href)\s*=|https?://|@import|url\(", response.text)
    assert "default-src 'none'" in response.headers["content-security-policy"]


async def test_the_page_asks_only_paths_that_exist(client):
    page = (await client.get("/")).text
    asked = set(re.findall(r"""["'](/[a-z]+)["']""", page))
    assert {"/classify", "/model", "/gap"} <= asked
    assert asked <= set((await client.get("/openapi.json")).json()["paths"])


async def test_the_page_can_be_switched_off(running):
    async with running(console=False, protocols=False) as client:
        assert (await client.get("/")).status_code == 404
