"""Notice overload, and let a thread run the graph in the event loop's place while it lasts.

A refusal is of use only at once, and on the event loop it would wait for the current run. The thread has a low
priority, so that the event loop interrupts it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

_CALM_SECONDS = 1.0
"""The overload is over this long after the last refusal."""

_LONG_RUN_SECONDS = 0.002
"""A longer run on the event loop is too long for a refusal to wait for."""

_PAUSE_SECONDS = 0.002
"""How long the event loop leaves the core to the thread, in each turn, before it refuses what has arrived.

Each time it wakes, it finds the caches full of the model; a pause lets several requests share that cost.
"""


class Overload:
    """Whether requests are being refused. All methods belong on the event loop.

    `hand_over(True)` is called when a thread should run the graph, `hand_over(False)` when the event loop should again;
    None where threads run it anyway. `run_seconds` predicts the duration of a full run.
    """

    def __init__(self, hand_over: Callable[[bool], None] | None, run_seconds: Callable[[], float]) -> None:
        self.crowded = False
        """Whether a request was refused a moment ago."""

        self._hand_over = hand_over
        self._run_seconds = run_seconds
        self._last_refusal = -math.inf
        self._handed_over = self._pausing = False

    def note_refusal(self) -> None:
        """Note that a request is refused now."""
        self._last_refusal = time.monotonic()
        if self.crowded:
            return
        self.crowded = True
        loop = asyncio.get_running_loop()
        loop.call_later(_CALM_SECONDS, self._end_if_calm)
        if self._hand_over is not None and self._run_seconds() > _LONG_RUN_SECONDS:
            self._handed_over = True
            self._hand_over(True)
            if not self._pausing:
                self._pausing = True
                loop.call_soon(self._pause)

    def close(self) -> None:
        """Forget `hand_over`, whose owner holds this object: a cycle would keep a classifier until it is collected."""
        self._hand_over = None
        self._handed_over = False

    def _pause(self) -> None:
        """Pause in every turn of the event loop for as long as the thread runs the graph."""
        self._pausing = self._handed_over
        if self._pausing:
            time.sleep(_PAUSE_SECONDS)
            asyncio.get_running_loop().call_soon(self._pause)

    def _end_if_calm(self) -> None:
        """End the overload once nothing has been refused for a while."""
        left = self._last_refusal + _CALM_SECONDS - time.monotonic()
        if left > 0:
            asyncio.get_running_loop().call_later(left, self._end_if_calm)
            return
        self.crowded = False
        if self._hand_over is not None and self._handed_over:
            self._handed_over = False
            self._hand_over(False)
