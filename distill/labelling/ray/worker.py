"""A worker of a Ray cluster: asks the teacher on the driver's account, and has the driver store each answer.

It stores nothing itself, so a worker that dies loses its calls in flight and no more.
"""

from __future__ import annotations

import asyncio
import traceback
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import pyarrow
import ray
from pydantic import BaseModel

from distill import teachers
from distill.errors import DistillError
from distill.labelling.ray.mailbox import Mailbox
from distill.labelling.ray.server import Query, Reply
from distill.teachers import Answer, Teacher, TeacherError
from distill.teachers.account import BudgetError, PaidResponse


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What every worker needs: the teacher's configuration and labels, and the driver's address.

    `name` and `version` are those of the driver's teacher, `broker` is the actor that carries messages, `server` the
    box of the driver's server, and `repeat` which draw of the answers to ask for.
    """

    config: BaseModel
    labels: tuple[str, ...]
    name: str
    version: str
    broker: Any
    server: str
    repeat: int


class RayWorker:
    """The class that Ray Data runs in each of its actors. Calls run in one event loop and may overlap."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec = spec
        self._client: _ServerClient | None = None
        self._teacher: Teacher | None = None
        self._slots = asyncio.Semaphore(0)
        self._stopped = False

    async def __call__(self, portion: pyarrow.Table) -> AsyncIterator[dict[str, list[int]]]:
        """Ask about the texts of a portion that have no answer yet, and send the answers to the driver."""
        if self._client is None:
            self._client = _ServerClient(self._spec, self._stop)
        texts = await self._client.ask("lacking", portion["text"].to_pylist())
        if texts and not self._stopped:
            await self._label(self._client, texts)
        await self._client.ask("done", getattr(self._teacher, "truncated", 0))
        yield {"texts": [len(texts)]}

    async def _label(self, client: _ServerClient, texts: list[str]) -> None:
        try:
            teacher = self._teacher = self._teacher or self._create(client)
        except Exception as error:
            return await self._fail(client, error)
        texts.sort(key=len, reverse=True)
        batches = [texts[start : start + teacher.batch_size] for start in range(0, len(texts), teacher.batch_size)]
        await asyncio.gather(*(self._ask(teacher, client, batch) for batch in batches))

    def _create(self, client: _ServerClient) -> Teacher:
        """Create the teacher. Raises TeacherError if that fails here, or if its version is not the driver's."""
        spec = self._spec
        teacher = teachers.create(spec.config, spec.labels, client)
        if (teacher.name, teacher.version) != (spec.name, spec.version):
            raise TeacherError(
                f"a worker's {teacher.name} is of another version than the driver's {spec.name}: have the same reflux "
                "and the same files on every node"
            )
        self._slots = asyncio.Semaphore(teacher.concurrency)
        return teacher

    async def _ask(self, teacher: Teacher, client: _ServerClient, texts: Sequence[str]) -> None:
        """Ask about a batch when a slot is free, unless stopped by then, and have the answers stored."""
        async with self._slots:
            if self._stopped:
                return
            try:
                answers: Sequence[Answer] = await teacher.ask(texts, self._spec.repeat)
                await client.ask("add", texts, answers)
            except Exception as error:
                await self._fail(client, error)

    async def _fail(self, client: _ServerClient, error: Exception) -> None:
        self._stop()
        await client.ask("failed", _picklable(error))

    def _stop(self) -> None:
        self._stopped = True
        getattr(self._teacher, "stop", lambda: None)()


class _ServerClient:
    """Queries to the driver's server, which is also the teacher's account here. Raises the errors of the replies.

    `stop` is called when the server tells the worker to stop.
    """

    def __init__(self, spec: WorkerSpec, stop: Callable[[], None]) -> None:
        self._name = uuid.uuid4().hex
        self._place = ray.get_runtime_context().get_actor_id() or self._name
        self._server = spec.server
        self._mailbox = Mailbox(spec.broker, self._name)
        self._stop = stop
        self._numbers: Iterator[int] = count(1)
        self._replies: dict[int, asyncio.Future[Any]] = {}
        self._listening = asyncio.create_task(self._mailbox.listen(self._handle))

    async def ask(self, what: str, *arguments: Any) -> Any:
        """Send a query and return the result in its reply."""
        number = next(self._numbers)
        replied: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._replies[number] = replied
        self._mailbox.send(self._server, Query(self._place, self._name, number, what, arguments))
        return await replied

    async def recall(self, key: str) -> PaidResponse | None:
        """Return the paid response with this key, or None."""
        paid: PaidResponse | None = await self.ask("recall", key)
        return paid

    async def reserve(self, usd: float) -> int:
        """Reserve money for one call. Raises BudgetError and DistillError as the driver's account does."""
        reservation: int = await self.ask("reserve", usd)
        return reservation

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: PaidResponse | None = None) -> None:
        """Replace a reservation by the actual cost, and have the response stored before anything uses it."""
        await self.ask("settle", reservation, cost_usd, key, paid)

    def _handle(self, reply: Reply) -> None:
        if reply.number is None:
            self._stop()
        elif (replied := self._replies.pop(reply.number, None)) is not None and not replied.done():
            if reply.error is None:
                replied.set_result(reply.result)
            else:
                replied.set_exception(reply.error)


def _picklable(error: Exception) -> Exception:
    """Return an error that pickle can restore: one of ours with its message alone, or any other's stack trace.

    Pickle cannot restore an exception whose constructor needs more than a message.
    """
    for kind in (BudgetError, TeacherError, DistillError):
        if isinstance(error, kind):
            plain = kind(str(error))
            if isinstance(error, TeacherError) and isinstance(plain, TeacherError):
                plain.text = error.text
            return plain
    return RuntimeError("".join(traceback.format_exception(error)))
