"""The page of the API needs nothing but this service."""

import re
from urllib.parse import urljoin

from httpx import ASGITransport, AsyncClient

LOADED = re.compile(r"""(?:href|src)="([^"]+)"|url: '([^']+)'""")


def loaded_by(page):
    """Return the links to what a page loads."""
    return ["".join(found) for found in LOADED.findall(page)]


async def test_the_page_loads_everything_from_the_service(client):
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    parts = loaded_by(page.text)
    assert len(parts) == 4
    kinds = []
    for part in parts:
        response = await client.get(urljoin("/docs", part))
        assert response.status_code == 200, part
        kinds.append(response.headers["content-type"].split(";")[0])
    assert sorted(kinds) == ["application/json", "image/png", "text/css", "text/javascript"]
    assert "://" not in page.text
    assert '"validatorUrl": null' in page.text  # which is somewhere else unless it is nowhere


async def test_a_browser_may_load_nothing_else(client):
    policy = (await client.get("/docs")).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "://" not in policy


async def test_the_page_works_below_another_path(client):
    """A gateway may serve the service under a prefix that it strips."""
    app = client._transport.app

    async def below(scope, receive, send):
        assert scope["path"].startswith("/student/")
        await app({**scope, "path": scope["path"].removeprefix("/student")}, receive, send)

    async with AsyncClient(transport=ASGITransport(below), base_url="http://gateway") as gateway:
        for part in loaded_by((await gateway.get("/student/docs")).text):
            assert (await gateway.get(urljoin("/student/docs", part))).status_code == 200, part


async def test_another_asset_is_not_found(client):
    for name in ("__init__.py", "..%2fmain.py", "swagger-ui.css/more"):
        response = await client.get(f"/docs/{name}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
