"""Submits batches: collects the calls that are not paid for, records them and hands them in, never twice.

A batch is recorded before it is submitted. If the submission is interrupted, the vendor is asked whether it arrived.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, cast

from distill.teachers.account import BudgetError
from distill.teachers.api.client import Api, ApiRequest
from distill.teachers.api.errors import ApiError
from distill.teachers.api.http import Attempts, retrying
from distill.teachers.api.limit_headers import MINUTE
from distill.teachers.batch.account import Batch, BatchAccount
from distill.teachers.batch.base import BatchApi, BatchTeacher, format_errors
from distill.teachers.errors import TeacherError

_LOOKUPS = 3  # of a batch whose submission was interrupted; a vendor's list may lag
_ATTEMPTS = 3


@dataclass
class _Draft:
    """The next batch of an API, written to a file call by call."""

    api: BatchApi
    id: str
    file: BinaryIO
    calls: list[tuple[str, float]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    usd: float = 0.0

    @classmethod
    def new(cls, api: BatchApi) -> _Draft:
        file = cast("BinaryIO", tempfile.TemporaryFile())
        file.write(api.start)
        return cls(api, secrets.token_hex(8), file)

    def line(self, key: str, request: ApiRequest) -> bytes:
        return self.api.line(f"{self.id}-{key}", request)

    def has_room(self, line: bytes) -> bool:
        api = self.api
        size = self.file.tell() + len(api.between) + len(line) + len(api.end)
        return len(self.calls) < api.limit and size <= api.max_bytes

    def add(self, line: bytes, key: str, usd: float) -> None:
        self.file.write(self.api.between if self.calls else b"")
        self.file.write(line)
        self.calls.append((key, usd))
        self.keys.add(key)
        self.usd += usd

    def finish(self) -> int:
        """End the file. Returns its size in bytes."""
        self.file.write(self.api.end)
        return self.file.tell()


_Kind = tuple[int, str, object]  # the API, the endpoint and the model, which the calls of a batch share


class Submitter:
    """Submits the calls of a teacher for texts, each with its repeat, in batches."""

    def __init__(
        self,
        teacher: BatchTeacher,
        questions: Sequence[tuple[str, int]],
        account: BatchAccount,
        notify: Callable[[str], None],
    ) -> None:
        self._teacher = teacher
        self._questions = questions
        self._account = account
        self._notify = notify
        self._batch_apis = {batch_api.api: batch_api for batch_api in teacher.batch_apis()}
        self._prepared = False

    async def submit(self) -> int:
        """Submit the calls that can be made now and are neither paid for nor in a batch. Returns how many these are.

        If the money does not suffice, the others wait until these batches have released some of theirs.
        """
        submitted = 0
        drafts: dict[_Kind, _Draft] = {}
        try:
            for text, repeat in self._questions:
                for api, request in await self._plan(text, repeat):
                    if (batch_api := self._batch_apis.get(api)) is None:
                        raise TeacherError(f"{api.name} has no batch API: leave --batch out")
                    key = api.key(request)
                    kind = (id(api), request.path, request.body.get("model"))
                    draft = drafts.get(kind)
                    if self._account.holds(key) or (draft is not None and key in draft.keys):
                        continue
                    usd = api.max_cost(request) * api.price.batch
                    if sum(one.usd for one in drafts.values()) + usd > self._account.left:
                        return submitted + await self._submit_affordable(drafts, submitted, usd)
                    if draft is None:
                        draft = drafts[kind] = _Draft.new(batch_api)
                    line = draft.line(key, request)
                    if not draft.has_room(line):
                        submitted += await self._submit(drafts.pop(kind))
                        draft = drafts[kind] = _Draft.new(batch_api)
                        line = draft.line(key, request)
                    draft.add(line, key, usd)
            return submitted + await self._submit_all(drafts)
        finally:
            for draft in drafts.values():
                draft.file.close()

    async def find(self, api: BatchApi, batch: Batch) -> Batch | None:
        """Return a recorded batch with its vendor's id; None for one that was never submitted, and is now closed."""
        if batch.vendor_id is not None:
            return batch
        vendor_id = await self._look_up(api, batch)
        if vendor_id is None:
            await self._account.close(batch)
            return None
        return await self._account.submitted(batch, vendor_id)

    async def _plan(self, text: str, repeat: int) -> Sequence[tuple[Api, ApiRequest]]:
        planned = await self._teacher.plan(text, repeat)
        if not planned or self._prepared:
            return planned
        self._prepared = True
        await self._teacher.prepare()  # which may change the calls
        return await self._teacher.plan(text, repeat)

    async def _submit_affordable(self, drafts: dict[_Kind, _Draft], submitted: int, usd: float) -> int:
        """Submit the drafts that the money suffices for. Raises BudgetError if there are none and none in progress."""
        if not submitted and not any(draft.calls for draft in drafts.values()):
            raise BudgetError(
                f"the next call of a batch may cost {usd:.4f} dollars, and {max(0.0, self._account.left):.4f} are "
                "left: raise --max-usd and run the command again; nothing is paid for twice"
            )
        return await self._submit_all(drafts)

    async def _submit_all(self, drafts: dict[_Kind, _Draft]) -> int:
        return sum([await self._submit(drafts.pop(kind)) for kind in tuple(drafts)])

    async def _submit(self, draft: _Draft) -> int:
        """Record a batch and submit it, with retries while it has not arrived. Returns its number of calls."""
        if not draft.calls:
            return 0
        api, count = draft.api, len(draft.calls)
        batch = Batch(draft.id, api.place, self._teacher.version, count, time.time())
        with draft.file as file:
            size = draft.finish()
            await self._account.record(batch, draft.calls)
            self._notify(f"submitting a batch of {count} calls to {api.api.name}")
            attempts, waited = Attempts(_ATTEMPTS), 0.0
            while True:
                file.seek(0)
                try:
                    with format_errors(api.api.name):
                        vendor_id: str | None = await api.submit(batch.id, file, size)
                except ApiError as error:
                    vendor_id = await self._look_up(api, batch) if error.retryable and error.status != 429 else None
                    if vendor_id is None:
                        if not error.retryable or attempts.used_up(error, waited):
                            await self._account.close(batch)
                            raise _with_advice(error) from error
                        if wait := min(error.wait or 0.0, MINUTE):
                            self._notify(str(error))
                            await asyncio.sleep(wait)
                            waited += wait
                if vendor_id is not None:
                    await self._account.submitted(batch, vendor_id)
                    return count

    async def _look_up(self, api: BatchApi, batch: Batch) -> str | None:
        """The vendor's id of a batch whose submission was interrupted; None if it did not arrive."""
        self._notify(f"seeing whether a batch of {batch.calls} calls arrived at {api.api.name}")
        known = {other.vendor_id for other in self._account.open(api.place) if other.vendor_id is not None}
        for lookup in range(_LOOKUPS):
            if lookup:
                await asyncio.sleep(api.interval)
            async for attempt in retrying(_ATTEMPTS):
                with attempt, format_errors(api.api.name):
                    found = await api.find(batch.id, batch.calls, batch.time, known)
            if found is not None:
                return found
        return None


def _with_advice(error: ApiError) -> TeacherError:
    """The error of a submission, with advice if the server seems to have no batch API."""
    if error.status not in (404, 405, 501):
        return error
    return TeacherError(f"{error}; does this server have a batch API? If it has none, leave --batch out")
