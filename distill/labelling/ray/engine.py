"""The engine `ray`: Ray Data distributes the texts to workers of a cluster, and the driver stores their answers.

Once the driver, the process that runs the command, has ended, no worker can reserve money for a call.
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
from distill.labelling.account import StoredAccount
from distill.labelling.answer_store import AnswerStore
from distill.labelling.label import Progress
from distill.labelling.ray.mailbox import Broker, Mailbox
from distill.labelling.ray.quota import quota, runs_torch
from distill.labelling.ray.server import Server
from distill.labelling.ray.worker import RayWorker, WorkerSpec
from distill.progress import console
from distill.teachers import Teacher

ADDRESS = "RAY_ADDRESS"
LEVEL = "RAY_BACKEND_LOG_LEVEL"

_CONNECT_TIMEOUT = 10.0  # seconds
_OVERLAP = 2  # portions per worker at once, so that the last texts of one do not idle it
_ROUNDS = 8  # of a worker's concurrent calls per portion
_MOST_PORTIONS = 1000  # of a large pool, about


class RayEngine:
    """Asks the teacher that `config` describes with `workers` workers, whose calls are charged to `account`.

    A context manager. At the first text to ask about it connects to the cluster that RAY_ADDRESS names, or starts one
    on this machine. Raises DistillError if that fails.
    """

    def __init__(self, config: BaseModel, account: StoredAccount, workers: int) -> None:
        self.truncated = 0
        self._config = quota(config, workers)
        self._account = account
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
        self, teacher: Teacher, texts: Iterable[str], store: AnswerStore, progress: Progress, *, repeat: int = 0
    ) -> int:
        """Have the workers ask about every text that the store lacks, and return how many those were.

        When the teacher fails, or this is cancelled, the answers in flight are awaited and stored; a second
        cancellation drops them.
        """
        given = list(texts)
        new = [text for text in dict.fromkeys(given) if not store.has(teacher, text, repeat)]
        if len(new) < len(given):
            progress.known(len(given) - len(new))
        if not new:
            return 0
        if hasattr(teacher, "prepare"):  # once, instead of in every worker
            await teacher.prepare()
        self._connect()
        broker = ray.remote(Broker).options(num_cpus=0, scheduling_strategy=_this_node()).remote()
        mailbox = Mailbox(broker, f"server {uuid.uuid4().hex}")
        server = Server(teacher, store, self._account, mailbox.send, repeat=repeat, advance=progress.advance)
        spec = WorkerSpec(self._config, teacher.labels, teacher.name, teacher.version, broker, mailbox.box, repeat)
        done = _in_thread(lambda: self._distribute(new, teacher, spec, server))
        listening = asyncio.create_task(mailbox.listen(server.handle))
        try:
            await asyncio.wait([done, listening], return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            server.stop()
            await asyncio.wait([done, listening], return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            listening.cancel()
            await asyncio.shield(server.close())
            self.truncated += server.truncated
            ray.kill(broker)
        if server.failure is not None:
            raise server.failure
        if error := done.exception() if done.done() else listening.exception():
            raise DistillError(f"the Ray cluster failed: {_last_line(error)}") from error
        return server.asked

    def _connect(self) -> None:
        if ray.is_initialized():
            return
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if not os.environ.get(ADDRESS):
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no usage statistics about this machine
            cpus = max(os.cpu_count() or 1, self._workers)  # workers mostly wait for servers
            options |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        where = os.environ.get(ADDRESS) or "on this machine"
        try:
            _check_listening(where)
            with _quiet_ray():
                ray.init(**options)
        except Exception as error:
            raise DistillError(f"the Ray cluster {where} is not available: {_last_line(error)}") from error
        self._connected = True
        has = ray.cluster_resources()
        self._gpus = int(runs_torch(self._config) and has.get("GPU", 0) > 0)
        kind = "GPU" if self._gpus else "CPU"
        if has.get(kind, 0) < self._workers:
            console.print(
                f"the Ray cluster has {has.get(kind, 0):.0f} {kind}s for {self._workers} workers that take one "
                "each: the others start when there are more"
            )

    def _distribute(self, texts: list[str], teacher: Teacher, spec: WorkerSpec, server: Server) -> None:
        """Run the dataset to its end or, after a stop, until no worker is busy."""
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_no_progress_timeout_s = -1  # a limit per minute may slow a portion down
        size = _portion(len(texts), teacher.batch_size, math.ceil(teacher.concurrency / self._workers), self._workers)
        portions = [
            ray.put(pyarrow.table({"text": texts[start : start + size]})) for start in range(0, len(texts), size)
        ]
        answered = ray.data.from_arrow_refs(portions).map_batches(
            RayWorker,
            fn_constructor_args=(spec,),
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
            if server.idle:
                break


def _check_listening(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT: Ray itself would try for minutes and ignore Ctrl-C."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_TIMEOUT).close()


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """Keep Ray's messages out of the command's output, also after this context; they are in Ray's own log files.

    Ray's C++ part reads its level from the environment. It is set for this process alone, and only while Ray starts.
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
    """Return how many texts a worker gets at once: some rounds of its calls, fewer if the pool is small."""
    size = max(_ROUNDS * batch_size * concurrency, math.ceil(texts / _MOST_PORTIONS))
    return max(batch_size, min(size, math.ceil(texts / (workers * _OVERLAP))))


def _in_thread(work: Callable[[], None]) -> asyncio.Future[None]:
    """Run `work` in a daemon thread, and return a future for its end or its error."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def end(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        failure = None
        try:
            work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(end, failure)

    threading.Thread(target=run, name="ray data", daemon=True).start()
    return done


def _this_node() -> NodeAffinitySchedulingStrategy:
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)


def _last_line(error: BaseException) -> str:
    """Return the last line of an error, where Ray's stack trace names the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
