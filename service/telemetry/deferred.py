"""Deferred bookkeeping: the metrics of several requests are updated in one batch.

After a run of the graph the processor's caches hold the model, so that the first work after it is slow. Done for each
request alone, counting would take longer than parsing the request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import structlog
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

logger = structlog.get_logger(__name__)

_SECONDS = 0.1
_BATCH = 32
"""This many pieces of work take less time than a run."""


class Deferred(Collector):
    """A list of pieces of work, done in order, on the event loop.

    They are done when there are enough of them, after a tenth of a second, and before a registry is read in which this
    is the first collector.
    """

    def __init__(self) -> None:
        self._work: deque[Callable[[], object]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, work: Callable[[], object]) -> None:
        """Defer `work`. It does not raise."""
        self._work.append(work)
        if len(self._work) == _BATCH:
            asyncio.get_running_loop().call_soon(self.flush)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._flush_in_time)

    def flush(self) -> None:
        """Do all of the work now."""
        while self._work:
            try:
                self._work.popleft()()
            except Exception:  # a fault in the bookkeeping of one request must not stop that of the others
                logger.exception("deferred work failed")

    def collect(self) -> tuple[Metric, ...]:
        """Flush; there are no metrics of its own."""
        self.flush()
        return ()

    def _flush_in_time(self) -> None:
        self._timer = None
        self.flush()
