"""The client and the service agree on the wire format."""

import pytest

from reflux_client import AsyncClient, RefluxError


async def test_the_client_reads_what_the_service_answers(running):
    async with running() as app:
        async with AsyncClient("http://reflux", transport=app._transport) as client:
            answer = await client.classify(["invoice", "courier"], top_k=2, request_id="mine")
            assert answer.request_id == "mine"
            assert [result.label for result in answer.results] == ["billing", "shipping"]
            assert [len(result.top) for result in answer.results] == [2, 2]
            many = client.classify_many(["invoice", "courier"] * 20, batch_size=7)
            assert [result.label async for result in many] == ["billing", "shipping"] * 20
            assert await client.ready()
            assert (await client.model())["name"] == answer.model
            assert "counts" in await client.gap()
            with pytest.raises(RefluxError, match="top_k") as failure:
                await client.classify("a", top_k=0)
            assert failure.value.code == "invalid"
