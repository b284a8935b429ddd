"""What answers texts, as the routes know it, and what it needs of a graph. `Scheduler` is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from export.runtime import Encoded, Prediction

Leaving = Callable[[], Awaitable[None]]
"""Waits until the client has left."""

Staged = Callable[[str, float, float], None]
"""Is told of each stage, `queue` or `run`, with its begin and end as times of `time.monotonic()`."""


class Runs(Protocol):
    """A graph with its tokenizer; threads may share it. `export.runtime.Classifier` is one."""

    def encode(self, text: str) -> Encoded:
        """Tokenise a text."""

    def run(self, rows: Sequence[Encoded]) -> list[Prediction]:
        """Answer texts in one run, or raise."""


class Runner(Protocol):
    """Answers the texts of requests."""

    @property
    def alive(self) -> bool:
        """Whether it can go on answering."""

    def start(self) -> None:
        """Begin; requests come from the running event loop."""

    async def classify(
        self,
        texts: Sequence[str],
        *,
        deadline: float | None = None,
        leaving: Leaving | None = None,
        staged: Staged | None = None,
    ) -> list[Prediction]:
        """Answer all texts, in order, or none of them.

        `deadline` is a time of `time.monotonic()`; when `leaving` returns, the answer is not wanted any more. Raises
        OverloadedError when it cannot be had in time, DeadlineError when it was not, InferenceFailedError when a text
        cannot be answered, NotReadyError when the runner has ended, ClientDisconnect when the client left.
        """

    async def close(self) -> None:
        """End; requests still open fail."""
