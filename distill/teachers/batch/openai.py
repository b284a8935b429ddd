"""OpenAI's Batch API: a file of lines is uploaded, a batch is made of it, and its results are two files of lines."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

from distill.teachers.api.client import Request
from distill.teachers.api.http import ApiError
from distill.teachers.api.rejections import verdict
from distill.teachers.batch.base import SKEW, BatchApi, Progress, Row, created

_OPEN = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_FULL = "token_limit_exceeded"
_MARK = "reflux"
_BAD_REQUEST = 400
_PREFIX = "/v1"  # an endpoint is named from the vendor's root, wherever base_url leads


class OpenAIBatches(BatchApi):
    """Batches at `/batches`, found again by our id in their metadata."""

    most_calls = 50_000
    most_bytes = 200_000_000

    def line(self, custom_id: str, request: Request) -> bytes:
        """A call as a line of the file."""
        line = {"custom_id": custom_id, "method": "POST", "url": _PREFIX + request.path, "body": request.body}
        return json.dumps(line, ensure_ascii=True).encode()

    async def submit(self, batch: str, file: BinaryIO, size: int) -> str:
        """Upload the file and make a batch of it."""
        name = f"reflux-{batch}.jsonl"
        url = json.loads(file.readline())["url"]
        file.seek(0)
        files = {"file": (name, file, "application/jsonl")}
        uploaded = await self.post("/files", data={"purpose": "batch"}, files=files)
        body = {
            "input_file_id": uploaded.get("id"),
            "endpoint": url,
            "completion_window": "24h",
            "metadata": {_MARK: batch},
        }
        try:
            made = await self.post("/batches", json=body)
        except ApiError as error:
            if error.status == 400 and "find file" in error.said:  # it is not yet known everywhere
                error.retryable = True
            raise
        return _id(made, self.api.who)

    async def find(self, batch: str, calls: int, since: float, known: Collection[str]) -> str | None:
        """The batch with our id in its metadata."""
        query: dict[str, str | int] = {"limit": 100}
        while True:
            page = await self.get("/batches", **query)
            items = page.get("data") or []
            for item in items:
                if (item.get("metadata") or {}).get(_MARK) == batch:
                    return _id(item, self.api.who)
            newest = max((created(item.get("created_at")) for item in items), default=0.0)
            if not page.get("has_more") or newest < since - SKEW:
                return None
            query["after"] = _id(items[-1], self.api.who)

    async def look(self, vendor_id: str) -> Progress:
        """How far it is, by the vendor's status."""
        found = await self.get(f"/batches/{vendor_id}")
        said = str(found.get("status"))
        answered = int((found.get("request_counts") or {}).get("completed") or 0)
        if said in _OPEN:
            return Progress(said, False, answered)
        if said == "failed":
            problems = [error for error in (found.get("errors") or {}).get("data") or [] if isinstance(error, dict)]
            told = "; ".join(str(error.get("message") or error.get("code")) for error in problems[:3])
            full = bool(problems) and all(error.get("code") == _FULL for error in problems)
            return Progress(said, True, 0, (), f"failed: {told or 'no reason was given'}", final=not full)
        files = [found.get("output_file_id"), found.get("error_file_id")]
        paths = tuple(f"/files/{name}/content" for name in files if name)
        if said in ("completed", "expired"):
            return Progress(said, True, answered, paths)
        if said == "cancelled":
            return Progress(said, True, answered, paths, "was cancelled at the vendor", final=True)
        raise ApiError(
            f"{self.api.who} gives batch {vendor_id} the status {said!r}, which is not known", retryable=True
        )

    def row(self, line: Mapping[str, Any]) -> Row:
        """A line of the output file or the error file."""
        custom_id, response, error = str(line["custom_id"]), line.get("response"), line.get("error")
        if response and response["status_code"] == 200:
            return Row(custom_id, dict(response["body"]))
        if response and (status := int(response["status_code"])) >= 400:
            return self.failed(custom_id, status, response["body"])
        told = error or {}
        if verdict(_BAD_REQUEST, told) in ("refused", "invalid"):  # Azure has it here
            return self.failed(custom_id, _BAD_REQUEST, {"error": told})
        return Row(custom_id, problem=str(told.get("message") or told.get("code") or "no reason"))


def _id(item: Mapping[str, Any], who: str) -> str:
    name = item.get("id")
    if not isinstance(name, str) or not name:
        raise ApiError(f"{who} made a batch without an id; is base_url that of OpenAI's API?", retryable=True)
    return name
