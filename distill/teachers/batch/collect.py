"""Collects the results of open batches: waits for their end and settles every call."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from distill.teachers.account import PaidResponse
from distill.teachers.api.errors import ApiError
from distill.teachers.api.limit_headers import MINUTE
from distill.teachers.batch.account import Batch, BatchAccount, SettledCall
from distill.teachers.batch.base import BatchApi, BatchProgress, BatchTeacher, ResultRow, format_errors
from distill.teachers.batch.rows import CallResult, RowReader
from distill.teachers.errors import TeacherError

_FAILURES = 60  # polls in a row
_ROWS_PER_CALL = 2  # a file of results and one of errors
_SETTLED_TOGETHER = 500  # results in one transaction
_KEPT_BY_VENDORS = 30 * 86400.0  # seconds


class Collector:
    """Collects the results of a teacher's open batches.

    `find` gives a recorded batch its vendor's id, or drops it. `notify` gets the progress.
    """

    def __init__(
        self,
        teacher: BatchTeacher,
        questions: Sequence[tuple[str, int]],
        account: BatchAccount,
        find: Callable[[BatchApi, Batch], Awaitable[Batch | None]],
        notify: Callable[[str], None],
    ) -> None:
        self._teacher = teacher
        self._questions = questions
        self._account = account
        self._find = find
        self._notify = notify
        self._apis = teacher.batch_apis()
        self._rows = RowReader(self._apis)
        self._stored = 0
        self._problems: Counter[str] = Counter()

    async def collect(self) -> None:
        """Wait for the end of every open batch and settle its calls."""
        self._stored, self._problems = 0, Counter()
        places = {api.place: api for api in self._apis}  # members of an ensemble may share one
        recorded = [(api, batch) for place, api in places.items() for batch in self._account.open(place)]
        pending = [(api, found) for api, batch in recorded if (found := await self._find(api, batch)) is not None]
        failures = 0
        while pending:
            answered = 0
            wait, problem = 0.0, ""
            for api, batch in tuple(pending):
                try:
                    progress = await self._poll(api, batch)
                    failures = 0
                except ApiError as error:
                    failures += 1
                    if not error.retryable or failures > _FAILURES:
                        raise
                    wait, problem = max(wait, min(error.wait or 0.0, MINUTE)), f"; {error}"
                    continue
                if progress is None or progress.ended:
                    pending.remove((api, batch))
                else:
                    answered += progress.answered
            if pending:
                calls = sum(batch.calls for _, batch in pending)
                self._notify(f"open batches: {len(pending)}; {answered:,} of {calls:,} calls answered{problem}")
                await asyncio.sleep(max(wait, *(api.interval for api, _ in pending)))

    def check(self) -> None:
        """Raise TeacherError if the last round stored nothing, so that another one would not either."""
        if not self._stored:
            why = _most_common(self._problems) if self._problems else "no results were given"
            raise TeacherError(
                f"{self._teacher.name} answered none of the calls of the last batches ({why}): run the command "
                "again to try once more, or without --batch to make them one by one, at the full price"
            )

    async def _poll(self, api: BatchApi, batch: Batch) -> BatchProgress | None:
        """The progress of a batch, settled if it has ended; None for one that the vendor has deleted."""
        try:
            with format_errors(api.api.name):
                progress = await api.look(batch.vendor_id or "")
        except ApiError as error:
            if error.status != 404:
                raise
            if time.time() - batch.time < _KEPT_BY_VENDORS:
                raise TeacherError(
                    f"{api.api.name} does not know batch {batch.vendor_id}, whose calls may be charged: use the key "
                    "of the account and the project that submitted it"
                ) from error
            await self._account.close(batch, charged=True)
            return None
        if progress.ended:
            await self._settle_batch(api, batch, progress)
        return progress

    async def _settle_batch(self, api: BatchApi, batch: Batch, progress: BatchProgress) -> None:
        """Settle the calls of a batch that has ended, and close it.

        Raises TeacherError for failures that would recur in another batch; usable responses are stored before.
        """
        final: dict[str, str] = {}
        answered = await self._settle_rows(api, batch, progress, final)
        if answered < progress.answered:
            raise ApiError(
                f"{api.api.name} gave {answered} of the {progress.answered} results of batch {batch.vendor_id}",
                retryable=True,
            )
        await self._account.close(batch)
        if progress.problem:
            self._problems[progress.problem] += 1
        if batch.version != self._teacher.version:
            return  # another configuration made the calls, so the failures need not recur
        if progress.final:
            raise TeacherError(
                f"batch {batch.vendor_id} of {api.api.name} {progress.problem}. What was answered is kept; run the "
                "command again to submit the rest"
            )
        if final:
            raise TeacherError(
                f"{len(final)} of the {batch.calls} calls of batch {batch.vendor_id} of {api.api.name} got no answer "
                f"that can be used ({_most_common(Counter(final.values()))}). The others are kept; correct the teacher "
                "and run the command again, or without --batch, which finds out whether the texts are the cause",
                text=await self._text_of(next(iter(final))),
            )

    async def _settle_rows(self, api: BatchApi, batch: Batch, progress: BatchProgress, final: dict[str, str]) -> int:
        """Settle the results and return how many calls were answered. Final problems are added to `final`, by key."""
        answered: set[str] = set()
        doubtful: dict[str, CallResult] = {}
        unsettled: dict[str, SettledCall] = {}
        rows = 0
        async for row in api.rows(progress):
            if (rows := rows + 1) > _ROWS_PER_CALL * batch.calls:
                raise ApiError(f"{api.api.name} sends endless results of batch {batch.vendor_id}")
            key = _key_of(api, batch, row)
            if row.response is not None:
                answered.add(key)
            reserved = self._account.reserved(batch, key)
            if reserved is None or key in unsettled or key in doubtful:  # settled before
                await self._rows.recognise(api, row, key)
                continue
            result = self._rows.read(api, row, key, reserved)
            if result.doubtful:
                doubtful[key] = result
            else:
                self._add(key, result, unsettled, final)
            if len(unsettled) >= _SETTLED_TOGETHER:
                await self._settle(batch, unsettled)
        for key, result in self._rows.decide(api, doubtful.items(), len(answered - doubtful.keys())):
            self._add(key, result, unsettled, final)
        await self._settle(batch, unsettled)
        return len(answered)

    def _add(self, key: str, result: CallResult, unsettled: dict[str, SettledCall], final: dict[str, str]) -> None:
        """Queue a result to be settled, and count its problem."""
        if result.problem:
            self._problems[result.problem] += 1
        if result.final:
            final[key] = result.problem
        if result.settles:
            # The time that one call of a batch took is not known.
            paid = None if result.response is None else PaidResponse(result.response, result.cost_usd, 0.0)
            unsettled[key] = SettledCall(key, result.cost_usd, paid)

    async def _settle(self, batch: Batch, unsettled: dict[str, SettledCall]) -> None:
        await self._account.settle(batch, tuple(unsettled.values()))
        self._stored += sum(call.paid is not None for call in unsettled.values())
        unsettled.clear()

    async def _text_of(self, key: str) -> str | None:
        """The text that a call is for, if the teacher would make that call now."""
        for text, repeat in self._questions:
            if any(api.key(request) == key for api, request in await self._teacher.plan(text, repeat)):
                return text
        return None


def _key_of(api: BatchApi, batch: Batch, row: ResultRow) -> str:
    """The key of a row's call. Raises ApiError for a row of another batch."""
    batch_id, _, key = row.custom_id.partition("-")
    if batch_id != batch.id:
        raise ApiError(f"{api.api.name} gave results of another batch for {batch.vendor_id}", retryable=True)
    return key


def _most_common(problems: Counter[str]) -> str:
    """The three most common problems, with how often each occurred."""
    return "; ".join(f"{count} × {problem}" for problem, count in problems.most_common(3))
