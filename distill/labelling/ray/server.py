"""The driver's server: answers the workers' requests to the store and the account, so that one process has both.

Ray does not tell the driver that a worker died. Its successor's first message does, or else the end of the run. What
the dead worker's calls in flight may have cost then counts as spent, and their texts are asked about again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill.errors import DistillError
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.label import AnswerWriter
from distill.teachers import Answer, Teacher, TeacherError
from distill.teachers.account import PaidResponse

MOST_DEATHS = 10
"""Workers that may die in a row before one of them delivers an answer."""


@dataclass(frozen=True, slots=True)
class Query:
    """A worker's message: the method `what` of the server, with its arguments.

    `worker` is new for each process, `place` stays the same when a worker dies and another takes its place.
    """

    place: str
    worker: str
    number: int
    what: str
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """The result of, or the error from, the query with this number; without a number it tells a worker to stop."""

    number: int | None = None
    result: Any = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Remote:
    """What the server knows of a worker: the portions it works on, its reservations, and the texts it truncated."""

    name: str
    portions: int = 0
    reserved: dict[int, float] = field(default_factory=dict)
    waiting: set[asyncio.Task[Any]] = field(default_factory=set)
    truncated: int = 0


class Server:
    """Serves the workers of one pool. `reply(worker, reply)` sends a reply, `advance(n)` counts n answered texts."""

    def __init__(
        self,
        teacher: Teacher,
        store: AnswerStore,
        account: StoredAccount,
        reply: Callable[[str, Reply], None],
        *,
        repeat: int = 0,
        advance: Callable[[int], None] = lambda count: None,
    ) -> None:
        self.asked = 0
        self.truncated = 0
        self.failure: Exception | None = None
        self._stopped = False
        self._teacher = teacher
        self._store = store
        self._account = account
        self._reply = reply
        self._repeat = repeat
        self._advance = advance
        self._writer = AnswerWriter(teacher, store, repeat)
        self._workers: dict[str, _Remote] = {}
        self._by_place: dict[str, _Remote] = {}
        self._deaths = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether the server was stopped and no worker has a portion. Any thread may read this."""
        return self._stopped and not any(worker.portions > 0 for worker in list(self._workers.values()))

    def handle(self, query: Query) -> None:
        """Serve a query in a task of its own, as one may wait for money that another releases."""
        worker = self._workers.get(query.worker) or self._join(query)
        task = self._begin(self._serve(worker, query))
        if query.what == "reserve":
            worker.waiting.add(task)
            task.add_done_callback(worker.waiting.discard)

    def stop(self) -> None:
        """Tell the workers to begin no further call; those in flight go on."""
        if not self._stopped:
            self._stopped = True
            for worker in self._workers.values():
                self._reply(worker.name, Reply())

    async def close(self) -> None:
        """Count what is still reserved as spent, and store the answers that were held back.

        Raises DistillError when the disk does not take the last answers.
        """
        for worker in self._workers.values():
            self._begin(self._write_off(worker))
        while self._tasks:
            await asyncio.wait(self._tasks)
        if self.failure is None:
            await self._writer.finish()

    def _join(self, query: Query) -> _Remote:
        """Register a worker at its first query. If its place was taken, the worker before it is dead."""
        worker = self._workers[query.worker] = _Remote(query.worker)
        before, self._by_place[query.place] = self._by_place.get(query.place), worker
        if before is not None:
            self._deaths += 1
            self._begin(self._write_off(before))
            if self._deaths >= MOST_DEATHS:
                self._fail(
                    DistillError(
                        f"{self._deaths} workers died one after the other without an answer, perhaps for lack of "
                        "memory; Ray's logs say why"
                    )
                )
        return worker

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)

    async def _serve(self, worker: _Remote, query: Query) -> None:
        serve: dict[str, Callable[..., Any]] = {
            "lacking": self._lacking,
            "done": self._done,
            "add": self._add,
            "failed": self._failed,
            "recall": lambda worker, key: self._account.recall(key),
            "reserve": self._reserve,
            "settle": self._settle,
        }
        try:
            reply = Reply(query.number, await serve[query.what](worker, *query.arguments))
        except (TeacherError, DistillError) as error:
            reply = Reply(query.number, error=error)
        self._reply(worker.name, reply)

    async def _lacking(self, worker: _Remote, texts: Sequence[str]) -> list[str]:
        """Begin a portion, and return its texts without an answer; a dead worker may have answered some of them."""
        worker.portions += 1
        if self._stopped:
            return []
        return [text for text in texts if not self._store.has(self._teacher, text, self._repeat)]

    async def _done(self, worker: _Remote, truncated: int) -> None:
        """End a portion; `truncated` is the worker's total so far."""
        worker.portions -= 1
        self.truncated += truncated - worker.truncated
        worker.truncated = truncated

    async def _add(self, worker: _Remote, texts: Sequence[str], answers: Sequence[Answer]) -> None:
        await self._writer.add(texts, answers)
        self.asked += len(texts)
        self._deaths = 0
        self._advance(len(texts))

    async def _failed(self, worker: _Remote, error: Exception) -> None:
        self._fail(error)

    async def _reserve(self, worker: _Remote, usd: float) -> int:
        reservation = await self._account.reserve(usd)
        worker.reserved[reservation] = usd
        return reservation

    async def _settle(
        self, worker: _Remote, reservation: int, cost_usd: float, key: str = "", paid: PaidResponse | None = None
    ) -> None:
        """Settle a reservation. One that was written off is spent already, but its response is still stored."""
        known = worker.reserved.pop(reservation, None) is not None
        await self._account.settle(reservation, cost_usd if known else 0.0, key, paid)

    async def _write_off(self, worker: _Remote) -> None:
        """Count a dead worker's reservations as spent, and cancel those that it still waits for."""
        for task in worker.waiting:
            task.cancel()
        worker.portions = 0
        lost, worker.reserved = worker.reserved, {}
        settled = (self._account.settle(*one) for one in lost.items())
        for outcome in await asyncio.gather(*settled, return_exceptions=True):
            if isinstance(outcome, Exception):  # the disk did not take it; the account counts it all the same
                raise outcome

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self.stop()
