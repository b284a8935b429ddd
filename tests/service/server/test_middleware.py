"""Every request gets an id, and its errors one shape."""

import re

import pytest


async def test_a_safe_request_id_is_kept_and_echoed(client):
    given = "a1._:/+=@-" + "x" * 118
    response = await client.post("/classify", json={"text": "invoice"}, headers={"x-request-id": given})
    assert response.headers["x-request-id"] == response.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "with space", 'quote"', "é".encode(), b"\xff", "a\tb"])
async def test_any_other_request_id_is_replaced(client, given):
    response = await client.get("/livez", headers={"x-request-id": given})
    assert re.fullmatch(r"[0-9a-f]{32}", response.headers["x-request-id"])


async def test_each_request_gets_its_own_id(client):
    ids = {(await client.get("/livez")).headers["x-request-id"] for _ in range(10)}
    assert len(ids) == 10


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "not_found"),
        ("POST", "/model", 405, "method_not_allowed"),
        ("BREW", "/classify", 405, "method_not_allowed"),
        ("GET", "/../etc/passwd", 404, "not_found"),
    ],
)
async def test_an_unknown_route_or_method_is_an_error_in_the_shape_of_all_errors(client, method, path, status, code):
    response = await client.request(method, path, headers={"x-request-id": "mine"})
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["request_id"] == "mine"


async def test_a_405_says_what_is_allowed(client):
    assert (await client.get("/classify")).headers["allow"] == "POST"
