"""Anthropic's Message Batches API: the request that makes a batch holds its calls, and its results are a file of lines.

Our id of a batch is only in the custom_ids of its calls, which only its results show.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, BinaryIO

from distill.teachers.api.client import ApiRequest
from distill.teachers.batch.base import CLOCK_SKEW, BatchApi, BatchProgress, ResultRow, created

_PATH = "/v1/messages/batches"
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
}
_SERVER_ERROR = 500
_CHUNK = 1 << 20


class AnthropicBatches(BatchApi):
    """Batches at `/v1/messages/batches`, recognised by their time, their size and their results."""

    max_calls = 100_000
    max_bytes = 256_000_000
    start = b'{"requests":['
    between = b","
    end = b"]}"

    def line(self, custom_id: str, request: ApiRequest) -> bytes:
        """A call as an entry of the list of requests."""
        return json.dumps({"custom_id": custom_id, "params": request.body}, ensure_ascii=True).encode()

    async def submit(self, batch: str, file: BinaryIO, size: int) -> str:
        """Make the batch."""
        headers = {"content-type": "application/json", "content-length": str(size)}
        return self.id_of(await self.post(_PATH, content=_chunks(file), headers=headers))

    async def find(self, batch: str, calls: int, since: float, known: Collection[str]) -> str | None:
        """Find the batch of this size whose results are ours; waits for the end of every candidate."""
        for candidate in await self._candidates(calls, since, known):
            while not (progress := await self.look(candidate)).ended:
                await asyncio.sleep(self.interval)
            async for row in self.rows(progress):
                if row.custom_id.startswith(f"{batch}-"):
                    return candidate
                break
        return None

    async def look(self, vendor_id: str) -> BatchProgress:
        """The progress. A batch has ended when every call succeeded, errored, expired or was cancelled."""
        found = await self.get(f"{_PATH}/{vendor_id}")
        status, counts = str(found.get("processing_status")), found.get("request_counts") or {}
        answered = int(counts.get("succeeded") or 0)
        if status in ("in_progress", "canceling"):
            return BatchProgress(False, answered)
        if status != "ended":
            raise self.unknown_status(vendor_id, status)
        problem = "was cancelled at the vendor" if counts.get("canceled") else ""
        return BatchProgress(True, answered, (f"{_PATH}/{vendor_id}/results",), problem, final=bool(problem))

    def row(self, line: Mapping[str, Any]) -> ResultRow:
        """A line of the results."""
        custom_id, result = str(line["custom_id"]), line["result"]
        if result["type"] == "succeeded":
            return ResultRow(custom_id, dict(result["message"]))
        if result["type"] != "errored":
            return ResultRow(custom_id, problem=f"the call {result['type']}")
        error = result["error"].get("error") or result["error"]
        return self.failed(custom_id, _STATUS_OF.get(error["type"], _SERVER_ERROR), {"error": error})

    async def _candidates(self, calls: int, since: float, known: Collection[str]) -> list[str]:
        """Batches of `calls` calls that were made after `since` and are not `known`, the oldest first."""
        found: list[str] = []
        query: dict[str, str | int] = {"limit": 100}
        while True:
            page = await self.get(_PATH, **query)
            items = page.get("data") or []
            recent = [item for item in items if created(item.get("created_at")) >= since - CLOCK_SKEW]
            for item in recent:
                counts = item.get("request_counts") or {}
                if sum(int(count) for count in counts.values()) == calls and item.get("id") not in known:
                    found.append(self.id_of(item))
            if not page.get("has_more") or not recent:
                return found[::-1]
            query["after_id"] = self.id_of(items[-1])


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
