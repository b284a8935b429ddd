"""A worker of a Ray cluster: asks the teacher, on the driver's account, and has each answer stored before the next.

It keeps nothing itself, so that one that dies loses the calls in flight and no more.
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
from distill.labelling.ray.server import Question, Reply
from distill.teachers import Answer, Teacher, TeacherError
from distill.teachers.account import BudgetError, Paid


@dataclass(frozen=True, slots=True)
class Order:
    """What every worker is told: whom to ask, on whose account, and as which draw.

    `name` and `version` are the driver's teacher's, and `desk` the box of the driver at the post.
    """

    config: BaseModel
    labels: tuple[str, ...]
    name: str
    version: str
    post: Any
    desk: str
    repeat: int


class Worker:
    """What Ray Data has in each of its actors. Calls run in one event loop, and may overlap."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._line: _Line | None = None
        self._teacher: Teacher | None = None
        self._slots = asyncio.Semaphore(0)
        self._stopped = False

    async def __call__(self, portion: pyarrow.Table) -> AsyncIterator[dict[str, list[int]]]:
        """Ask for those texts of a portion that have no answer yet; what comes of it goes to the driver's desk."""
        if self._line is None:
            self._line = _Line(self._order, self._stop)
        texts = await self._line.ask("lacking", portion["text"].to_pylist())
        if texts and not self._stopped:
            await self._label(self._line, texts)
        await self._line.ask("done", getattr(self._teacher, "truncated", 0))
        yield {"texts": [len(texts)]}

    async def _label(self, line: _Line, texts: list[str]) -> None:
        try:
            teacher = self._teacher = self._teacher or self._create(line)
        except Exception as error:
            return await self._fail(line, error)
        texts.sort(key=len, reverse=True)
        batches = [texts[start : start + teacher.batch_size] for start in range(0, len(texts), teacher.batch_size)]
        await asyncio.gather(*(self._ask(teacher, line, batch) for batch in batches))

    def _create(self, line: _Line) -> Teacher:
        """The teacher. Raises TeacherError where it cannot be had here, or is another one than the driver's."""
        order = self._order
        teacher = teachers.create(order.config, order.labels, line)
        if (teacher.name, teacher.version) != (order.name, order.version):
            raise TeacherError(
                f"a worker's {teacher.name} is of another version than the driver's {order.name}: have the same reflux "
                "and the same files on every node"
            )
        self._slots = asyncio.Semaphore(teacher.concurrency)
        return teacher

    async def _ask(self, teacher: Teacher, line: _Line, texts: Sequence[str]) -> None:
        """Ask once it is this batch's turn, unless the work was stopped, and have the answers stored."""
        async with self._slots:
            if self._stopped:
                return
            try:
                answers: Sequence[Answer] = await teacher.ask(texts, self._order.repeat)
                await line.ask("keep", texts, answers)
            except Exception as error:
                await self._fail(line, error)

    async def _fail(self, line: _Line, error: Exception) -> None:
        self._stop()
        await line.ask("failed", _plain(error))

    def _stop(self) -> None:
        self._stopped = True
        getattr(self._teacher, "stop", lambda: None)()


class _Line:
    """The worker's line to the driver's desk, which is its account, too. `stop` is called when no more is to be asked.

    What the desk raises is raised here.
    """

    def __init__(self, order: Order, stop: Callable[[], None]) -> None:
        self._me = uuid.uuid4().hex
        self._place = ray.get_runtime_context().get_actor_id() or self._me
        self._desk = order.desk
        self._mail = Mailbox(order.post, self._me)
        self._stop = stop
        self._numbers: Iterator[int] = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._listening = asyncio.create_task(self._mail.listen(self._hear))

    async def ask(self, what: str, *arguments: Any) -> Any:
        """What the desk replies."""
        number = next(self._numbers)
        replied: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = replied
        self._mail.send(self._desk, Question(self._place, self._me, number, what, arguments))
        return await replied

    async def recall(self, key: str) -> Paid | None:
        """The response that was paid for under this key, if one was."""
        paid: Paid | None = await self.ask("recall", key)
        return paid

    async def reserve(self, usd: float) -> int:
        """Set money apart for one call. Raises BudgetError and DistillError as the driver's account does."""
        reservation: int = await self.ask("reserve", usd)
        return reservation

    async def settle(self, reservation: int, cost_usd: float, key: str = "", paid: Paid | None = None) -> None:
        """End a reservation at what was spent, and keep the response before anyone uses it."""
        await self.ask("settle", reservation, cost_usd, key, paid)

    def _hear(self, reply: Reply) -> None:
        if reply.number is None:
            self._stop()
        elif (replied := self._asked.pop(reply.number, None)) is not None and not replied.done():
            if reply.error is None:
                replied.set_result(reply.result)
            else:
                replied.set_exception(reply.error)


def _plain(error: Exception) -> Exception:
    """An error that pickle can take, for the driver to raise: ours with its message, or what went wrong with its trace.

    An error of a kind of ours that needs more than a message would not come to be again.
    """
    for kind in (BudgetError, TeacherError, DistillError):
        if isinstance(error, kind):
            plain = kind(str(error))
            if isinstance(error, TeacherError) and isinstance(plain, TeacherError):
                plain.text = error.text
            return plain
    return RuntimeError("".join(traceback.format_exception(error)))
