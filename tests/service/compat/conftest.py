"""What the native route says, so that each protocol can be held against it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

PATIENCE = 30.0
TEXTS = ["refund invoice courier", "my parcel is late", "the password"]
LABELS = ["billing", "shipping", "account", "technical"]

Native = Callable[..., Awaitable[list[dict[str, Any]]]]


@pytest.fixture
def texts() -> list[str]:
    """Texts that are answered with different labels, none of them for certain."""
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
