"""OpenAI's Batch API: a batch is made from an uploaded file of lines, and its results are two files of lines."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO

from distill.teachers.api.client import ApiRequest
from distill.teachers.api.errors import ApiError
from distill.teachers.api.rejections import verdict
from distill.teachers.batch.base import CLOCK_SKEW, BatchApi, BatchProgress, ResultRow, created

_OPEN = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
_FULL = "token_limit_exceeded"
_MARK = "reflux"
_BAD_REQUEST = 400
_PREFIX = "/v1"  # endpoints are named from the vendor's root, whatever base_url is


class OpenAIBatches(BatchApi):
    """Batches at `/batches`, with our id in their metadata."""

    max_calls = 50_000
    max_bytes = 200_000_000

    def line(self, custom_id: str, request: ApiRequest) -> bytes:
        """A call as a line of the file."""
        line = {"custom_id": custom_id, "method": "POST", "url": _PREFIX + request.path, "body": request.body}
        return json.dumps(line, ensure_ascii=True).encode()

    async def submit(self, batch: str, file: BinaryIO, size: int) -> str:
        """Upload the file and make a batch from it."""
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
            if error.status == 400 and "find file" in error.reason:  # the upload is not yet visible everywhere
                error.retryable = True
            raise
        return self.id_of(made)

    async def find(self, batch: str, calls: int, since: float, known: Collection[str]) -> str | None:
        """The batch with our id in its metadata."""
        query: dict[str, str | int] = {"limit": 100}
        while True:
            page = await self.get("/batches", **query)
            items = page.get("data") or []
            for item in items:
                if (item.get("metadata") or {}).get(_MARK) == batch:
                    return self.id_of(item)
            newest = max((created(item.get("created_at")) for item in items), default=0.0)
            if not page.get("has_more") or newest < since - CLOCK_SKEW:
                return None
            query["after"] = self.id_of(items[-1])

    async def look(self, vendor_id: str) -> BatchProgress:
        """The progress by the vendor's status."""
        found = await self.get(f"/batches/{vendor_id}")
        status = str(found.get("status"))
        answered = int((found.get("request_counts") or {}).get("completed") or 0)
        if status in _OPEN:
            return BatchProgress(False, answered)
        if status == "failed":
            problems = [error for error in (found.get("errors") or {}).get("data") or [] if isinstance(error, dict)]
            reasons = "; ".join(str(error.get("message") or error.get("code")) for error in problems[:3])
            full = bool(problems) and all(error.get("code") == _FULL for error in problems)
            return BatchProgress(True, 0, (), f"failed: {reasons or 'no reason was given'}", final=not full)
        files = [found.get("output_file_id"), found.get("error_file_id")]
        paths = tuple(f"/files/{name}/content" for name in files if name)
        if status in ("completed", "expired"):
            return BatchProgress(True, answered, paths)
        if status == "cancelled":
            return BatchProgress(True, answered, paths, "was cancelled at the vendor", final=True)
        raise self.unknown_status(vendor_id, status)

    def row(self, line: Mapping[str, Any]) -> ResultRow:
        """A line of the output file or the error file."""
        custom_id, response, error = str(line["custom_id"]), line.get("response"), line.get("error")
        if response and response["status_code"] == 200:
            return ResultRow(custom_id, dict(response["body"]))
        if response and (status := int(response["status_code"])) >= 400:
            return self.failed(custom_id, status, response["body"])
        error = error or {}
        if verdict(_BAD_REQUEST, error) in ("refused", "invalid"):  # Azure puts rejections here
            return self.failed(custom_id, _BAD_REQUEST, {"error": error})
        return ResultRow(custom_id, problem=str(error.get("message") or error.get("code") or "no reason"))
