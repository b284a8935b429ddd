"""Batches fill an account: the calls of many texts are made in them, after which each text finds its calls paid for.

A batch is in the ledger before it is submitted, and its calls until their results are: whenever the process ends, the
next one goes on from there, and submits nothing twice.
"""

from __future__ import annotations

import asyncio
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol, cast

from distill.teachers.account import BudgetError, Paid
from distill.teachers.api.client import Api, Request
from distill.teachers.api.http import ApiError, Attempts, persistent
from distill.teachers.api.rate_limit import MINUTE
from distill.teachers.base import Teacher
from distill.teachers.batch.base import BatchApi, Batched, Progress, Row, shaped
from distill.teachers.batch.rows import Result, RowReader
from distill.teachers.errors import TeacherError

_LOOKS = 3  # times that a batch is looked for whose submission was cut off; a vendor's list may lag
_SUBMISSIONS = 3
_FAILURES = 60  # polls in a row
_MOST_ROWS = 2  # for each call: a file of results and one of errors
_TOGETHER = 500  # results that are settled in one transaction
_KEPT_BY_VENDORS = 30 * 86400.0  # seconds


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of so many `calls` in the ledger. Until it has a `vendor_id` nobody knows whether it was submitted.

    `place` is the API and the model it went to, `version` that of the teacher that asks, `time` when it was recorded,
    in seconds since 1970.
    """

    id: str
    place: str
    version: str
    calls: int
    time: float
    vendor_id: str | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """A call of a batch, by its key, what it cost in dollars, and its response where it can be used."""

    key: str
    cost_usd: float
    paid: Paid | None


class BatchLedger(Protocol):
    """Batches that are open, and their calls, on disk. What a call may cost is reserved until it is settled."""

    @property
    def left(self) -> float:
        """Dollars that may still be reserved; infinity where there is no bound."""

    def open(self, place: str) -> Sequence[Batch]:
        """The open batches of an API."""

    def reserved(self, batch: Batch, key: str) -> float | None:
        """What is reserved for a call of a batch; None for one that is settled, or not of the batch."""

    def holds(self, key: str) -> bool:
        """Whether a call is in an open batch."""

    async def record(self, batch: Batch, calls: Sequence[tuple[str, float]]) -> None:
        """Open a batch of calls, by key, with what each may cost in dollars."""

    async def submitted(self, batch: Batch, vendor_id: str) -> Batch:
        """The batch, now known to have been submitted."""

    async def settle(self, batch: Batch, calls: Sequence[Settled]) -> None:
        """End the reservations of calls at what they cost, and keep the responses."""

    async def close(self, batch: Batch, *, charged: bool = False) -> None:
        """End a batch. Its calls that are left cost nothing, or all that was reserved, where they may be `charged`."""


async def fill(
    teacher: Teacher,
    questions: Sequence[tuple[str, int]],
    ledger: BatchLedger,
    *,
    told: Callable[[str], None] = lambda said: None,
) -> None:
    """Make every call of a teacher for these texts, each with its repeat, in batches.

    A teacher whose calls depend on what was answered takes several rounds. Its probes are asked in the ordinary way
    before, so that a wrong key or model is known in seconds and not tomorrow. `told` hears how it stands. Raises
    TeacherError for a teacher without a batch API, and for calls that stay without a usable answer; BudgetError when
    the money does not last. What was answered is kept, whatever happens.
    """
    filling = _Filling(batched(teacher), questions, ledger, told)
    await filling.finish()
    while await filling.submit():
        await filling.finish()
        filling.check()


def batched(teacher: Teacher) -> Batched:
    """The teacher, as one whose calls can be made in batches. Raises TeacherError for one that has no batch API."""
    if not getattr(teacher, "batch_apis", list)():
        raise TeacherError(f"{teacher.name} has no batch API: leave --batch out")
    return cast("Batched", teacher)


def refuse_open(teacher: Teacher, ledger: BatchLedger) -> None:
    """Raise TeacherError where calls of a teacher are in open batches: they must not be made by themselves, too."""
    for api in getattr(teacher, "batch_apis", list)():
        if batches := ledger.open(api.place):
            raise TeacherError(
                f"{sum(batch.calls for batch in batches)} calls to {api.api.who} are in batches that are open, and "
                "will have to be paid for: run `reflux label --batch`, which fetches them and goes on"
            )


@dataclass
class _Bundle:
    """The calls that will be the next batch of an API, written down as they come."""

    api: BatchApi
    id: str
    file: BinaryIO
    calls: list[tuple[str, float]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    usd: float = 0.0

    @classmethod
    def new(cls, api: BatchApi) -> _Bundle:
        file = cast("BinaryIO", tempfile.TemporaryFile())
        file.write(api.start)
        return cls(api, secrets.token_hex(8), file)

    def has_room(self, line: bytes) -> bool:
        api = self.api
        size = self.file.tell() + len(api.between) + len(line) + len(api.end)
        return len(self.calls) < api.limit and size <= api.most_bytes

    def add(self, line: bytes, key: str, usd: float) -> None:
        self.file.write(self.api.between if self.calls else b"")
        self.file.write(line)
        self.calls.append((key, usd))
        self.keys.add(key)
        self.usd += usd

    def finish(self) -> int:
        """End the file. Gives its size in bytes."""
        self.file.write(self.api.end)
        return self.file.tell()


class _Filling:
    """Batches on their way, and what came of them in this round."""

    def __init__(
        self,
        teacher: Batched,
        questions: Sequence[tuple[str, int]],
        ledger: BatchLedger,
        told: Callable[[str], None],
    ) -> None:
        self._teacher = teacher
        self._questions = questions
        self._ledger = ledger
        self._told = told
        self._apis = teacher.batch_apis()
        self._rows = RowReader(self._apis)
        self._prepared = False
        self._kept = 0
        self._problems: Counter[str] = Counter()

    async def submit(self) -> int:
        """Submit what can be asked now and was not paid for. Gives how many calls that is.

        Where the money does not reach, the rest waits until these batches have given some of theirs back.
        """
        self._kept, self._problems = 0, Counter()
        submitted = 0
        bundles: dict[tuple[int, str, object], _Bundle] = {}  # one endpoint and one model each
        try:
            for text, repeat in self._questions:
                for api, request in await self._plan(text, repeat):
                    batches = self._of(api)
                    key = api.key(request)
                    kind = (id(api), request.path, request.body.get("model"))
                    bundle = bundles.get(kind)
                    if self._ledger.holds(key) or (bundle is not None and key in bundle.keys):
                        continue
                    usd = api.worst(request) * api.price.batch
                    if sum(one.usd for one in bundles.values()) + usd > self._ledger.left:
                        return submitted + await self._out_of_money(bundles, submitted, usd)
                    if bundle is None:
                        bundle = bundles[kind] = _Bundle.new(batches)
                    line = batches.line(f"{bundle.id}-{key}", request)
                    if not bundle.has_room(line):
                        submitted += await self._submit(bundles.pop(kind))
                        bundle = bundles[kind] = _Bundle.new(batches)
                        line = batches.line(f"{bundle.id}-{key}", request)
                    bundle.add(line, key, usd)
            return submitted + await self._submit_all(bundles)
        finally:
            for bundle in bundles.values():
                bundle.file.close()

    async def finish(self) -> None:
        """Follow every open batch to its end, and settle its calls."""
        places = {api.place: api for api in self._apis}  # members of an ensemble may share one
        batches = [(api, batch) for place, api in places.items() for batch in self._ledger.open(place)]
        under_way = [(api, found) for api, batch in batches if (found := await self._known(api, batch)) is not None]
        failures = 0
        while under_way:
            answered = 0
            wait, said = 0.0, ""
            for api, batch in tuple(under_way):
                try:
                    progress = await self._look(api, batch)
                    if progress is None or progress.ended:
                        under_way.remove((api, batch))
                    answered += 0 if progress is None or progress.ended else progress.answered
                    failures = 0
                except ApiError as error:
                    failures += 1
                    if not error.retryable or failures > _FAILURES:
                        raise
                    wait, said = max(wait, min(error.wait or 0.0, MINUTE)), f"; {error}"
            if under_way:
                calls = sum(batch.calls for _, batch in under_way)
                self._told(f"open batches: {len(under_way)}; {answered:,} of {calls:,} calls answered{said}")
                await asyncio.sleep(max(wait, *(api.interval for api, _ in under_way)))

    def check(self) -> None:
        """Raise TeacherError when the round brought nothing, so that another one would not either."""
        if not self._kept:
            raise TeacherError(
                f"{self._teacher.name} answered none of the calls of the last batches ({self._why()}): run the command "
                "again to try once more, or without --batch to make them one by one, at the full price"
            )

    async def _plan(self, text: str, repeat: int) -> Sequence[tuple[Api, Request]]:
        planned = await self._teacher.plan(text, repeat)
        if not planned or self._prepared:
            return planned
        self._prepared = True
        await self._teacher.prepare()  # what it finds out may change the calls
        return await self._teacher.plan(text, repeat)

    def _of(self, api: Api) -> BatchApi:
        for batches in self._apis:
            if batches.api is api:
                return batches
        raise TeacherError(f"{api.who} has no batch API: leave --batch out")

    async def _out_of_money(self, bundles: dict[tuple[int, str, object], _Bundle], submitted: int, usd: float) -> int:
        """Submit what the money reached for. Raises BudgetError where that is nothing, and nothing is under way."""
        if not submitted and not any(bundle.calls for bundle in bundles.values()):
            raise BudgetError(
                f"the next call of a batch may cost {usd:.4f} dollars, and {max(0.0, self._ledger.left):.4f} are left: "
                "raise --max-usd and run the command again; nothing is paid for twice"
            )
        return await self._submit_all(bundles)

    async def _submit_all(self, bundles: dict[tuple[int, str, object], _Bundle]) -> int:
        return sum([await self._submit(bundles.pop(kind)) for kind in tuple(bundles)])

    async def _submit(self, bundle: _Bundle) -> int:
        """Record a batch and submit it, again where that did not arrive. Gives how many calls it has."""
        if not bundle.calls:
            return 0
        api, count = bundle.api, len(bundle.calls)
        batch = Batch(bundle.id, api.place, self._teacher.version, count, time.time())
        with bundle.file as file:
            size = bundle.finish()
            await self._ledger.record(batch, bundle.calls)
            self._told(f"submitting a batch of {count} calls to {api.api.who}")
            attempts, waited = Attempts(_SUBMISSIONS), 0.0
            while True:
                file.seek(0)
                try:
                    with shaped(api.api.who):
                        vendor_id: str | None = await api.submit(batch.id, file, size)
                except ApiError as error:
                    vendor_id = await self._trace(api, batch) if error.retryable and error.status != 429 else None
                    if vendor_id is None:
                        if not error.retryable or attempts.used_up(error, waited):
                            await self._ledger.close(batch)
                            raise _advised(error) from error
                        waited += await self._left_alone(error)
                if vendor_id is not None:
                    await self._ledger.submitted(batch, vendor_id)
                    return count

    async def _left_alone(self, error: ApiError) -> float:
        """Wait as long as the server asked for, or a minute. Gives how many seconds that was."""
        wait = min(error.wait or 0.0, MINUTE)
        if wait:
            self._told(str(error))
            await asyncio.sleep(wait)
        return wait

    async def _known(self, api: BatchApi, batch: Batch) -> Batch | None:
        """A batch of the ledger with the vendor's id; None for one that was never submitted, and is dropped."""
        if batch.vendor_id is not None:
            return batch
        vendor_id = await self._trace(api, batch)
        if vendor_id is None:
            await self._ledger.close(batch)
            return None
        return await self._ledger.submitted(batch, vendor_id)

    async def _trace(self, api: BatchApi, batch: Batch) -> str | None:
        """The vendor's id of a batch whose submission was cut off; None where it did not arrive."""
        self._told(f"seeing whether a batch of {batch.calls} calls arrived at {api.api.who}")
        known = {other.vendor_id for other in self._ledger.open(api.place) if other.vendor_id is not None}
        for look in range(_LOOKS):
            if look:
                await asyncio.sleep(api.interval)
            async for attempt in persistent(_SUBMISSIONS):
                with attempt, shaped(api.api.who):
                    found = await api.find(batch.id, batch.calls, batch.time, known)
            if found is not None:
                return found
        return None

    async def _look(self, api: BatchApi, batch: Batch) -> Progress | None:
        """How far a batch is; one that has ended is settled. None for one that the vendor has forgotten."""
        vendor_id = batch.vendor_id or ""
        try:
            with shaped(api.api.who):
                progress = await api.look(vendor_id)
        except ApiError as error:
            if error.status != 404:
                raise
            if time.time() - batch.time < _KEPT_BY_VENDORS:
                raise TeacherError(
                    f"{api.api.who} knows nothing of batch {vendor_id}, whose calls may be paid for: use the key of "
                    "the account and the project that it was submitted with"
                ) from error
            await self._ledger.close(batch, charged=True)
            return None
        if progress.ended:
            await self._collect(api, batch, progress)
        return progress

    async def _collect(self, api: BatchApi, batch: Batch, progress: Progress) -> None:
        """Settle the calls of a batch that has ended, and close it.

        Raises TeacherError for what would go wrong in another batch too; what can be used is kept before.
        """
        final: dict[str, str] = {}
        answered = await self._read(api, batch, progress, final)
        if answered < progress.answered:
            raise ApiError(
                f"{api.api.who} gave {answered} of the {progress.answered} results of batch {batch.vendor_id}",
                retryable=True,
            )
        await self._ledger.close(batch)
        if progress.problem:
            self._problems[progress.problem] += 1
        if batch.version != self._teacher.version:
            return  # another configuration asked; what went wrong may not go wrong again
        if progress.final:
            raise TeacherError(
                f"batch {batch.vendor_id} of {api.api.who} {progress.problem}. What was answered is kept; run the "
                "command again to submit the rest"
            )
        if final:
            raise TeacherError(
                f"{len(final)} of the {batch.calls} calls of batch {batch.vendor_id} of {api.api.who} got no answer "
                f"that can be used ({_most(Counter(final.values()))}). The others are kept; correct the teacher and "
                "run the command again, or without --batch, which sees whether it is for the texts",
                text=await self._text(next(iter(final))),
            )

    async def _read(self, api: BatchApi, batch: Batch, progress: Progress, final: dict[str, str]) -> int:
        """Settle what was answered, and give how many calls that is. `final` gets, by key, what cannot be helped."""
        answered: set[str] = set()
        doubtful: dict[str, Result] = {}
        waiting: dict[str, Settled] = {}
        rows = 0
        async for row in api.rows(progress):
            if (rows := rows + 1) > _MOST_ROWS * batch.calls:
                raise ApiError(f"{api.api.who} gives results of batch {batch.vendor_id} without end")
            key = self._key(api, batch, row)
            if row.response is not None:
                answered.add(key)
            reserved = self._ledger.reserved(batch, key)
            if reserved is None or key in waiting or key in doubtful:  # settled before
                await self._rows.recognise(api, row, key)
                continue
            result = self._rows.read(api, row, key, reserved)
            if result.doubtful:
                doubtful[key] = result
            else:
                self._take(key, result, waiting, final)
            if len(waiting) >= _TOGETHER:
                await self._settle(batch, waiting)
        for key, result in self._rows.decide(api, doubtful.items(), len(answered - doubtful.keys())):
            self._take(key, result, waiting, final)
        await self._settle(batch, waiting)
        return len(answered)

    def _take(self, key: str, result: Result, waiting: dict[str, Settled], final: dict[str, str]) -> None:
        """Have a result settled, and its problem counted."""
        if result.problem:
            self._problems[result.problem] += 1
        if result.final:
            final[key] = result.problem
        if result.settles:
            # How long one call of a batch took is not known.
            paid = None if result.response is None else Paid(result.response, result.cost_usd, 0.0)
            waiting[key] = Settled(key, result.cost_usd, paid)

    async def _text(self, key: str) -> str | None:
        """The text that a call is for, where the teacher as it is now would make that call."""
        for text, repeat in self._questions:
            if any(api.key(request) == key for api, request in await self._teacher.plan(text, repeat)):
                return text
        return None

    def _key(self, api: BatchApi, batch: Batch, row: Row) -> str:
        """The key of a row's call. Raises ApiError for a row of another batch."""
        ours, _, key = row.custom_id.partition("-")
        if ours != batch.id:
            raise ApiError(f"{api.api.who} gave results of another batch for {batch.vendor_id}", retryable=True)
        return key

    async def _settle(self, batch: Batch, waiting: dict[str, Settled]) -> None:
        await self._ledger.settle(batch, tuple(waiting.values()))
        self._kept += sum(settled.paid is not None for settled in waiting.values())
        waiting.clear()

    def _why(self) -> str:
        return _most(self._problems) if self._problems else "no results were given"


def _most(problems: Counter[str]) -> str:
    """The commonest problems, with how often each was met."""
    return "; ".join(f"{count} × {problem}" for problem, count in problems.most_common(3))


def _advised(error: ApiError) -> TeacherError:
    """A submission's error, with what to do about a server that has no batches."""
    if error.status not in (404, 405, 501):
        return error
    return TeacherError(f"{error}; does this server have a batch API? If it has none, leave --batch out")
