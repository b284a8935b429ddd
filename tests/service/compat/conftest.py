"""What the native route answers, which each protocol is compared with, and the shape of each protocol's errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from service.compat.errors import Shape, error_shape

PATIENCE = 30.0
TEXTS = ["refund invoice courier", "my parcel is late", "the password"]
LABELS = ["billing", "shipping", "account", "technical"]

Native = Callable[..., Awaitable[list[dict[str, Any]]]]


def refused(response: httpx.Response, status: int, kind: str | None = None, shape: Shape | None = None) -> str:
    """Return an error's message, after checking that it has the shape of its path, or `shape`, and this `kind`."""
    assert response.status_code == status, response.text
    assert response.headers["x-request-id"]
    body = response.json()
    assert body == (shape or error_shape(response.request.url.path)).model_validate(body).model_dump()
    error = body.get("error") or body["detail"]
    if isinstance(error, str):
        error = {"message": error, "type": body.get("error_type")}
    elif isinstance(error, list):
        [error] = error
    assert kind in (None, error.get("type", error.get("error_type")))
    message: str = error.get("message") or error["msg"]
    return message


def tensor(texts: list[Any], **changes: Any) -> dict[str, Any]:
    """Return an input of the Open Inference Protocol."""
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts, **changes}


def scores(result: dict[str, Any]) -> list[float]:
    """Return the probabilities of a native result in the order of LABELS."""
    by_label = {item["label"]: item["score"] for item in result["top"]}
    return [by_label[label] for label in LABELS]


@pytest.fixture
def texts() -> list[str]:
    """Texts with different labels, none of which is certain."""
    return list(TEXTS)


@pytest.fixture
def native() -> Native:
    """`await native(client, texts)`: the results of `POST /classify`, with all labels and the logits."""

    async def ask(client: httpx.AsyncClient, texts: list[str]) -> list[dict[str, Any]]:
        response = await client.post("/classify", json={"texts": texts, "top_k": len(LABELS), "logits": True})
        assert response.status_code == 200, response.text
        results: list[dict[str, Any]] = response.json()["results"]
        return results

    return ask


@pytest.fixture
async def server(start_process: Callable[..., Any]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service on a real socket; `base_url` is its address, for other clients."""
    async with (
        start_process() as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{process.port}", timeout=PATIENCE) as client,
    ):
        yield client
