"""The engine `ray`: Ray Data hands the texts out to workers of a cluster, and the driver stores what they send.

The driver is the process that runs the command; when it is gone no worker gets money for a call any more.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import threading
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import pyarrow
import ray
import ray.data
from pydantic import BaseModel
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from distill.errors import DistillError
from distill.labelling.account import Cashbook
from distill.labelling.label import AnswerStore
from distill.labelling.ray.mailbox import Mailbox, Post
from distill.labelling.ray.quota import computes, share
from distill.labelling.ray.server import Desk
from distill.labelling.ray.worker import Order, Worker
from distill.progress import console
from distill.teachers import Teacher

ADDRESS = "RAY_ADDRESS"
LEVEL = "RAY_BACKEND_LOG_LEVEL"

_PATIENCE = 10.0  # seconds for an address to answer
_OVERLAP = 2  # portions that a worker is at, so that the last texts of one do not hold it up
_ROUNDS = 8  # how often a worker's calls at once go into a portion
_PORTIONS = 1000  # of a large pool


class RayEngine:
    """Asks teachers of one configuration, with `book` as the account of all workers. Entered while it is used.

    Connects to the cluster that RAY_ADDRESS names, else to one that it starts on this machine, when there is something
    to ask. Raises DistillError where that fails.
    """

    def __init__(self, config: BaseModel, book: Cashbook, workers: int) -> None:
        self.truncated = 0
        self._config = share(config, workers)
        self._book = book
        self._workers = workers
        self._gpus = 0
        self._connected = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._connected:
            ray.shutdown()

    async def __call__(
        self,
        teacher: Teacher,
        texts: Iterable[str],
        store: AnswerStore,
        *,
        repeat: int = 0,
        advance: Callable[[int], None] = lambda count: None,
        known: Callable[[int], None] | None = None,
    ) -> int:
        """Have every text asked for that the store lacks, and give how many those were.

        When the teacher fails, or this is cancelled, the answers in flight are waited for and stored; cancelled once
        more, they are given up.
        """
        given = list(texts)
        new = [text for text in dict.fromkeys(given) if not store.has(teacher, text, repeat)]
        if len(new) < len(given):
            (known or advance)(len(given) - len(new))
        if not new:
            return 0
        if hasattr(teacher, "prepare"):  # once, and not by every worker
            await teacher.prepare()
        self._connect()
        post = ray.remote(Post).options(num_cpus=0, scheduling_strategy=_this_node()).remote()
        mailbox = Mailbox(post, f"desk of {uuid.uuid4().hex}")
        desk = Desk(teacher, store, self._book, mailbox.send, repeat=repeat, advance=advance)
        order = Order(self._config, teacher.labels, teacher.name, teacher.version, post, mailbox.box, repeat)
        over = _in_thread(lambda: self._hand_out(new, teacher, order, desk))
        listening = asyncio.create_task(mailbox.listen(desk.hear))
        try:
            await asyncio.wait([over, listening], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            desk.stop()
            await asyncio.wait([over, listening], return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            listening.cancel()
            await asyncio.shield(desk.close())
            self.truncated += desk.truncated
            ray.kill(post)
        if desk.failure is not None:
            raise desk.failure
        if error := over.exception() if over.done() else listening.exception():
            raise DistillError(f"the Ray cluster could not go on: {_last_line(error)}") from error
        return desk.asked

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if not os.environ.get(ADDRESS):
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of this machine
            cpus = max(os.cpu_count() or 1, self._workers)  # workers wait for servers most of the time
            options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        where = os.environ.get(ADDRESS) or "on this machine"
        try:
            _knock(where)
            with _hushed():
                ray.init(**options)
        except Exception as error:
            raise DistillError(f"the Ray cluster {where} cannot be had: {_last_line(error)}") from error
        self._connected = True
        has = ray.cluster_resources()
        self._gpus = int(computes(self._config) and has.get("GPU", 0) > 0)
        kind = "GPU" if self._gpus else "CPU"
        if has.get(kind, 0) < self._workers:
            console.print(
                f"the Ray cluster has {has.get(kind, 0):.0f} {kind}s for {self._workers} workers, of which each takes "
                "one: the others start when there are more"
            )

    def _hand_out(self, texts: list[str], teacher: Teacher, order: Order, desk: Desk) -> None:
        """Run the dataset to its end, or until nobody is at work any more after that was stopped."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a limit per minute may make a portion take its time
        size = _portion(len(texts), teacher.batch_size, math.ceil(teacher.concurrency / self._workers), self._workers)
        portions = [
            ray.put(pyarrow.table({"text": texts[start : start + size]})) for start in range(0, len(texts), size)
        ]
        answered = ray.data.from_arrow_refs(portions).map_batches(
            Worker,
            fn_constructor_args=(order,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=min(self._workers, len(portions)),
                max_tasks_in_flight_per_actor=_OVERLAP,
                max_concurrent_calls_per_actor=_OVERLAP,
            ),
            num_gpus=self._gpus,
        )
        for _ in answered.iter_batches(batch_size=None):
            if desk.quiet:
                break


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at HOST:PORT, as Ray would try for minutes, and hear no Ctrl-C."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep what Ray says of itself, here and from here on, out of the command's output; Ray's own files have it.

    Its part in C++ takes a level from the environment, which other processes of Ray do not need, and says so.
    """
    warnings.filterwarnings("ignore", module=r"ray\.")
    logger = logging.getLogger("ray.data")
    for handler in [one for one in logger.handlers if one.get_name() == "console"]:
        logger.removeHandler(handler)
    if LEVEL in os.environ:
        yield
        return
    stderr = os.dup(2)
    os.putenv(LEVEL, "fatal")
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.unsetenv(LEVEL)
        os.dup2(stderr, 2)
        os.close(stderr)


def _portion(texts: int, batch_size: int, concurrency: int, workers: int) -> int:
    """How many texts a worker gets at once: some rounds of its calls, and less where the pool is small."""
    size = max(_ROUNDS * batch_size * concurrency, math.ceil(texts / _PORTIONS))
    return max(batch_size, min(size, math.ceil(texts / (workers * _OVERLAP))))


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """What comes of `work` in a thread that nobody waits for when the program ends."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if not over.done():
            over.set_result(None) if error is None else over.set_exception(error)

    def run() -> None:
        failure = None
        try:
            work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell, failure)

    threading.Thread(target=run, name="ray data", daemon=True).start()
    return over


def _this_node() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _last_line(error: BaseException) -> str:
    """What went wrong, out of Ray's trace of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
