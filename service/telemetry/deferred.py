"""Work that nobody waits for, such as counting, done for several requests at once.

After a run of the graph the processor's caches hold the model, and whatever is done next is slow until they hold it
too. Done for each request alone, counting would take longer than parsing it.
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
_MOST = 32
"""So many requests' work is short beside a run."""


class Later(Collector):
    """What is to be done, in order. It belongs on the event loop.

    It is done once there is enough of it, after a tenth of a second, and before a registry that it was registered with
    is read: registered first, it is what brings the counts up to date.
    """

    def __init__(self) -> None:
        self._work: deque[Callable[[], object]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, work: Callable[[], object]) -> None:
        """Put work off. It does not raise."""
        self._work.append(work)
        if len(self._work) == _MOST:
            asyncio.get_running_loop().call_soon(self.flush)
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self._due)

    def flush(self) -> None:
        """Do all of it now."""
        while self._work:
            try:
                self._work.popleft()()
            except Exception:  # of one request: that of the others, and whoever reads the metrics, goes on
                logger.exception("deferred work failed")

    def collect(self) -> tuple[Metric, ...]:
        """Flush; there are no metrics of its own."""
        self.flush()
        return ()

    def _due(self) -> None:
        self._timer = None
        self.flush()
