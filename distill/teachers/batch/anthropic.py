"""Anthropic's Message Batches API: the calls are in the request that makes the batch, the results in one file of lines.

A batch has no place for an id of ours but its calls' custom_ids, which only its results tell.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any, BinaryIO

from distill.teachers.api.client import Request
from distill.teachers.api.http import ApiError
from distill.teachers.batch.base import SKEW, BatchApi, Progress, Row, created

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
_SERVER = 500
_CHUNK = 1 << 20


class AnthropicBatches(BatchApi):
    """Batches at `/v1/messages/batches`, found again by when they were made, how large they are, and what they held."""

    most_calls = 100_000
    most_bytes = 256_000_000
    start = b'{"requests":['
    between = b","
    end = b"]}"

    def line(self, custom_id: str, request: Request) -> bytes:
        """A call as an entry of the list of requests."""
        return json.dumps({"custom_id": custom_id, "params": request.body}, ensure_ascii=True).encode()

    async def submit(self, batch: str, file: BinaryIO, size: int) -> str:
        """Make the batch."""
        headers = {"content-type": "application/json", "content-length": str(size)}
        made = await self.post(_PATH, content=_chunks(file), headers=headers)
        return self._id(made)

    async def find(self, batch: str, calls: int, since: float, known: Collection[str]) -> str | None:
        """The batch of this size whose results are ours; waits for batches that it may be to end, so as to see."""
        for candidate in await self._candidates(calls, since, known):
            while not (progress := await self.look(candidate)).ended:
                await asyncio.sleep(self.interval)
            async for row in self.rows(progress):
                if row.custom_id.startswith(f"{batch}-"):
                    return candidate
                break
        return None

    async def look(self, vendor_id: str) -> Progress:
        """How far it is. It has ended when every call succeeded, errored, expired or was cancelled."""
        found = await self.get(f"{_PATH}/{vendor_id}")
        said, counts = str(found.get("processing_status")), found.get("request_counts") or {}
        answered = int(counts.get("succeeded") or 0)
        if said in ("in_progress", "canceling"):
            return Progress(said, False, answered)
        if said != "ended":
            raise ApiError(
                f"{self.api.who} gives batch {vendor_id} the status {said!r}, which is not known", retryable=True
            )
        problem = "was cancelled at the vendor" if counts.get("canceled") else ""
        return Progress(said, True, answered, (f"{_PATH}/{vendor_id}/results",), problem, final=bool(problem))

    def row(self, line: Mapping[str, Any]) -> Row:
        """A line of the results."""
        custom_id, result = str(line["custom_id"]), line["result"]
        if result["type"] == "succeeded":
            return Row(custom_id, dict(result["message"]))
        if result["type"] != "errored":
            return Row(custom_id, problem=f"the call {result['type']}")
        error = result["error"].get("error") or result["error"]
        return self.failed(custom_id, _STATUS_OF.get(error["type"], _SERVER), {"error": error})

    async def _candidates(self, calls: int, since: float, known: Collection[str]) -> list[str]:
        """Batches of so many calls that were made after `since` and are not known, the oldest first."""
        found: list[str] = []
        query: dict[str, str | int] = {"limit": 100}
        while True:
            page = await self.get(_PATH, **query)
            items = page.get("data") or []
            recent = [item for item in items if created(item.get("created_at")) >= since - SKEW]
            for item in recent:
                counts = item.get("request_counts") or {}
                if sum(int(count) for count in counts.values()) == calls and item.get("id") not in known:
                    found.append(self._id(item))
            if not page.get("has_more") or not recent:
                return found[::-1]
            query["after_id"] = self._id(items[-1])

    def _id(self, item: Mapping[str, Any]) -> str:
        name = item.get("id")
        if not isinstance(name, str) or not name:
            raise ApiError(f"{self.api.who} made a batch without an id", retryable=True)
        return name


async def _chunks(file: BinaryIO) -> AsyncIterator[bytes]:
    while chunk := file.read(_CHUNK):
        yield chunk
