"""The driver's desk: serves what workers ask of the store of answers and of the account, so that one process has both.

A worker that dies is not heard of any more. The next one in its place says so, and the end of the run at the latest:
what its calls in flight might have cost is then spent, and what they brought is asked for again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from distill.errors import DistillError
from distill.labelling.account import Cashbook
from distill.labelling.label import AnswerStore, Keeper
from distill.teachers import Answer, Teacher, TeacherError
from distill.teachers.account import Paid

MOST_DEATHS = 10
"""Workers that may die one after the other while none of them gives an answer."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a worker asks. `place` is the same for a worker and who comes after it when it dies, `worker` is not."""

    place: str
    worker: str
    number: int
    what: str
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of the question of this number; one without a number says that nothing more is to be asked."""

    number: int | None = None
    result: Any = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class _Worker:
    """One that is heard of: the portions it is at, what its calls may cost, and the texts that it cut."""

    name: str
    portions: int = 0
    reserved: dict[int, float] = field(default_factory=dict)
    waiting: set[asyncio.Task[Any]] = field(default_factory=set)
    truncated: int = 0


class Desk:
    """Serves the questions about one pool. `reply` sends a reply to a worker, `advance` is told of texts answered."""

    def __init__(
        self,
        teacher: Teacher,
        store: AnswerStore,
        book: Cashbook,
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
        self._book = book
        self._reply = reply
        self._repeat = repeat
        self._advance = advance
        self._keeper = Keeper(teacher, store, repeat)
        self._workers: dict[str, _Worker] = {}
        self._at: dict[str, _Worker] = {}
        self._deaths = 0
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def quiet(self) -> bool:
        """Whether nothing more is to be asked, and nobody is at it. Any thread may look."""
        return self._stopped and not any(worker.portions > 0 for worker in list(self._workers.values()))

    def hear(self, question: Question) -> None:
        """Serve a question. Each is served by itself, as some wait for money that others bring."""
        worker = self._workers.get(question.worker) or self._join(question)
        task = self._begin(self._serve(worker, question))
        if question.what == "reserve":
            worker.waiting.add(task)
            task.add_done_callback(worker.waiting.discard)

    def stop(self) -> None:
        """Have nothing more asked; what is in flight is waited for."""
        if not self._stopped:
            self._stopped = True
            for worker in self._workers.values():
                self._reply(worker.name, Reply())

    async def close(self) -> None:
        """Count as spent what the calls of workers that are not heard of any more might have cost.

        Raises DistillError when the disk does not take the last answers.
        """
        for worker in self._workers.values():
            self._begin(self._bury(worker))
        while self._serving:
            await asyncio.wait(self._serving)
        if self.failure is None:
            await self._keeper.finish()

    def _join(self, question: Question) -> _Worker:
        """A worker is heard of for the first time. Where there was one in its place, that one is dead."""
        worker = self._workers[question.worker] = _Worker(question.worker)
        before, self._at[question.place] = self._at.get(question.place), worker
        if before is not None:
            self._deaths += 1
            self._begin(self._bury(before))
            self._complain()
        return worker

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._serving.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._serving.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._fail(error)

    async def _serve(self, worker: _Worker, question: Question) -> None:
        serve: dict[str, Callable[..., Any]] = {
            "lacking": self._lacking,
            "done": self._done,
            "keep": self._keep,
            "failed": self._failed,
            "recall": self._recall,
            "reserve": self._reserve,
            "settle": self._settle,
        }
        try:
            reply = Reply(question.number, await serve[question.what](worker, *question.arguments))
        except (TeacherError, DistillError) as error:
            reply = Reply(question.number, error=error)
        self._reply(worker.name, reply)

    async def _lacking(self, worker: _Worker, texts: Sequence[str]) -> list[str]:
        """A portion is begun: those of its texts that have no answer yet, which are fewer when it is begun anew."""
        worker.portions += 1
        if self._stopped:
            return []
        return [text for text in texts if not self._store.has(self._teacher, text, self._repeat)]

    async def _done(self, worker: _Worker, truncated: int) -> None:
        """A portion is over."""
        worker.portions -= 1
        self.truncated += truncated - worker.truncated
        worker.truncated = truncated

    async def _keep(self, worker: _Worker, texts: Sequence[str], answers: Sequence[Answer]) -> None:
        await self._keeper.keep(texts, answers)
        self.asked += len(texts)
        self._deaths = 0
        self._advance(len(texts))

    async def _failed(self, worker: _Worker, error: Exception) -> None:
        self._fail(error)

    async def _recall(self, worker: _Worker, key: str) -> Paid | None:
        return await self._book.recall(key)

    async def _reserve(self, worker: _Worker, usd: float) -> int:
        reservation = await self._book.reserve(usd)
        worker.reserved[reservation] = usd
        return reservation

    async def _settle(
        self, worker: _Worker, reservation: int, cost_usd: float, key: str = "", paid: Paid | None = None
    ) -> None:
        """End a reservation. One that was given up for lost is spent already; what it brought is kept all the same."""
        known = worker.reserved.pop(reservation, None) is not None
        await self._book.settle(reservation, cost_usd if known else 0.0, key, paid)

    async def _bury(self, worker: _Worker) -> None:
        """Nobody waits for this worker's money any more, and what it had set apart is spent."""
        for task in worker.waiting:
            task.cancel()
        worker.portions = 0
        lost, worker.reserved = worker.reserved, {}
        for outcome in await asyncio.gather(*(self._book.settle(*one) for one in lost.items()), return_exceptions=True):
            if isinstance(outcome, Exception):  # the disk did not take it; the account counts it all the same
                raise outcome

    def _complain(self) -> None:
        if self._deaths >= MOST_DEATHS:
            self._fail(
                DistillError(
                    f"{self._deaths} workers died one after the other without an answer, such as for want of memory; "
                    "Ray's logs say why"
                )
            )

    def _fail(self, error: Exception) -> None:
        self.failure = self.failure or error
        self.stop()
