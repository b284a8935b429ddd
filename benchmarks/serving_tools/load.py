"""The load generator: HTTP/1.1 keep-alive clients in one process on one core. It reads a plan and prints the results.

Closed loop: each client sends its next request when the last one is answered. Open loop: Poisson arrivals, whatever the
server does, and latencies counted from the intended time of sending. Timers have a resolution of a millisecond, and a
sleeping core takes a while to wake, which would count as the server's time. So the generator never sleeps, and needs a
core that nothing else uses.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

import numpy as np
import uvloop

from serving_tools.plan import OK, Load, Plan, latency, poisson, requests_of, share

BEAT_SECONDS = 0.02
LOST = 0  # used as status: the connection broke before the answer
FIRST_CONNECTIONS = 32
SECONDS_TO_ANSWER = 10.0  # after the last request; what is open then counts as unanswered
clock = time.perf_counter


class Client(asyncio.Protocol):
    """One connection with at most one request in flight."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.transport: asyncio.Transport | None = None
        self.heard = b""
        self.busy = False
        self.intended = self.sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Report the connection as free."""
        self.transport = cast(asyncio.Transport, transport)  # uvloop's transport has another base class
        self.run.free(self)

    def send(self, request: bytes, intended: float) -> None:
        """Send a request whose intended time of sending is `intended`."""
        assert self.transport is not None
        self.busy = True
        self.intended, self.sent = intended, clock()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Record an answer once it is complete."""
        if self.heard:
            data = self.heard + data
        status = status_of(data)
        if status is None:
            self.heard = data
            return
        self.heard = b""
        self.busy = False
        self.run.note(self, status)
        self.run.free(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the request in flight as failed."""
        self.run.drop(self)


def status_of(data: bytes) -> int | None:
    """Return the status of a response, None while it is incomplete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    at = head.find(b"content-length:")
    if at >= 0:
        whole = len(data) >= end + 4 + int(head[at + 15 :].split(b"\r\n", 1)[0])
    else:
        whole = data.endswith(b"0\r\n\r\n")
    return int(data[9:12]) if whole else None


class Run(ABC):
    """One run of a plan. The subclasses decide when a request is sent."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.requests = requests_of(plan)
        self.loop = asyncio.get_running_loop()
        self.clients: set[Client] = set()
        self.connecting = 0
        self.most = self.waited = 0
        self.ending = False
        self.intended: list[float] = []
        self.sent: list[float] = []
        self.done: list[float] = []
        self.status: list[int] = []
        self.broken: asyncio.Future[None] = self.loop.create_future()
        self.beat = clock()
        self.stalled = 0.0
        self.watch()

    def watch(self) -> None:
        """Record the longest time in which this process did not run."""
        last, self.beat = self.beat, clock()
        self.stalled = max(self.stalled, self.beat - last - BEAT_SECONDS)
        self.loop.call_later(BEAT_SECONDS, self.watch)

    @abstractmethod
    def free(self, client: Client) -> None:
        """Handle a connection without a request in flight."""

    def note(self, client: Client, status: int) -> None:
        """Record the status of a request and its times."""
        self.done.append(clock())
        self.intended.append(client.intended)
        self.sent.append(client.sent)
        self.status.append(status)

    def drop(self, client: Client) -> None:
        """Replace a lost connection while there is work."""
        self.clients.discard(client)
        if client.busy:
            client.busy = False
            self.note(client, LOST)
        if not self.ending:
            self.connect()

    def connect(self) -> None:
        """Open a connection; it calls `free` when it is up."""
        self.connecting += 1
        task = self.loop.create_task(self._connect())
        task.add_done_callback(self._check)

    async def _connect(self) -> None:
        while not self.ending:
            try:
                _, client = await self.loop.create_connection(lambda: Client(self), "127.0.0.1", self.plan.port)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            self.clients.add(client)
            self.most = max(self.most, len(self.clients))
            break
        self.connecting -= 1

    def _check(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) and not self.broken.done():
            self.broken.set_exception(error)

    async def settle(self, seconds: float) -> None:
        """Wait until every request is answered, at most `seconds`."""
        until = clock() + seconds
        while clock() < until and self.open_requests():
            await asyncio.sleep(0.01)

    def open_requests(self) -> list[float]:
        """Return the intended times of the unanswered requests."""
        return [client.intended for client in self.clients if client.busy]


class ClosedRun(Run):
    """A closed loop: as many requests in flight as there are clients."""

    async def run(self) -> Load:
        """Run the plan."""
        start = clock()
        begin, end = start + self.plan.warm_up, start + self.plan.warm_up + self.plan.seconds
        for _ in range(self.plan.clients):
            self.connect()
        self.spin()
        await asyncio.wait([self.broken], timeout=end - clock())
        self.ending = True
        await self.settle(SECONDS_TO_ANSWER)
        counted = np.array(self.done)
        return result(self, (counted >= begin) & (counted < end), self.open_requests(), 0)

    def spin(self) -> None:
        """Keep the event loop busy until the end."""
        if not self.ending:
            self.loop.call_soon(self.spin)

    def free(self, client: Client) -> None:
        """Send the next request on it."""
        if not self.ending:
            client.send(next(self.requests), clock())


class OpenRun(Run):
    """An open loop: requests at the times of a Poisson process, on a pool of connections that grows up to a bound."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.idle: list[Client] = []
        self.waiting: deque[tuple[bytes, float]] = deque()

    async def run(self) -> Load:
        """Run the plan."""
        for _ in range(FIRST_CONNECTIONS):
            self.connect()
        until = clock() + SECONDS_TO_ANSWER
        while self.connecting and clock() < until:
            await asyncio.sleep(0.01)
        span = self.plan.warm_up + self.plan.seconds
        start = clock()
        arrivals = (start + poisson(self.plan.rate, span, self.plan.seed)).tolist()
        await self.send_all(arrivals)
        await self.settle(SECONDS_TO_ANSWER)
        self.ending = True
        begin, end = start + self.plan.warm_up, start + span
        counted = np.array(self.intended)
        unanswered = [one for one in self.open_requests() if begin <= one < end]
        offered = sum(1 for one in arrivals if begin <= one < end)
        return result(self, (counted >= begin) & (counted < end), unanswered, offered)

    async def send_all(self, arrivals: Sequence[float]) -> None:
        """Send each request at its intended time."""
        sent = 0
        over: asyncio.Future[None] = self.loop.create_future()

        def tick() -> None:
            nonlocal sent
            now = clock()
            while sent < len(arrivals) and arrivals[sent] <= now:
                self.dispatch(next(self.requests), arrivals[sent])
                sent += 1
            if sent < len(arrivals):
                self.loop.call_soon(tick)
            else:
                over.set_result(None)

        self.loop.call_soon(tick)
        await asyncio.wait([over, self.broken], return_when=asyncio.FIRST_COMPLETED)

    def dispatch(self, request: bytes, intended: float) -> None:
        """Send a request, or queue it until a connection is free."""
        while self.idle:
            client = self.idle.pop()
            if client in self.clients:
                client.send(request, intended)
                return
        self.waiting.append((request, intended))
        if len(self.clients) + self.connecting < self.plan.most_connections:
            self.connect()
        else:
            self.waited += 1

    def free(self, client: Client) -> None:
        """Send the request that has waited longest, if there is one."""
        if self.waiting:
            client.send(*self.waiting.popleft())
        else:
            self.idle.append(client)

    def drop(self, client: Client) -> None:
        """Replace a lost connection only if a request waits for one."""
        self.clients.discard(client)
        if client.busy:
            client.busy = False
            self.note(client, LOST)
        if self.waiting and not self.ending:
            self.connect()

    def open_requests(self) -> list[float]:
        """Return the intended times of the unanswered requests, including those never sent."""
        return super().open_requests() + [intended for _, intended in self.waiting]


def result(run: Run, counted: np.ndarray[tuple[int], np.dtype[np.bool_]], open_: Sequence[float], offered: int) -> Load:
    """Summarise the counted requests and those still open."""
    intended, sent = np.array(run.intended)[counted], np.array(run.sent)[counted]
    done, status = np.array(run.done)[counted], np.array(run.status, dtype=int)[counted]
    waits = (done - intended) * 1000
    good = status == OK
    now = clock()
    in_open_loop = [(now - one) * 1000 for one in open_ if run.plan.rate]
    seconds, deadline = run.plan.seconds, run.plan.deadline_ms
    return Load(
        seconds=seconds,
        offered=offered / seconds,
        throughput=int(good.sum()) / seconds,
        latency=latency([*waits[good], *in_open_loop]),
        statuses={str(code): count for code, count in sorted(Counter(status.tolist()).items())},
        others={str(code): latency(waits[status == code]) for code in sorted(set(status.tolist()) - {OK})},
        unanswered=len(open_),
        connections=run.most,
        waited=run.waited,
        late_p99=float(np.quantile((sent - intended) * 1000, 0.99)) if len(sent) else float("nan"),
        stalled_ms=1000 * run.stalled,
        within=share(waits[good] <= deadline) if deadline else float("nan"),
        within_sent=share((done - sent)[good] * 1000 <= deadline) if deadline else float("nan"),
    )


async def generate(plan: Plan) -> Load:
    """Run a plan."""
    run = ClosedRun(plan) if plan.clients else OpenRun(plan)
    load = await run.run()
    if run.broken.done():
        run.broken.result()
    for client in list(run.clients):
        if client.transport is not None:
            client.transport.abort()
    return load


def main() -> None:
    """Read a plan, run it on its core, and print the load as JSON."""
    plan = Plan(**json.load(sys.stdin))
    os.sched_setaffinity(0, {plan.core})
    gc.disable()  # garbage collection would count as the server's latency
    print(json.dumps(asdict(uvloop.run(generate(plan)))))


if __name__ == "__main__":
    main()
