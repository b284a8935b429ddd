"""What answers texts, as the routes know it, and what it needs of a graph. `Scheduler` is one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol

from export.bundle.classifier import Encoded, Prediction

Leaving = Callable[[], Awaitable[None]]
"""Waits until the client has left."""

Staged = Callable[[str, float, float], None]
"""Is told of each stage, `queue` or `run`, with its begin and end as times of `time.monotonic()`."""


Done = Callable[[list[Prediction] | Exception], None]
"""Gets the answers to all texts of a request, in order, or why there are none. It does not raise."""

Withdraw = Callable[[], None]
"""Tells that nobody waits for a request any more; after it was answered, that changes nothing."""


class Refusal(NamedTuple):
    """Why there is no answer for want of time or place, and the whole seconds after which to ask again."""

    message: str
    retry_after: int


class Runs(Protocol):
    """A graph with its tokenizer; threads may share it. `export.bundle.classifier.Classifier` is one."""

    packed: bool
    """Whether padding costs nothing."""

    def encode(self, text: str) -> Encoded:
        """Tokenise a text."""

    def run(self, rows: Sequence[Encoded]) -> list[Prediction]:
        """Answer texts in one run, or raise."""


class Runner(Protocol):
    """Answers the texts of requests."""

    @property
    def alive(self) -> bool:
        """Whether it can go on answering."""

    crowded: bool
    """Whether it refused a request a moment ago."""

    def start(self) -> None:
        """Begin; requests come from the running event loop."""

    def refusal(self, seconds: float | None = None) -> Refusal | None:
        """Why a request of which nothing is known yet gets no answer, before any work is done for it.

        None where a text of the usual length would be answered within so many seconds.
        """

    def submit(
        self,
        texts: Sequence[str],
        done: Done,
        *,
        deadline: float | None = None,
        leaving: Leaving | None = None,
        staged: Staged | None = None,
    ) -> Withdraw:
        """Take in texts, which are answered all, in order, or not at all. `done` is called later, once.

        `deadline` is a time of `time.monotonic()`; when `leaving` returns, the answer is not wanted any more. Raises
        OverloadedError when it cannot be had in time, NotReadyError when the runner has ended. `done` may get
        DeadlineError when there was no answer in time, InferenceFailedError when a text cannot be answered,
        ClientDisconnect when the client left, NotReadyError.
        """

    async def classify(
        self,
        texts: Sequence[str],
        *,
        deadline: float | None = None,
        leaving: Leaving | None = None,
        staged: Staged | None = None,
    ) -> list[Prediction]:
        """Answer texts as `submit` does, raising what it raises or gives to `done`."""

    async def close(self) -> None:
        """End; requests still open fail."""
